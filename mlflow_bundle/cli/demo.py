"""``demo``: the main job on two local servers, command by command as a user would type it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_bundle.cli.command import bundle_command
from mlflow_bundle.cli.exit_codes import DONE, FAILED, INTERRUPTED, USAGE
from mlflow_bundle.errors import BundleError, SelectionError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_bundle.demo.servers import LocalServer

BUNDLE = "demo.mlbundle"
MAX_DIFFERENCES = 50

_HELP = """Move a small server through a bundle into another, locally.

Starts two MLflow servers on free ports of this machine, on SQLite files in a temporary directory;
fills one; exports it, looks into the bundle and imports it into the other, printing each command;
then compares the two servers field by field. Nothing else is read or written, and the servers are
stopped at the end. Each run begins anew.
"""


@bundle_command("demo", help=_HELP, codes=(DONE, FAILED, USAGE, INTERRUPTED))
@click.option(
    "--keep",
    metavar="DIR",
    show_default="nothing is kept",
    help="Work in this new or empty directory and leave the bundle and the servers' files there.",
)
def command(keep: str | None) -> int:
    started = time.monotonic()
    with _directory(keep) as directory, _environment(), _working_directory(directory):
        found = _run(directory)
        seconds = time.monotonic() - started
        if found:
            for line in found[:MAX_DIFFERENCES]:
                _say(f"  {line}")
            _say(f"Failed: {len(found)} differences, in {seconds:.0f} s.")
            return FAILED
        _say(f"Passed in {seconds:.0f} s: the two servers hold the same.")
        if keep is not None:
            _say(f"Kept in {directory}: {BUNDLE}, and the servers' files.")
    return DONE


def _run(directory: Path) -> list[str]:
    """Do the demo in ``directory``, which is the working directory; return the differences."""
    from mlflow_bundle.demo.servers import local_servers, wait_until_ready

    _say("Starting two MLflow servers on SQLite files ...")
    with local_servers([directory / "source", directory / "destination"]) as servers:
        from mlflow_bundle.demo.contents import MODEL, fill  # imports much, as the servers do now

        for server in servers:
            wait_until_ready(server)
        source, destination = servers
        _say(f"  source       {source.uri}\n  destination  {destination.uri}")
        with _scratch() as scratch:
            fill(_client(source), scratch)
        _say(f"The source holds {_counts(_client(source))}.")

        _use(source)
        _mlflow("bundle", "export-all", "-o", BUNDLE)
        if shutil.which("tar") and shutil.which("zstd"):
            _shell(f"tar --zstd -tf {BUNDLE} | head")
        _mlflow("bundle", "list", BUNDLE)

        _use(destination)
        _mlflow("bundle", "import", BUNDLE, "--models", MODEL)
        _say(f"The destination holds {_counts(_client(destination))}.")
        _mlflow("bundle", "import-all", BUNDLE)
        _mlflow("bundle", "import-all", BUNDLE, remark="again: nothing is made twice")
        return _compare(source, destination)


def _compare(source: LocalServer, destination: LocalServer) -> list[str]:
    from mlflow_bundle.demo.comparison import differences, read_server

    _say("\nComparing what the two servers now tell, through MLflow's client ...")
    facts = []
    for server in (source, destination):
        os.environ["MLFLOW_TRACKING_URI"] = server.uri
        with _scratch() as scratch:
            facts.append(read_server(_client(server), scratch))
    ours, theirs = facts
    found = differences(ours, theirs)
    for kind in sorted({*ours, *theirs}):
        wrong = sum(line.startswith(f"{kind}: ") for line in found)
        verdict = f"{wrong} differ" if wrong else "same"
        _say(f"  {kind:<20} {len(ours.get(kind, {})):>6} values  {verdict}")
    _say("  (not compared: new ids and creation times, which MLflow's API cannot set)")
    return found


def _counts(client: MlflowClient) -> str:
    from mlflow.entities import ViewType

    experiments = client.search_experiments(view_type=ViewType.ALL)
    ids = [experiment.experiment_id for experiment in experiments]
    counts = {
        "experiments": len(experiments),
        "runs": len(client.search_runs(ids, run_view_type=ViewType.ALL)),
        "logged models": len(client.search_logged_models(ids)),
        "registered models": len(client.search_registered_models()),
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items())


# Commands


def _use(server: LocalServer) -> None:
    _prompt(f"export MLFLOW_TRACKING_URI={server.uri}")
    os.environ["MLFLOW_TRACKING_URI"] = server.uri


def _mlflow(group: str, *words: str, remark: str = "") -> None:
    """Run a command of ours in this process, as ``mlflow bundle`` itself would.

    A process of its own would spend some seconds on importing MLflow and nothing else.

    Raises:
        BundleError: It did not end with exit code 0.
    """
    from mlflow_bundle.cli.main import bundle

    _prompt(" ".join(("mlflow", group, *words)) + (f"    # {remark}" if remark else ""))
    try:
        code: Any = bundle.main(list(words), prog_name=f"mlflow {group}", standalone_mode=False)
    except SystemExit as exc:
        code = exc.code
    code = code or DONE
    sys.stdout.flush()
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != DONE:
        raise BundleError(f"'mlflow {group} {words[0]}' ended with exit code {code}")


def _shell(line: str) -> None:
    _prompt(line)
    done = subprocess.run(line, shell=True, capture_output=True)
    shown = done.stdout or done.stderr  # a tar that knows no zstd says so; the demo goes on
    _say(shown.decode(errors="replace").rstrip())


def _prompt(line: str) -> None:
    _say(f"\n$ {line}")


def _say(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()  # keeps its place among what commands and reports write to stderr


def _client(server: LocalServer) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)


# Surroundings


@contextmanager
def _directory(keep: str | None) -> Iterator[Path]:
    if keep is None:
        with _scratch() as temporary:
            yield temporary.resolve()
        return
    directory = Path(keep).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise SelectionError(f"{keep} is not empty", hint="give a new directory to --keep")
    yield directory


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mlflow-bundle-demo-") as temporary:
        yield Path(temporary)


@contextmanager
def _environment() -> Iterator[None]:
    """Hide the user's MLflow settings, and let a signal to end the demo stop its servers too."""
    from mlflow_bundle.demo.servers import without_mlflow_settings

    before = dict(os.environ)
    handlers = {}
    logger = logging.getLogger("mlflow")  # tells of every prompt that it waits for it
    level = logger.level
    settings = without_mlflow_settings(before) | {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            handlers[number] = signal.signal(number, signal.default_int_handler)
        _replace_environment(settings)
        logger.setLevel(logging.WARNING)
        yield
    finally:
        logger.setLevel(level)
        _replace_environment(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _replace_environment(environment: dict[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


@contextmanager
def _working_directory(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
