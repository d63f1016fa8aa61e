"""Virtual environments, each with an older MLflow and no more than its server needs.

``mlflow-skinny`` holds the whole server; what it leaves out are the packages listed here. That
takes a third of the time and space of ``mlflow`` with its data-science stack.

Environments are kept from run to run, below the directory that the environment variable
``COMPAT_ENVIRONMENTS`` names, or else in the user's cache directory. The name of each tells its
contents, so that a change of `REQUIREMENTS` makes a new one; a file written last marks a complete
one, so that one whose making was interrupted is made anew.

``python -m tests.compat.environments`` makes them all, two at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

# Flask, SQLAlchemy and gunicorn bounds are those of the MLflow of that time; later ones break it.
# So is OpenTelemetry's, by which the clients of that time make traces.
_ANY_2_OR_3 = ("alembic<1.17", "Flask<3.2", "sqlalchemy<2.1", "gunicorn<24", "graphene<4")
_OPENTELEMETRY = "opentelemetry-sdk<1.34"
_OLDEST_OF_OURS = (
    "click==8.0.0",
    "fsspec==2024.2.0",
    "msgpack==1.0.8",
    "msgspec==0.18.6",
    "rich==13.0.0",
    "sqlalchemy==2.0.0",
    "zstandard==0.22.0",
)
"""The oldest of what this package needs beside MLflow (``pyproject.toml``): it runs there too."""
_NEWEST_OF_OURS = ("fsspec", "msgpack<2", "msgspec<1", "rich<16", "zstandard<1")

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "2.0.1": (
        "mlflow-skinny==2.0.1",
        "alembic<1.14",
        "Flask<2.3",
        "werkzeug<2.3",
        "gunicorn<21",
        "querystring-parser<2",
        "setuptools<81",  # the last that has pkg_resources
        "sqlalchemy<2",
    ),
    "2.22.5": ("mlflow-skinny==2.22.5", *_ANY_2_OR_3, _OPENTELEMETRY),
    "3.0.1": ("mlflow-skinny==3.0.1", *_ANY_2_OR_3, _OPENTELEMETRY, *_OLDEST_OF_OURS),
    "3.10.1": (
        "mlflow-skinny==3.10.1",
        *_ANY_2_OR_3,
        "flask-cors<7",
        "huey<4",
        "numpy<3",
        "pandas<3",  # it takes no judge without
        *_NEWEST_OF_OURS,
    ),
}
"""MLflow version to what is installed for it."""

VERSIONS = tuple(REQUIREMENTS)
_TIMEOUT_S = 600


class EnvironmentNotMadeError(RuntimeError):
    """An environment could not be made; the message says why."""


def directory() -> Path:
    """Where environments are kept."""
    named = os.environ.get("COMPAT_ENVIRONMENTS")
    if named:
        return Path(named).resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "mlflow-bundle", "environments")


@lru_cache
def environment(version: str) -> Path:
    """Return the interpreter that has MLflow ``version``, making its environment when needed.

    The interpreter that runs the tests is taken when MLflow's packages install for it, and else
    the first other one found on ``PATH``.

    Raises:
        EnvironmentNotMadeError: No interpreter will do, or packages cannot be had.
    """
    reasons = []
    for base in _interpreters():
        try:
            return _made(version, base)
        except (OSError, subprocess.SubprocessError, EnvironmentNotMadeError) as exc:
            reasons.append(f"{base}: {_last_line(exc)}")
    raise EnvironmentNotMadeError(f"MLflow {version}: " + "; ".join(reasons))


def _interpreters() -> list[str]:
    """Interpreters that can run, this one first, one for each Python version."""
    found = {sys.version_info[:2]: sys.executable}
    for minor in (11, 10, 12):
        path = shutil.which(f"python3.{minor}")
        # What is found may be a launcher that knows no such version.
        if path and (3, minor) not in found and _runs(path):
            found[3, minor] = path
    return list(found.values())


def _runs(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0


def _made(version: str, base: str) -> Path:
    wanted = REQUIREMENTS[version]
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
    tag = subprocess.check_output(
        [base, "-c", "import sys; print(sys.implementation.cache_tag)"], text=True
    ).strip()
    place = directory() / f"mlflow-{version}-{tag}-{digest}"
    python, complete = place / "bin" / "python", place / "complete"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists() and _runs(str(python)):
            return python
        shutil.rmtree(place, ignore_errors=True)
        # Not activated and without a pip of its own: the one that runs here installs for it.
        _run([base, "-m", "venv", "--without-pip", str(place)])
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        _run([*install, "--disable-pip-version-check", "--no-compile", "--prefer-binary", *wanted])
        _run([str(python), "-c", "import mlflow.server.handlers"])
        complete.touch()
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode:
        raise EnvironmentNotMadeError(f"{' '.join(command[:4])} …: {done.stderr.strip()[-2000:]}")


def _last_line(exc: BaseException) -> str:
    lines = str(exc).splitlines()
    return lines[-1] if lines else type(exc).__name__


def main() -> None:
    """Make every environment; print how long each took."""

    def make(version: str) -> None:
        start = time.monotonic()
        python = environment(version)
        print(f"MLflow {version}: {time.monotonic() - start:.1f} s, {python}")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(make, VERSIONS))


if __name__ == "__main__":
    main()
