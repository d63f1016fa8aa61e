"""Imports into PostgreSQL and MariaDB: what they cannot hold is a loss, all else arrives."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from mlflow_bundle.errors import SinkError, SourceError
from mlflow_bundle.sql.database import Database
from tests.compare import row_dump
from tests.servers import MlflowServer
from tests.sql.databases import execute, is_reachable, new_database, read_back, server_uri
from tests.sql.imports import Place, import_into
from tests.sql.test_sink import exemptions
from tests.tables import changed_rows, compare_databases

pytestmark = [pytest.mark.server, pytest.mark.slow]

Demand = Callable[[object, str], None]

LOST = {
    # A name of 500 characters, and what lies in that experiment.
    "postgresql": {
        ("experiment", "", "500 characters; the destination keeps 256"),
        ("run", "", "could not be made"),
        ("registered_model", "tags.ü/b c", "50000 characters; the destination keeps 5000"),
    },
    # Two models whose names differ in case only, and a long prompt, too.
    "mysql": {
        ("experiment", "", "500 characters; the destination keeps 256"),
        ("run", "", "could not be made"),
        ("registered_model", "", "the database takes it for 'SKLEARN_IRIS'"),
        ("prompt_version", "tags.mlflow.prompt.text", "99000 bytes; the destination keeps 65535"),
    },
}


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"])
def test_everything_that_fits_arrives_and_a_second_import_changes_nothing(
    dialect: str,
    full_server: MlflowServer,
    full_bundle: Path,
    tmp_path: Path,
    prerequisite: Demand,
) -> None:
    prerequisite(is_reachable(dialect), f"a {dialect} server")
    with new_database(dialect) as uri:
        target = Place(uri, tmp_path / "artifacts")
        report = import_into(target, full_bundle, placeholder_secrets=True)
        assert len(report.losses) == len(LOST[dialect])
        for loss in report.losses:
            assert any(
                loss.kind == kind and loss.field == field and reason in loss.reason
                for kind, field, reason in LOST[dialect]
            ), loss
        copy = read_back(uri, tmp_path / "first.db")
        comparison = compare_databases(
            full_server.database, copy, exempt=exemptions(), may_lack=True
        )
        # What names something that was lost differs, and a text that was lost is null.
        names = ("sklearn_iris", "ü/b c", "mlflow.prompt.text", "mlflow.modelVersions")
        assert [
            line
            for line in comparison.differences
            if not any(name in line for name in names) and "copy of iris" not in line
        ] == []
        import_into(target, full_bundle, placeholder_secrets=True)
        again = read_back(uri, tmp_path / "second.db")
        assert list(changed_rows(row_dump(copy), again)) == []
        highest = scalar(uri, "SELECT max(experiment_id) FROM experiments")
        assert next_experiment(uri) == highest + 1


def scalar(uri: str, statement: str) -> int:
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(statement).scalar() or 0)


def next_experiment(uri: str) -> int:
    """Make an experiment as a server does."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return int(SqlAlchemyStore(uri, "mlflow-artifacts:/").create_experiment("made afterwards"))


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"])
def test_two_imports_at_once_are_refused(
    dialect: str, genai_bundle: Path, tmp_path: Path, prerequisite: Demand
) -> None:
    prerequisite(is_reachable(dialect), f"a {dialect} server")
    with new_database(dialect) as uri:
        target = Place(uri, tmp_path / "artifacts")
        import_into(target, genai_bundle, placeholder_secrets=True)
        database = Database(uri, error=SinkError)
        with database.dialect.lock(database.engine) as is_held:
            assert is_held
            with pytest.raises(SinkError, match="another import is writing to"):
                import_into(target, genai_bundle)
        import_into(target, genai_bundle)


def test_who_may_write_rows_may_import(
    genai_bundle: Path, tmp_path: Path, prerequisite: Demand
) -> None:
    prerequisite(is_reachable("postgresql"), "a postgresql server")
    user = f"mlflow_bundle_{uuid.uuid4().hex[:12]}"
    password = make_url(server_uri("postgresql")).password
    rights = (
        f"CREATE ROLE {user} LOGIN PASSWORD '{password or ''}'",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}",
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {user}",
    )
    with new_database("postgresql", empty=False) as uri:
        for statement in rights:
            execute(uri, statement)
        theirs = make_url(uri).set(username=user).render_as_string(hide_password=False)
        try:
            target = Place(theirs, tmp_path / "artifacts")
            report = import_into(target, genai_bundle, placeholder_secrets=True)
            assert report.done["run"] > 0
            assert import_into(target, genai_bundle, placeholder_secrets=True).done == {}
            highest = scalar(uri, "SELECT max(experiment_id) FROM experiments")
            assert next_experiment(uri) == highest + 1
        finally:
            execute(uri, f"DROP OWNED BY {user}")
            execute(uri, f"DROP ROLE {user}")


def test_a_lock_ends_with_its_import_though_a_pooler_keeps_the_session(
    prerequisite: Demand,
) -> None:
    prerequisite(is_reachable("postgresql"), "a postgresql server")
    with new_database("postgresql") as uri, closing(Database(uri, error=SinkError)) as database:
        pool = sqlalchemy.create_engine(uri)
        with database.dialect.lock(pool) as first, database.dialect.lock(database.engine) as second:
            assert (first, second) == (True, False)
        with database.dialect.lock(database.engine) as is_held:
            assert is_held
        pool.dispose()


@pytest.mark.parametrize(
    ("dialect", "session", "end"),
    [
        ("postgresql", "SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
        ("mysql", "SELECT connection_id()", "KILL {}"),
    ],
)
def test_a_session_that_the_server_has_ended_is_closed_quietly(
    dialect: str,
    session: str,
    end: str,
    prerequisite: Demand,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prerequisite(is_reachable(dialect), f"a {dialect} server")
    with new_database(dialect, empty=False) as uri:
        database = Database(uri, error=SourceError)
        connection = database.engine.connect()
        number = connection.exec_driver_sql(session).scalar_one()
        execute(server_uri(dialect), end.format(number))
        connection.connection.close()  # as SQLAlchemy does for one whose end it did not see
        assert [r.msg for r in caplog.records if r.levelname == "ERROR"] == []
        number = database.state.exec_driver_sql(session).scalar_one()
        execute(server_uri(dialect), end.format(number))
        database.close()
