"""Users, roles and permissions go from one basic-auth server to another, and nothing secret shows.

The servers are real ones; what a user may do is asked of them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mlflow_bundle.auth.database import AuthDestination
from mlflow_bundle.auth.sink import AuthSink
from mlflow_bundle.auth.writer import AuthWriter
from mlflow_bundle.contracts import Content, Sink, SourceInfo
from mlflow_bundle.errors import SinkError
from mlflow_bundle.importing import Importing, ImportOptions
from mlflow_bundle.kinds.auth import Permission
from mlflow_bundle.kinds.mcp_servers import McpServer
from mlflow_bundle.progress import SilentProgress
from mlflow_bundle.references import rewrite_permission
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from tests.conftest import LendServer
from tests.installed import has
from tests.servers import (
    ADMIN,
    MlflowServer,
    basic_auth,
    prepare_directory,
    start_server,
)
from tests.sql.databases import is_reachable, new_database
from tests.transfer.commands import Done, command
from tests.transfer.small import Small
from tests.world_scorers import serialized_scorer

pytestmark = pytest.mark.server

PASSWORDS = {name: f"a-password-of-{name}" for name in ("ana", "bo", "cy")}
Demand = Callable[[object, str], None]
Rows = dict[str, list[tuple[Any, ...]]]

TABLES = ("users", "roles", "role_permissions", "user_role_assignments")


@dataclass(frozen=True)
class Pair:
    """Tracking data and users of one server, as options of commands."""

    directory: Path
    auth: str = ""
    """URI of the database of users; an SQLite file in the directory where empty."""

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.directory}/mlflow.db"

    @property
    def auth_uri(self) -> str:
        return self.auth or f"sqlite:///{self.directory}/auth.db"

    @property
    def words(self) -> tuple[str, ...]:
        place = ("--artifacts-destination", f"{self.directory}/artifacts")
        return ("--tracking-uri", self.tracking_uri, *place)

    @property
    def words_with_auth(self) -> tuple[str, ...]:
        return (*self.words, "--auth-db", self.auth_uri)

    def rows(self) -> Rows:
        """Everything in the tables of users, in order of ids."""
        engine = sqlalchemy.create_engine(self.auth_uri, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return {
                table: [tuple(row) for row in connection.exec_driver_sql(statement)]
                for table in TABLES
                for statement in (f"SELECT * FROM {table} ORDER BY id",)
            }

    def execute(self, *statements: str) -> None:
        """Change an SQLite database of users."""
        with closing(sqlite3.connect(self.directory / "auth.db")) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()


@dataclass(frozen=True)
class Source:
    """What the source server held, which is stopped."""

    pair: Pair
    experiments: dict[str, str]
    runs: dict[str, str]
    allowed: dict[str, dict[str, int]]
    """User to what was asked to the status of the answer."""


def may(server: MlflowServer, user: str, password: str) -> dict[str, int]:
    """Ask a server everything that is of interest, as some user; return the statuses."""
    session = requests.Session()
    session.auth = (user, password)
    base = f"{server.uri}/api/2.0/mlflow"
    search = session.get(f"{base}/experiments/search", params={"max_results": "100"}, timeout=60)
    if search.status_code != 200:
        return {"log in": search.status_code}
    admin = requests.get(
        f"{base}/experiments/search", params={"max_results": "100"}, auth=ADMIN, timeout=60
    )
    ids = {e["name"]: e["experiment_id"] for e in admin.json().get("experiments", [])}
    answers: dict[str, int] = {}
    for name in ("open", "secret", "team"):
        got = session.get(f"{base}/experiments/get", params={"experiment_id": ids[name]})
        answers[f"read {name}"] = got.status_code
        tag = {"experiment_id": ids[name], "key": "k", "value": "v"}
        set_tag = session.post(f"{base}/experiments/set-experiment-tag", json=tag)
        answers[f"edit {name}"] = set_tag.status_code
    for name in ("model", "hidden", "words"):
        got = session.get(f"{base}/registered-models/get", params={"name": name})
        answers[f"read {name}"] = got.status_code
    answers["list users"] = session.get(f"{base}/users/list").status_code
    return answers


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    directory = tmp_path_factory.mktemp("auth")
    with serve(Pair(directory)) as server:
        build = Small(server.uri)
        build._session.auth = ADMIN
        for name in ("open", "secret", "team"):
            build.experiment(name, name)
            build.run(name, name, params={"p": name})
        build.model("model")
        build.model("hidden")
        build.model("words", **{"mlflow.prompt.is_prompt": "true"})
        for user, password in PASSWORDS.items():
            build.call("users/create", username=user, password=password)
        build.call("users/update-admin", method="PATCH", username="cy", is_admin=True)
        _grant(build, "ana", "experiment", build.experiments["secret"], "DENY")
        _grant(build, "ana", "registered_model", "hidden", "DENY")
        _grant(build, "ana", "prompt", "words", "DENY")
        _grant(build, "bo", "experiment", build.experiments["open"], "EDIT")
        _grant(build, "bo", "experiment", "999", "MANAGE")  # of what is not there
        for name in ("a/b", "a/b c"):
            build.call(
                "scorers/register",
                api="3.0",
                experiment_id=build.experiments["team"],
                name=name,
                serialized_scorer=serialized_scorer(name),
            )
        scorer = f"{build.experiments['team']}/a%2Fb"
        role = build.call(
            "roles/create", api="3.0", workspace="default", name="team", description="the team"
        )["role"]["id"]
        for kind, pattern in (("experiment", build.experiments["team"]), ("scorer", scorer)):
            build.call(
                "roles/permissions/add",
                api="3.0",
                role_id=role,
                resource_type=kind,
                resource_pattern=pattern,
                permission="MANAGE",
            )
        build.call("roles/assign", api="3.0", username="bo", role_id=role)
        allowed = {user: may(server, user, password) for user, password in PASSWORDS.items()}
    assert allowed["ana"] | {"read secret": 403, "read hidden": 403} == allowed["ana"]
    assert allowed["bo"] | {"edit open": 200, "edit team": 200, "edit secret": 403} == allowed["bo"]
    assert set(allowed["cy"].values()) == {200}
    return Source(Pair(directory), dict(build.experiments), dict(build.runs), allowed)


def _grant(build: Small, user: str, kind: str, id: str, permission: str) -> None:
    build.call(
        "users/permissions/grant",
        api="3.0",
        username=user,
        resource_type=kind,
        resource_id=id,
        permission=permission,
    )


@pytest.fixture(scope="module")
def bundle(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without hashes of passwords."""
    path = tmp_path_factory.mktemp("auth-bundle") / "auth.mlbundle"
    run("export-all", "-o", path, *source.pair.words_with_auth)
    return path


@pytest.fixture(scope="module")
def secret_bundle(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auth-secret") / "secret.mlbundle"
    run("export-all", "-o", path, *source.pair.words_with_auth, "--include-secrets")
    return path


def run(name: str, *words: str | Path, expect: int = 0) -> Done:
    """Run a command; no hash of a password may be in anything that it says."""
    done = command(name, *words, "--json", "--quiet", expect=expect)
    for text in (done.stdout, done.stderr):
        assert "scrypt:" not in text
        assert "pbkdf2:" not in text
        assert "Traceback" not in text
    return done


def serve(pair: Pair, **more: Any) -> Any:
    options: Any = basic_auth(pair.directory)
    options["env"] |= more.pop("env", {})
    return start_server(pair.directory, workers=1, **options, **more)


def made(directory: Path) -> Pair:
    directory.mkdir()
    return Pair(directory)


def has_administrator(pair: Pair) -> None:
    """Make what a server makes when it starts for the first time."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore as Users

    users = Users()
    users.init_db(pair.auth_uri)
    users.create_user(*ADMIN, is_admin=True)
    users.engine.dispose()


def user_documents(bundle: Path) -> dict[str, Any]:
    names = ("admin", *PASSWORDS)
    shown = (command("show", bundle, f"users/{name}/user.json").stdout for name in names)
    return {name: json.loads(text)["entity"] for name, text in zip(names, shown, strict=True)}


# From one server to another


def test_with_secrets_everybody_logs_in_and_may_do_what_they_could(
    source: Source, secret_bundle: Path, tmp_path: Path
) -> None:
    target = made(tmp_path / "target")
    # Another experiment has the number of the secret one: ids in permissions must follow.
    prepare_directory(target.directory)
    tracking = SqlAlchemyStore(target.tracking_uri, "mlflow-artifacts:/")
    for name in ("taken", "taken too"):
        tracking.create_experiment(name)
    has_administrator(target)
    done = run("import-all", secret_bundle, *target.words_with_auth, "--include-secrets")
    # The administrator, who is there, gets what makers of experiments get.
    assert (done.report["done"]["user"], done.report["done"]["role"]) == (4, 1)
    assert "user.password (to be set again)" not in done.report["adjusted"]
    assert done.report["adjusted"]["user.permissions (of what did not come)"] == 1
    before = target.rows()
    assert "999" not in {row[3] for row in before["role_permissions"]}
    with serve(target) as server:
        for user, password in PASSWORDS.items():
            assert may(server, user, password) == source.allowed[user]
    again = run("import-all", secret_bundle, *target.words_with_auth, "--include-secrets")
    assert "user" not in again.report["done"]
    assert again.report["present"]["user"] == 4
    assert target.rows() == before


def test_without_secrets_nobody_logs_in_until_the_password_is_set(
    bundle: Path, tmp_path: Path
) -> None:
    target = made(tmp_path / "target")
    has_administrator(target)
    done = run("import-all", bundle, *target.words_with_auth)
    assert done.report["adjusted"]["user.password (to be set again)"] == 3
    (note,) = [note for note in done.report["notes"] if "update-password" in note]
    assert all(name in note for name in PASSWORDS)
    before = target.rows()
    with serve(target) as server:
        for user, password in PASSWORDS.items():
            assert may(server, user, password) == {"log in": 401}
        body = {"username": "ana", "password": "a-new-password-of-hers"}
        set_again = f"{server.uri}/api/2.0/mlflow/users/update-password"
        assert requests.patch(set_again, json=body, auth=ADMIN, timeout=60).status_code == 200
        assert may(server, "ana", body["password"])["read secret"] == 403
    changed = target.rows()
    run("import-all", bundle, *target.words_with_auth)
    assert target.rows() == changed
    assert {**changed, "users": before["users"]} == before


def test_a_bundle_without_secrets_holds_no_hash_and_one_with_them_all(
    source: Source, bundle: Path, secret_bundle: Path
) -> None:
    experiments = source.experiments
    users = user_documents(bundle)
    assert not any("password_hash" in user for user in users.values())
    assert users["bo"] == {
        "username": "bo",
        "is_admin": False,
        "roles": ["team"],
        "permissions": [
            {
                "resource_type": "experiment",
                "resource_pattern": pattern,
                "permission": permission,
            }
            for pattern, permission in ((experiments["open"], "EDIT"), ("999", "MANAGE"))
        ],
    }
    assert users["cy"]["is_admin"]
    hashes = {row[1]: row[2] for row in source.pair.rows()["users"]}
    held = {name: user["password_hash"] for name, user in user_documents(secret_bundle).items()}
    assert held == hashes


def test_copy_takes_users_into_an_empty_pair_and_diff_finds_nothing(
    source: Source, tmp_path: Path
) -> None:
    target = made(tmp_path / "target")
    words = ("--to", target.tracking_uri, "--to-artifacts-destination", target.directory / "files")
    auth = ("--to-auth-db", target.auth_uri)
    done = run("copy", *source.pair.words_with_auth, *words, *auth, "--include-secrets")
    assert done.report["done"]["user"] == 4
    sides = (source.pair.tracking_uri, target.tracking_uri)
    places = (
        *("--a-artifacts-destination", f"{source.pair.directory}/artifacts"),
        *("--b-artifacts-destination", target.directory / "files"),
    )
    dbs = ("--a-auth-db", source.pair.auth_uri, "--b-auth-db", target.auth_uri)
    result = run("diff", *sides, *places, *dbs).report
    assert (result["kinds"]["user"]["equal"], result["kinds"]["role"]["equal"]) == (4, 1)
    target.execute("DELETE FROM role_permissions WHERE permission = 'EDIT'")
    found = run("diff", *sides, *places, *dbs, expect=3).report["differences"]
    assert {(d["kind"], d["id"], d["change"]) for d in found} == {("user", "bo", "only_in_a")}
    assert found[-1]["field"] == "permissions[experiment <experiment open>].permission"
    one_sided = run("diff", *sides, *places, *dbs[:2]).report
    assert any("users and roles were not compared" in note for note in one_sided["notes"])


def test_a_server_over_rest_gets_users_through_its_database_of_users(
    source: Source, secret_bundle: Path, empty_server: LendServer, tmp_path: Path
) -> None:
    target = made(tmp_path / "users")
    server = empty_server()
    words = ("--tracking-uri", server.uri, "--auth-db", target.auth_uri)
    for name in ("1", "2", "3"):
        Small(server.uri).experiment(name, f"taken {name}")
    run("import-all", secret_bundle, *words, "--include-secrets", "--verify")
    found = requests.get(
        f"{server.uri}/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": "secret"},
        timeout=60,
    ).json()["experiment"]["experiment_id"]
    assert found != source.experiments["secret"]
    denied = {row[3] for row in target.rows()["role_permissions"] if row[4] == "DENY"}
    assert denied == {found, "hidden", "words"}
    scorers = {row[3].partition("/")[2] for row in target.rows()["role_permissions"]}
    assert scorers >= {"a%2Fb", "a%2Fb%20c"}
    target.execute("INSERT INTO roles (id, name, workspace) VALUES (99, 'r', 'north')")
    again = ("export-all", "-o", tmp_path / "rest.mlbundle", *words, "--include-secrets")
    exported = run(*again, expect=3)
    assert exported.losses == [("workspace", "north", "")]
    assert (exported.report["done"]["user"], exported.report["done"]["role"]) == (4, 1)


# What is there already


def test_who_is_there_keeps_password_and_flag_and_a_conflict_is_told(
    secret_bundle: Path, tmp_path: Path
) -> None:
    target = made(tmp_path / "target")
    words = (*target.words_with_auth, "--include-secrets")
    run("import-all", secret_bundle, *words)
    target.execute(
        "UPDATE users SET is_admin = 1, password_hash = 'mine' WHERE username = 'ana'",
        "UPDATE roles SET description = 'ours' WHERE name = 'team'",
        "UPDATE role_permissions SET permission = 'READ' WHERE resource_type = 'scorer' AND "
        "role_id = (SELECT id FROM roles WHERE name = 'team')",
        "DELETE FROM user_role_assignments WHERE role_id = (SELECT id FROM roles WHERE "
        "name = 'team')",
    )
    before = target.rows()
    conflicts = [
        ("role", "team", "description"),
        ("role", "team", "permissions.scorer 3/a%2Fb"),
        ("user", "ana", "is_admin"),
    ]
    refused = command("import-all", secret_bundle, *words, "--on-conflict", "fail", expect=1)
    assert "3 conflicts, nothing was written" in refused.stderr
    assert target.rows() == before
    dry = run("import-all", secret_bundle, *words, "--dry-run")
    assert dry.conflicts == conflicts
    assert target.rows() == before
    kept = run("import-all", secret_bundle, *words)
    assert kept.conflicts == conflicts
    after = target.rows()
    assert len(after["user_role_assignments"]) == len(before["user_role_assignments"]) + 1
    assert {**after, "user_role_assignments": ()} == {**before, "user_role_assignments": ()}
    run("import-all", secret_bundle, *words, "--on-conflict", "update")
    (ana,) = [row for row in target.rows()["users"] if row[1] == "ana"]
    assert ana[2:] == ("mine", 0)


def test_users_are_mapped_and_a_comparison_knows(bundle: Path, tmp_path: Path) -> None:
    target = made(tmp_path / "target")
    (tmp_path / "users.csv").write_text("bo,bo@example.org\n")
    mapped = ("--user-map", tmp_path / "users.csv")
    run("import-all", bundle, *target.words_with_auth, *mapped, "--verify")
    names = {row[1] for row in target.rows()["users"]}
    assert names == {"admin", "ana", "bo@example.org", "cy"}
    run("verify", bundle, "--against", target.tracking_uri, *target.words_with_auth[2:], *mapped)


def test_without_a_database_users_are_left_out_and_a_note_says_so(
    bundle: Path, tmp_path: Path
) -> None:
    target = made(tmp_path / "target")
    done = run("import-all", bundle, *target.words, "--verify")
    assert [note for note in done.report["notes"] if "--auth-db" in note] == [
        "users and roles of the bundle were left out: --auth-db names the database of the "
        "destination that they would go into"
    ]
    assert "user" not in done.report["done"]
    assert not (target.directory / "auth.db").exists()


def test_a_bundle_without_users_and_a_database_for_them_leave_a_note(
    source: Source, tmp_path: Path
) -> None:
    bundle, target = tmp_path / "no-users.mlbundle", made(tmp_path / "target")
    run("export-all", "-o", bundle, *source.pair.words)
    done = run("import-all", bundle, *target.words_with_auth)
    assert any("has no users and roles" in note for note in done.report["notes"])


def test_roles_go_into_the_workspace_that_theirs_is_mapped_to(
    source: Source, tmp_path: Path
) -> None:
    spaced = made(tmp_path / "spaced")
    for name in ("mlflow.db", "auth.db"):
        (spaced.directory / name).write_bytes((source.pair.directory / name).read_bytes())
    with closing(sqlite3.connect(spaced.directory / "mlflow.db")) as connection:
        connection.execute("INSERT INTO workspaces (name) VALUES ('north')")
        connection.execute("UPDATE experiments SET workspace = 'north' WHERE name = 'team'")
        connection.commit()
    spaced.execute("UPDATE roles SET workspace = 'north' WHERE name = 'team'")
    path = tmp_path / "spaced.mlbundle"
    run("export-all", "-o", path, *spaced.words_with_auth, "--artifacts", "skip")
    target = made(tmp_path / "target")
    mapped = ("--workspace-map", "north=south")
    words = (*target.words_with_auth, *mapped, "--artifacts", "skip")
    done = run("import-all", path, *words, "--verify")
    # bo stands in both trees.
    assert (done.report["done"]["user"], done.report["planned"]["user"]) == (5, 5)
    rows = target.rows()
    assert [row[1:3] for row in rows["roles"] if row[1] == "team"] == [("team", "south")]
    assert sorted(row[1] for row in rows["users"]) == ["admin", "ana", "bo", "cy"]
    alone = made(tmp_path / "alone")
    only = ("--workspace", "north", "--workspace-map", "north=default", "--artifacts", "skip")
    run("import-all", path, *alone.words_with_auth, *only)
    assert [row[1] for row in alone.rows()["users"]] == ["bo"]


def test_mlflow_cannot_make_its_tables_of_users_in_mysql_and_we_say_so(
    bundle: Path, tmp_path: Path, prerequisite: Demand
) -> None:
    prerequisite(is_reachable("mysql"), "a mysql server")
    with new_database("mysql") as uri:
        target = Pair(tmp_path / "target", uri)
        refused = run("import-all", bundle, *target.words_with_auth, expect=1)
        assert "MLflow cannot make the tables of its basic-auth app in MySQL" in refused.stderr
    assert not target.directory.exists()


def test_postgresql_takes_users_and_gives_them_back(
    source: Source, secret_bundle: Path, tmp_path: Path, prerequisite: Demand
) -> None:
    prerequisite(is_reachable("postgresql"), "a postgresql server")
    (tmp_path / "target" / "artifacts").mkdir(parents=True)
    with new_database("postgresql") as uri:
        target = Pair(tmp_path / "target", uri)
        words = (*target.words_with_auth, "--include-secrets")
        run("import-all", secret_bundle, *words)
        rows = target.rows()
        run("import-all", secret_bundle, *words)
        assert target.rows() == rows
        back = tmp_path / "back.mlbundle"
        run("export-all", "-o", back, *words)
        documents = user_documents(back)
        assert (
            documents["bo"]["permissions"] == user_documents(secret_bundle)["bo"]["permissions"][:1]
        )
        hashes = {row[1]: row[2] for row in source.pair.rows()["users"]}
        assert {name: user["password_hash"] for name, user in documents.items()} == hashes


# Older servers


@pytest.fixture
def flask_wtf(tmp_path: Path) -> Path:
    """A directory with what MLflow's basic-auth app needs besides what old environments have."""
    import flask_wtf
    import wtforms

    directory = tmp_path / "packages"
    directory.mkdir()
    for package in (flask_wtf, wtforms):
        (directory / package.__name__).symlink_to(Path(package.__file__ or "").parent)
    return directory


def given(pair: Pair) -> set[tuple[str, ...]]:
    """What each user may do: name, workspace, type, pattern and permission."""
    rows = pair.rows()
    names = {row[0]: row[1] for row in rows["users"]}
    users = {(role, names[user]) for _, user, role in rows["user_role_assignments"]}
    workspaces = {row[0]: row[2] for row in rows["roles"]}
    return {
        (name, workspaces[role], kind, pattern, permission)
        for _, role, kind, pattern, permission in rows["role_permissions"]
        for assigned, name in users
        # Without the models beside it, the migration takes prompts for models.
        if assigned == role and (name, pattern) != ("admin", "words")
    }


def passwords(pair: Pair) -> dict[str, str]:
    return {row[1]: row[2] for row in pair.rows()["users"]}


@pytest.mark.compat
@pytest.mark.slow
def test_permissions_of_before_there_were_roles_are_what_todays_server_is_told(
    flask_wtf: Path, tmp_path: Path
) -> None:
    from mlflow.server.auth.db.utils import migrate

    from tests.compat.environments import environment

    old = made(tmp_path / "old")
    python = str(environment("2.22.5"))
    with serve(old, python=python, env={"PYTHONPATH": str(flask_wtf)}) as server:
        build = Small(server.uri)
        build._session.auth = ADMIN
        for name in ("open", "secret", "team"):
            build.experiment(name, name)
        for name in ("model", "hidden"):
            build.model(name)
        build.model("words", **{"mlflow.prompt.is_prompt": "true"})
        for user in ("ana", "bo"):
            build.call("users/create", username=user, password=PASSWORDS[user])
        for user, name, permission in (
            ("ana", "secret", "NO_PERMISSIONS"),
            ("bo", "team", "MANAGE"),
        ):
            id = build.experiments[name]
            build.call(
                "experiments/permissions/create",
                experiment_id=id,
                username=user,
                permission=permission,
            )
        for name in ("hidden", "words"):
            build.call(
                "registered-models/permissions/create",
                name=name,
                username="ana",
                permission="NO_PERMISSIONS",
            )
        experiments = dict(build.experiments)
    migrated = made(tmp_path / "migrated")
    (migrated.directory / "auth.db").write_bytes((old.directory / "auth.db").read_bytes())
    migrate(sqlalchemy.create_engine(migrated.auth_uri), "head")
    path = tmp_path / "old.mlbundle"
    done = run("export-all", "-o", path, *old.words_with_auth, "--include-secrets")
    assert done.report["adjusted"]["user.permissions (NO_PERMISSIONS is DENY now)"] == 3
    target = made(tmp_path / "target")
    run("import-all", path, *target.words_with_auth, "--include-secrets")
    assert given(target) == given(migrated) | {
        ("ana", "default", "experiment", experiments["secret"], "DENY"),
        ("ana", "default", "registered_model", "hidden", "DENY"),
        ("ana", "default", "prompt", "words", "DENY"),
    }
    assert ("bo", "default", "experiment", experiments["team"], "MANAGE") in given(target)
    assert passwords(target) == passwords(migrated)
    refused = run("import-all", path, *old.words_with_auth, expect=1)
    assert "of an older MLflow" in refused.stderr


def test_every_old_table_becomes_what_mlflows_own_migration_makes_of_it(
    source: Source, tmp_path: Path
) -> None:
    from mlflow.server.auth.db.utils import migrate

    old, migrated = made(tmp_path / "old"), made(tmp_path / "migrated")
    tracking = old.directory / "mlflow.db"
    tracking.write_bytes((source.pair.directory / "mlflow.db").read_bytes())
    (old.directory / "artifacts").mkdir()
    with closing(sqlite3.connect(tracking)) as connection:
        connection.execute("INSERT INTO workspaces (name) VALUES ('north')")
        connection.execute("INSERT INTO registered_models (workspace, name) VALUES ('north', 'm')")
        connection.commit()
    migrate(sqlalchemy.create_engine(old.auth_uri), "2ed73881770d")  # MLflow 3.10's
    team = source.experiments["team"]
    old.execute(
        "INSERT INTO users VALUES (7, 'ana', 'x', 0), (8, 'bo', 'x', 0), (9, 'cy', 'x', 1)",
        "INSERT INTO experiment_permissions VALUES"
        f" (1, '{team}', 7, 'EDIT'), (2, '{team}', 8, '?')",
        "INSERT INTO registered_model_permissions (workspace, name, user_id, permission) VALUES"
        " ('default', 'model', 7, 'READ'), ('north', 'm', 8, 'MANAGE')",
        f"INSERT INTO scorer_permissions VALUES (1, '{team}', 'a/b c', 7, 'USE')",
        "INSERT INTO gateway_secret_permissions VALUES (1, 's-gone', 7, 'USE')",
        "INSERT INTO workspace_permissions VALUES ('default', 7, 'READ'), ('north', 7, 'EDIT'),"
        " ('default', 8, 'NO_PERMISSIONS'), ('north', 9, 'MANAGE')",
    )
    (migrated.directory / "auth.db").write_bytes((old.directory / "auth.db").read_bytes())
    migrate(sqlalchemy.create_engine(migrated.auth_uri), "head")
    path = tmp_path / "old.mlbundle"
    done = run("export-all", "-o", path, *old.words_with_auth, "--include-secrets", expect=3)
    assert done.losses == [("user", "bo", "permissions")] * 2
    target = made(tmp_path / "target")
    run("import-all", path, *target.words_with_auth, "--include-secrets")
    assert given(target) == given(migrated) - {
        ("ana", "default", "gateway_secret", "s-gone", "USE")
    }
    assert passwords(target) == passwords(migrated)


# What did not come, or comes together


def filled(directory: Path, *statements: str) -> Pair:
    """A pair of databases that no server has started with; ``statements`` change that of users."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore as Users

    pair = made(directory)
    prepare_directory(directory)
    users = Users()
    users.init_db(pair.auth_uri)
    users.engine.dispose()
    pair.execute(*statements)
    return pair


def copied(source: Pair, target: Pair, *words: str, expect: int = 0) -> Done:
    to = ("--to", target.tracking_uri, "--to-artifacts-destination", target.directory / "files")
    auth = ("--to-auth-db", target.auth_uri)
    return run("copy", *source.words_with_auth, *to, *auth, *words, expect=expect)


def test_the_destinations_own_of_a_name_is_given_to_nobody(tmp_path: Path) -> None:
    grants = (
        *(("scorer", "0/ours"), ("scorer", "0/theirs"), ("scorer", "0/s/t"), ("scorer", "*")),
        *(("mcp_server", "org.ex/ours"), ("mcp_server", "org.ex/theirs"), ("mcp_server", "*")),
        *(("weird", "x"), ("run", "0123"), ("run", "*")),
    )
    source = filled(
        tmp_path / "source",
        "INSERT INTO roles (id, name, workspace) VALUES (1, 'r', 'default')",
        *(
            "INSERT INTO role_permissions (role_id, resource_type, resource_pattern, permission)"
            f" VALUES (1, '{type}', '{pattern}', 'MANAGE')"
            for type, pattern in grants
        ),
    )
    target = filled(tmp_path / "target")
    for pair, scorers, servers in (
        (source, ("ours", "s/t"), ("ours",)),
        (target, ("theirs",), ("ours", "theirs")),
    ):
        store = SqlAlchemyStore(pair.tracking_uri, "mlflow-artifacts:/")
        for name in scorers:
            store.register_scorer("0", name, serialized_scorer(name))
        for name in servers:
            store.create_mcp_server(f"org.ex/{name}")
    done = copied(source, target, expect=3)
    assert [loss[2] for loss in done.losses] == ["permissions.run 0123", "permissions.weird x"]
    assert done.report["adjusted"]["role.permissions (of what did not come)"] == 3
    assert {row[2:4] for row in target.rows()["role_permissions"]} == {
        *(("scorer", "0/ours"), ("scorer", "*"), ("run", "*")),
        *(("mcp_server", "org.ex/ours"), ("mcp_server", "*")),
    }
    sides = (source.tracking_uri, target.tracking_uri, "--artifacts", "skip")
    dbs = ("--a-auth-db", source.auth_uri, "--b-auth-db", target.auth_uri)
    found = run("diff", *sides, *dbs, expect=3).report["differences"]
    assert [d["field"] for d in found if d["kind"] == "role"] == [
        f"permissions[{name}].{part}"
        for name in ("run 0123", "weird x")
        for part in ("name", "permission")
    ]


def test_permissions_on_skills_are_known_where_mlflow_has_them(tmp_path: Path) -> None:
    """It has them since 3.18; one of a skill is called as the skill is."""
    source = filled(
        tmp_path / "source",
        "INSERT INTO roles (id, name, workspace) VALUES (1, 'r', 'default')",
        *(
            "INSERT INTO role_permissions (role_id, resource_type, resource_pattern, permission)"
            f" VALUES (1, 'skill', '{pattern}', '{permission}')"
            for pattern, permission in (("*", "DENY"), ("@acme/gone", "EDIT"), ("gone", "READ"))
        ),
    )
    target = filled(tmp_path / "target")
    done = copied(source, target, expect=0 if has(3, 18) else 3)
    permissions = {row[2:5] for row in target.rows()["role_permissions"]}
    if has(3, 18):
        assert permissions == {("skill", "*", "DENY")}
        assert done.report["adjusted"]["role.permissions (of what did not come)"] == 2
    else:
        assert permissions == set()
        reasons = {loss["reason"] for loss in done.report["lost"]}
        assert reasons == {"the installed MLflow knows no type of resource 'skill'"}
    remap = Remap()
    for id in ("@acme/here", "here"):
        remap.place("skill", id, id)
        grant = Permission(resource_type="skill", resource_pattern=id, permission="MANAGE")
        assert rewrite_permission(grant, remap) == grant


class _Refusing(Sink):
    """A sink that takes nothing."""

    reserved_kinds = ()

    def begin(self, source: SourceInfo, selection: Selection) -> None:
        """Nothing is written."""

    def put(self, content: Content) -> None:
        raise SinkError("no", status=403)

    def finish(self) -> None:
        """Nothing was written."""


def test_what_the_destination_refuses_is_given_to_nobody(tmp_path: Path) -> None:
    importing = Importing(
        report=Report(),
        remap=Remap(),
        options=ImportOptions(),
        progress=SilentProgress(),
        files=ThreadPoolExecutor(1),
    )
    to = AuthDestination(filled(tmp_path / "target").auth_uri)
    sink = AuthSink(_Refusing(), importing, AuthWriter(to, importing, workspace="default"))
    server = McpServer(name="org.ex/a")
    grant = Permission(resource_type="mcp_server", resource_pattern="org.ex/a", permission="READ")
    sink.reserve(server)
    assert rewrite_permission(grant, importing.remap) == grant
    with pytest.raises(SinkError, match="no"):
        sink.put(Content(entity=server))
    assert rewrite_permission(grant, importing.remap) is None
    to.close()


def test_roles_of_a_workspace_that_only_the_users_know_are_lost(tmp_path: Path) -> None:
    source = filled(
        tmp_path / "source",
        "INSERT INTO roles (id, name, workspace) VALUES (1, 'a', 'ghost'), (2, 'b', 'ghost'),"
        " (3, 'a', 'default')",
    )
    bundle, again = tmp_path / "ghost.mlbundle", tmp_path / "again.mlbundle"
    done = run("export-all", "-o", bundle, *source.words_with_auth, expect=3)
    assert done.losses == [("workspace", "ghost", "")]
    assert "2 roles in it" in done.report["lost"][0]["reason"]
    words = (*source.words_with_auth, "--complete", bundle)
    assert run("export-all", "-o", again, *words, expect=3).losses == done.losses
    run("export-all", "-o", again, *source.words_with_auth, "--workspace", "default", "--force")
    assert copied(source, filled(tmp_path / "target"), expect=3).losses == done.losses


def test_what_postgresql_cannot_hold_is_lost_and_the_rest_arrives(
    tmp_path: Path, prerequisite: Demand
) -> None:
    prerequisite(is_reachable("postgresql"), "a postgresql server")
    source = filled(
        tmp_path / "source",
        "INSERT INTO users VALUES (1, 'ana', 'x', 0), (2, 'nul' || char(0), 'x', 0)",
        "INSERT INTO roles (id, name, workspace) VALUES (1, 'r', 'default'),"
        " (2, 'nul' || char(0), 'default')",
        "INSERT INTO user_role_assignments (user_id, role_id) VALUES (1, 1), (1, 2), (2, 1)",
        "INSERT INTO role_permissions (role_id, resource_type, resource_pattern, permission)"
        " VALUES (1, 'registered_model', 'm' || char(0), 'READ'), (1, 'run', '*', 'READ')",
    )
    with closing(sqlite3.connect(source.directory / "mlflow.db")) as connection:
        connection.execute(
            "INSERT INTO registered_models (workspace, name) VALUES ('default', 'm' || char(0))"
        )
        connection.commit()
    (tmp_path / "target").mkdir()
    with new_database("postgresql") as uri:
        target = Pair(tmp_path / "target", uri)
        losses = [
            ("role", "nul\0", ""),
            ("role", "r", "permissions.registered_model m\0"),
            ("user", "nul\0", ""),
        ]
        assert copied(source, target, expect=3).losses == losses
        rows = target.rows()
        assert [row[1] for row in rows["users"]] == ["ana"]
        assert [row[1] for row in rows["roles"]] == ["r"]
        assert [row[2] for row in rows["role_permissions"]] == ["run"]
        assert len(rows["user_role_assignments"]) == 1
        assert copied(source, target, "--dry-run", expect=3).losses == losses


def test_users_that_come_together_are_all_there_whatever_else_they_have(tmp_path: Path) -> None:
    source = filled(
        tmp_path / "source",
        "INSERT INTO users VALUES (1, 'ann', 'x', 0), (2, 'bob', 'x', 0), (3, 'carl', 'x', 0)",
        "INSERT INTO roles (id, name, workspace) VALUES (1, 'r', 'default'), (2, 's', 'default')",
        "INSERT INTO user_role_assignments (user_id, role_id)"
        " VALUES (1, 1), (2, 1), (3, 1), (3, 2)",
    )
    target = filled(
        tmp_path / "target",
        "INSERT INTO users VALUES (1, 'ann', 'x', 0)",
        "INSERT INTO roles (id, name, workspace) VALUES (1, 'theirs', 'default')",
        "INSERT INTO user_role_assignments (user_id, role_id) VALUES (1, 1)",
    )
    (tmp_path / "users.csv").write_text("bob,zed\ncarl,zed\n")
    mapped = ("--user-map", str(tmp_path / "users.csv"))
    bundle = tmp_path / "users.mlbundle"
    run("export-all", "-o", bundle, *source.words_with_auth)
    run("import-all", bundle, *target.words_with_auth, *mapped, "--verify")
    sides = (bundle, target.tracking_uri, "--b-auth-db", target.auth_uri, "--artifacts", "skip")
    result = run("diff", *sides, *mapped, expect=3).report
    told = [(d["kind"], d["id"], d["field"], d["b"]) for d in result["differences"]]
    assert told == [("user", "ann", "roles", '"theirs"'), ("role", "theirs", "", None)]
    assert result["kinds"]["user"] == {"equal": 2, "different": 1, "only_in_a": 0, "only_in_b": 0}
    target.execute("DELETE FROM user_role_assignments WHERE role_id = 3")
    against = ("--against", target.tracking_uri, "--auth-db", target.auth_uri)
    lacking = run("verify", bundle, *against, "--artifacts", "skip", *mapped, expect=3).report
    told = [(d["id"], d["a"]) for d in lacking["against"]["differences"]]
    assert told == [("bob", '"s"')]


# What is no database of users


def test_what_is_no_database_of_users_is_refused_before_anything_is_made(
    source: Source, bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE hello (a INTEGER)")
    gone = tmp_path / "gone.db"
    newer = made(tmp_path / "newer")
    (newer.directory / "auth.db").write_bytes((source.pair.directory / "auth.db").read_bytes())
    newer.execute("UPDATE alembic_version_auth SET version_num = 'ffffffffffff'")
    behind = made(tmp_path / "behind")
    (behind.directory / "auth.db").write_bytes((source.pair.directory / "auth.db").read_bytes())
    behind.execute("UPDATE alembic_version_auth SET version_num = 'c3d4e5f6a7b8'")
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out.mlbundle"
    for uri, message, code in (
        (f"sqlite:///{other}", "holds no users of MLflow's basic-auth app", 1),
        (source.pair.tracking_uri, "holds no users of MLflow's basic-auth app", 1),
        (f"sqlite:///{gone}", "there is no database", 1),
        ("http://127.0.0.1:1", "is no database that can be used", 2),
        (f"sqlite:///{bundle}", "file is not a database", 1),
    ):
        words = (*source.pair.words, "--auth-db", uri)
        assert message in run("export-all", "-o", out, *words, expect=code).stderr
    target = Pair(tmp_path / "target")
    for uri, message, code in (
        (f"sqlite:///{other}", "tables that are not those of MLflow's basic-auth app", 1),
        (newer.auth_uri, "that the installed MLflow does not know (schema ffffffffffff", 1),
        (behind.auth_uri, "of an older MLflow (schema c3d4e5f6a7b8", 1),
        ("http://127.0.0.1:1", "is no database that can be used", 2),
    ):
        words = (*target.words, "--auth-db", uri)
        assert message in run("import-all", bundle, *words, expect=code).stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_permissions_that_a_server_would_stumble_over_are_lost(
    bundle: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    command("extract", bundle, "-o", tree)
    path = tree / "users" / "ana" / "user.json"
    document = json.loads(path.read_text())
    document["entity"]["permissions"][0]["permission"] = "EVERYTHING"
    path.write_text(json.dumps(document))
    role = tree / "roles" / "__user_1__" / "role.json"
    role.parent.mkdir()
    hidden = {"export_info": {}, "kind": "role", "entity": {"name": "__user_1__"}}
    role.write_text(json.dumps(hidden))
    target = made(tmp_path / "target")
    done = command(
        *("import-all", "--input-dir", tree, *target.words_with_auth, "--json", "--quiet"),
        expect=3,
    )
    assert [loss[:2] for loss in done.losses] == [("role", "__user_1__"), ("user", "ana")]
    assert "EVERYTHING" not in {row[4] for row in target.rows()["role_permissions"]}


@pytest.fixture
def half_made(bundle: Path, tmp_path: Path) -> Pair:
    """A database of users that takes no roles."""
    target = made(tmp_path / "target")
    run("import-all", bundle, *target.words_with_auth)
    target.execute(
        *(f"DELETE FROM {table}" for table in reversed(TABLES)),
        "CREATE TRIGGER full BEFORE INSERT ON role_permissions "
        "WHEN (SELECT count(*) FROM role_permissions) > 1 "
        "BEGIN SELECT raise(ABORT, 'no more'); END",
    )
    return target


def test_not_even_a_traceback_shows_the_hash_of_a_password(
    half_made: Pair, secret_bundle: Path
) -> None:
    half_made.execute(
        "CREATE TRIGGER nobody BEFORE INSERT ON users BEGIN SELECT raise(ABORT, 'nobody'); END"
    )
    words = (*half_made.words_with_auth, "--include-secrets")
    done = command("import-all", secret_bundle, *words, expect=1, env={"MLFLOW_BUNDLE_DEBUG": "1"})
    assert "INSERT INTO users" in done.stderr
    assert "hide_parameters" in done.stderr
    assert "scrypt:" not in done.stdout + done.stderr


def test_users_are_written_all_or_none(half_made: Pair, bundle: Path) -> None:
    done = run("import-all", bundle, *half_made.words_with_auth, expect=1)
    assert "no more" in done.stderr
    assert set(map(len, half_made.rows().values())) == {0}
    half_made.execute("DROP TRIGGER full")
    run("import-all", bundle, *half_made.words_with_auth)
    assert len(half_made.rows()["users"]) == 4
