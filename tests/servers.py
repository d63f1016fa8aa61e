"""Real ``mlflow server`` processes for tests and benchmarks.

Starting a server on a new SQLite file spends six seconds on MLflow's migrations. An initialised
empty database is therefore made once per MLflow version, kept in the temporary directory, and
copied. A running server can also be emptied (`MlflowServer.reset`), which costs milliseconds
instead of a start.

Nothing here depends on ``mlflow_bundle``. Only process groups started here are ever signalled.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import requests
import urllib3

from tests.forking import ForkedServer, can_fork

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0

ADMIN = ("admin", "a-password-of-ours")
"""User and password of the administrator of a server with `basic_auth`."""

WEBHOOK_KEY = base64.urlsafe_b64encode(bytes(32)).decode()
"""Without it each process makes a key of its own, when MLflow is imported, and cannot read what
another stored."""

_INITIALISE = """
import sys
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
try:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
except ImportError:
    Registry = None
SqlAlchemyStore("sqlite:///" + sys.argv[1], "mlflow-artifacts:/")
if Registry is not None:
    Registry("sqlite:///" + sys.argv[1])
"""


class ServerStartError(RuntimeError):
    """The server did not answer; the message ends with the last lines of its log."""


@dataclass
class MlflowServer:
    """A running ``mlflow server``; `stop` it, or use it through `start_server`."""

    uri: str
    """``http://127.0.0.1:<port>``."""
    directory: Path
    database: Path
    """The SQLite file; meaningless when another ``backend_uri`` was asked for."""
    backend_uri: str
    artifact_directory: Path
    """Where artifacts lie when ``artifacts`` is ``proxied`` or ``local``."""
    artifacts: str
    log: Path
    """Standard output and error of the server, one line per request (access log) included."""
    python: str
    process: subprocess.Popen[bytes] | ForkedServer = field(repr=False)

    @property
    def pid(self) -> int:
        """Process id, and process group id, of the server."""
        return self.process.pid

    def stop(self) -> None:
        """Stop the server's own process group; harmless when it has already ended."""
        for number, patience_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline:
                self.process.poll()
                if not _group_exists(self.pid):
                    return
                time.sleep(0.02)

    def reset(self, database: Path | None = None, artifacts: Path | None = None) -> None:
        """Give the running server other contents; by default those of a new server.

        Args:
            database: SQLite file of the same MLflow version, whose rows replace the server's.
            artifacts: Directory whose files replace the server's.
        """
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as connection:
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys=OFF")
            other = database or _template_database(self.python)
            connection.execute("ATTACH DATABASE ? AS other", (str(other),))
            connection.execute("BEGIN IMMEDIATE")
            tables = connection.execute(
                "SELECT name FROM main.sqlite_master"
                " WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            ).fetchall()
            for (table,) in tables:
                # hidden > 0: generated columns, which cannot be inserted (spans.duration_ns)
                columns = ", ".join(
                    f'"{row[1]}"'
                    for row in connection.execute(f'PRAGMA main.table_xinfo("{table}")')
                    if row[6] == 0
                )
                connection.execute(f'DELETE FROM main."{table}"')
                connection.execute(
                    f'INSERT INTO main."{table}" ({columns}) SELECT {columns} FROM other."{table}"'
                )
            if database is None:
                _set_default_location(connection, self.artifacts, self.artifact_directory)
            connection.execute("COMMIT")
        shutil.rmtree(self.artifact_directory, ignore_errors=True)
        if artifacts is not None:
            shutil.copytree(artifacts, self.artifact_directory)
        self.artifact_directory.mkdir(parents=True, exist_ok=True)

    def requests(self) -> list[str]:
        """The access log so far: ``METHOD /path?query HTTP/1.1 status`` per request answered."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line.partition(_ACCESS_MARK)[2] for line in lines if _ACCESS_MARK in line]


@contextlib.contextmanager
def start_server(
    directory: Path | str,
    *,
    artifacts: str = "proxied",
    backend_uri: str | None = None,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    app_name: str | None = None,
    python: str = sys.executable,
    access_log: bool = True,
    workspaces: bool = False,
) -> Iterator[MlflowServer]:
    """Run an MLflow server on a free local port until the block ends.

    Args:
        directory: Holds the database, artifacts and log; made when absent. What is there is
            served again: a second start on the same directory continues the same server.
        artifacts: ``proxied`` (``mlflow-artifacts:/``, files in ``directory/artifacts``),
            ``local`` (clients open that directory themselves), ``proxied:<uri>`` (the server
            relays to ``<uri>``), or any other URI, to which clients go directly.
        backend_uri: Database; a SQLite file in ``directory`` when not given.
        workers: Server processes; each takes seconds to start.
        env: Added to the environment, from which every other ``MLFLOW_*`` is removed.
        app_name: As ``mlflow server --app-name``, e.g. ``basic-auth``.
        python: Interpreter whose MLflow is served; another one for another MLflow version.
        access_log: Whether requests are logged (see `MlflowServer.requests`).
        workspaces: As ``mlflow server --enable-workspaces`` (MLflow 3.10 and later).

    Raises:
        ServerStartError: The process ended, or did not answer in time.
    """
    server = launch_server(
        directory,
        artifacts=artifacts,
        backend_uri=backend_uri,
        workers=workers,
        env=env,
        app_name=app_name,
        python=python,
        access_log=access_log,
        workspaces=workspaces,
    )
    try:
        yield server
    finally:
        server.stop()


def launch_server(
    directory: Path | str,
    *,
    artifacts: str = "proxied",
    backend_uri: str | None = None,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    app_name: str | None = None,
    python: str = sys.executable,
    access_log: bool = True,
    workspaces: bool = False,
    wait: bool = True,
) -> MlflowServer:
    """As `start_server`, for those who keep the server; the caller stops it.

    With ``wait=False`` the caller calls `wait_until_ready` before using it.
    """
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    database = directory / "mlflow.db"
    artifact_directory = directory / "artifacts"
    artifact_directory.mkdir(exist_ok=True)
    if backend_uri is None:
        backend_uri = f"sqlite:///{database}"
        if not database.exists():
            _copy_template(database, python, artifacts, artifact_directory)
    for attempt in range(3):
        port = _free_port()
        log = directory / "server.log"
        words = _words(port, workers, backend_uri, artifacts, artifact_directory, app_name)
        words += ["--enable-workspaces"] if workspaces else []
        words += _logging_options(directory, python, access_log)
        process = _spawn(python, words, directory, log, env or {}, fork=workers == 1)
        server = MlflowServer(
            uri=f"http://127.0.0.1:{port}",
            directory=directory,
            database=database,
            backend_uri=backend_uri,
            artifact_directory=artifact_directory,
            artifacts=artifacts,
            log=log,
            python=python,
            process=process,
        )
        if not wait:
            return server
        try:
            wait_until_ready(server)
        except ServerStartError as error:
            # Somebody else took the port between our look and the server's bind.
            if "address already in use" in str(error).lower() and attempt < 2:
                continue
            raise
        return server
    raise AssertionError("unreachable")


def basic_auth(directory: Path) -> dict[str, object]:
    """Options of `launch_server` for a server with MLflow's basic authentication.

    Its administrator is `ADMIN`; everybody may read everything that is not denied.
    """
    path = directory / "auth.ini"
    path.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        "grant_default_workspace_access = true\n"
        f"database_uri = sqlite:///{directory}/auth.db\n"
        f"admin_username = {ADMIN[0]}\n"
        f"admin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 300\n"  # hashing takes long, by design
    )
    env = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "secret", "MLFLOW_AUTH_CONFIG_PATH": str(path)}
    return {"app_name": "basic-auth", "env": env}


def prepare_directory(directory: Path | str, python: str = sys.executable) -> tuple[Path, Path]:
    """Make an empty server's database and artifact directory, for who fills them by other means.

    Returns:
        The SQLite file and the artifact directory that `start_server` will serve (proxied).
    """
    directory = Path(directory).resolve()
    database, artifacts = directory / "mlflow.db", directory / "artifacts"
    if database.exists():
        raise FileExistsError(database)
    artifacts.mkdir(parents=True, exist_ok=True)
    _copy_template(database, python, "proxied", artifacts)
    return database, artifacts


def wait_until_ready(server: MlflowServer, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return when ``/health`` answers; stop the server and raise ServerStartError otherwise."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{server.uri}/health", timeout=2) as response:
                if response.status == 200:
                    return
        except urllib.error.HTTPError:
            return  # answered: an app with authentication may refuse /health
        except OSError:
            pass
        time.sleep(0.05)
    server.stop()
    tail = "\n".join(server.log.read_text(errors="replace").splitlines()[-30:])
    raise ServerStartError(f"mlflow server did not answer at {server.uri}; its log ends:\n{tail}")


@contextlib.contextmanager
def tracking_uri(uri: str) -> Iterator[None]:
    """Let MLflow's own client in this process use a server, its registry too, for a while.

    ``mlflow.set_tracking_uri(mlflow.get_tracking_uri())`` would not undo it: what had come from
    the environment would stay set, and both setters write to the environment.
    """
    import mlflow

    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ[name] for name in names if name in os.environ}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def fast_session(connections: int = 32) -> requests.Session:
    """A session that does not wait 40 ms for every answer of a server with several workers.

    uvicorn with ``--workers`` above one leaves Nagle's algorithm on (asyncio turns it off only for
    sockets whose protocol is given as TCP; those inherited by workers have 0) and writes an answer
    in two pieces: the second waits until the client acknowledges the first, which Linux delays by
    40 ms on a connection in use. Asking for an immediate acknowledgement after each request ends
    that: 4 ms instead of 48 for a small GET (MLflow 3.17.2, uvicorn 0.54, no uvloop).
    """
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _QuickAdapter(pool_maxsize=connections))
    return session


class _QuickConnection(urllib3.connection.HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 does
        if self.sock is not None and hasattr(socket, "TCP_QUICKACK"):  # Linux
            # Not a lasting option: the kernel leaves this mode by itself.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return super().getresponse()


class _QuickPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _QuickConnection


class _QuickAdapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *arguments: object, **options: object) -> None:
        super().init_poolmanager(*arguments, **options)  # type: ignore[arg-type]
        pools = {"http": _QuickPool, "https": urllib3.HTTPSConnectionPool}
        self.poolmanager.pool_classes_by_scheme = pools


def _words(
    port: int,
    workers: int,
    backend_uri: str,
    artifacts: str,
    artifact_directory: Path,
    app_name: str | None,
) -> list[str]:
    """The command line, from ``server`` on."""
    words = ["server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", str(workers), "--backend-store-uri", backend_uri]
    if artifacts == "proxied":
        words += ["--artifacts-destination", str(artifact_directory)]
    elif artifacts.startswith("proxied:"):
        words += ["--artifacts-destination", artifacts.removeprefix("proxied:")]
    else:
        root = str(artifact_directory) if artifacts == "local" else artifacts
        words += ["--no-serve-artifacts", "--default-artifact-root", root]
    if app_name is not None:
        words += ["--app-name", app_name]
    return words


_ACCESS_MARK = "ACCESS "

_LOG_CONFIG = """\
version: 1
disable_existing_loggers: false
formatters:
  plain: {format: "%(asctime)s %(levelname)s %(name)s: %(message)s"}
  access:
    (): uvicorn.logging.AccessFormatter
    format: 'ACCESS %(request_line)s %(status_code)s'
    use_colors: false
handlers:
  plain: {class: logging.StreamHandler, formatter: plain, stream: ext://sys.stderr}
  access: {class: logging.StreamHandler, formatter: access, stream: ext://sys.stderr}
loggers:
  uvicorn: {handlers: [plain], level: INFO, propagate: false}
  uvicorn.access: {handlers: [access], level: INFO, propagate: false}
"""


def _logging_options(directory: Path, python: str, access_log: bool) -> list[str]:
    """MLflow's own configuration has no access log; ours prints one line per request."""
    if not access_log:
        return []
    if tuple(int(part) for part in mlflow_version(python).split(".")[:2]) < (3, 3):
        # gunicorn until 3.2, uvicorn from 3.3
        return [
            "--gunicorn-opts",
            f"--access-logfile - --access-logformat '{_ACCESS_MARK}%(r)s %(s)s'",
        ]
    path = directory / "logging.yaml"
    path.write_text(_LOG_CONFIG)
    return ["--uvicorn-opts", f"--log-config '{path}'{_patience(python)}"]


def _patience(python: str) -> str:
    """uvicorn ends workers that do not answer within five seconds: on a busy machine too soon."""
    if python != sys.executable:
        return ""  # older versions of it have no such option
    return " --timeout-worker-healthcheck 120"


def _spawn(
    python: str,
    words: list[str],
    directory: Path,
    log: Path,
    env: Mapping[str, str],
    *,
    fork: bool,
) -> subprocess.Popen[bytes] | ForkedServer:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "_MLFLOW"))}
    environment |= {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
        # Webhooks and icons of tests point to loopback addresses; nothing outside is reached.
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_ICON_URL_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": WEBHOOK_KEY,
    }
    environment["PATH"] = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    # MLflow 2.0 starts the gunicorn that it finds there.
    environment |= env
    if fork and python == sys.executable and can_fork():
        return ForkedServer(words, directory, log, environment)
    with log.open("wb") as output:
        return subprocess.Popen(
            [python, "-m", "mlflow", *words],
            cwd=directory,  # what is given relative, or written by default, stays in here
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS: a group of zombies
        return False
    return True


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@lru_cache
def mlflow_version(python: str = sys.executable) -> str:
    """Version of the MLflow that ``python`` would serve, without importing it."""
    code = """
from importlib.metadata import PackageNotFoundError, version
try:
    print(version("mlflow"))
except PackageNotFoundError:
    print(version("mlflow-skinny"))
"""
    return subprocess.check_output([python, "-I", "-c", code], text=True).strip()


@lru_cache
def _template_database(python: str) -> Path:
    """An initialised empty SQLite database of this MLflow version, made once per machine."""
    cache = Path(tempfile.gettempdir()) / f"mlflow-bundle-templates-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise RuntimeError(f"{cache} belongs to somebody else")
    template = cache / f"mlflow-{mlflow_version(python)}.db"
    if not template.exists():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = Path(scratch) / "mlflow.db"
            subprocess.run(
                [python, "-c", _INITIALISE, str(made)],
                check=True,
                cwd=scratch,
                capture_output=True,
                env={**os.environ, "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"},
            )
            made.replace(template)  # two at once: the last one wins, both are good
    return template


def _copy_template(database: Path, python: str, artifacts: str, artifact_directory: Path) -> None:
    scratch = database.with_suffix(".new")
    shutil.copyfile(_template_database(python), scratch)
    with contextlib.closing(sqlite3.connect(scratch)) as connection:
        _set_default_location(connection, artifacts, artifact_directory)
        connection.commit()
    scratch.replace(database)


def _set_default_location(
    connection: sqlite3.Connection, artifacts: str, artifact_directory: Path
) -> None:
    """Give experiment 0 the location that the server would have given it."""
    if artifacts.startswith("proxied"):
        return
    root = str(artifact_directory) if artifacts == "local" else artifacts
    connection.execute(
        "UPDATE main.experiments SET artifact_location = ? WHERE experiment_id = 0",
        (f"{root.rstrip('/')}/0",),
    )
