"""Values that are odd, twice there or too long, in every database."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import sqlalchemy
from mlflow.store.db.utils import InitialBase

from mlflow_bundle.contracts import Content, NoArtifacts
from mlflow_bundle.entities import Experiment, MetricHistory, RegisteredModel, Run, RunInfo
from mlflow_bundle.errors import SinkError
from mlflow_bundle.importing import ImportOptions
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.sql.artifacts import ArtifactStore
from mlflow_bundle.sql.readers import points
from mlflow_bundle.sql.sink import SqlSink
from mlflow_bundle.sql.source import SqlSource
from mlflow_bundle.transfer import transfer
from tests.bundles.memory import MemorySource
from tests.installed import has
from tests.sql.databases import execute, is_reachable, new_database, rows
from tests.sql.imports import Place

pytestmark = pytest.mark.slow

Demand = Callable[[object, str], None]

RUN_ID = "0123456789abcdef0123456789abcdef"
LARGEST = 1.7976931348623157e308


@pytest.fixture
def uri(destination: Place) -> str:
    """A database of each kind, as MLflow makes it."""
    return destination.uri


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def empty_uri(
    request: pytest.FixtureRequest, tmp_path: Path, prerequisite: Demand
) -> Iterator[str]:
    """A database that holds nothing."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/mlflow.db"
        return
    prerequisite(is_reachable(request.param), f"a {request.param} server")
    with new_database(request.param) as made:
        yield made


def put(uri: str, *contents: Content) -> Report:
    report = Report()
    sink = SqlSink(
        uri, report, options=ImportOptions(), artifact_store=ArtifactStore(error=SinkError)
    )
    try:
        transfer(MemorySource(contents), sink, Selection.all(), report, jobs=1)
    finally:
        sink.close()
    return report


def history(key: str, *points: tuple[int, float]) -> MetricHistory:
    """Points by step, each logged at the time of its step."""
    return MetricHistory(
        key=key,
        values=[value for _, value in points],
        timestamps=[1000 + step for step, _ in points],
        steps=[step for step, _ in points],
    )


def contents(run_id: str, *histories: MetricHistory, **params: str) -> tuple[Content, Content]:
    keys = sorted({entry.key for entry in histories})
    info = RunInfo(run_id=run_id, experiment_id="7", run_name="r", user_id="u", start_time=1)
    run = Run(info=info, params=params, metric_keys=keys)
    experiment = Experiment(experiment_id="7", name="odd")
    return Content(entity=run, histories=lambda: histories), Content(entity=experiment)


def points_of(history: MetricHistory) -> list[tuple[int, int, float]]:
    return sorted(zip(history.steps, history.timestamps, history.values, strict=True))


def read_back(uri: str) -> dict[str, list[tuple[int, int, float]]]:
    """Points of the one run there is, by key."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    source = SqlSource(uri, open_tree=lambda location: NoArtifacts())
    with contextlib.closing(source):
        source.select(Selection.all(), Report())
        for content in source.iter_contents():
            if isinstance(content.entity, Run):
                for part in content.histories():
                    found.setdefault(part.key, []).extend(points_of(part))
    return {key: sorted(each) for key, each in found.items()}


def test_points_that_come_twice_are_there_once(uri: str) -> None:
    twice = history("m", (1, 0.5), (1, 0.5), (2, 1.5))
    more = history("m", (2, 1.5), (3, 2.5))
    report = put(uri, *contents(RUN_ID, twice, more))
    assert report.losses == []
    found = rows(uri, "SELECT step, value FROM metrics ORDER BY step")
    assert found == [(1, 0.5), (2, 1.5), (3, 2.5)]
    assert rows(uri, "SELECT step, value FROM latest_metrics") == [(3, 2.5)]
    # Once the indexes are there, too.
    report = put(uri, *contents(RUN_ID, twice, more, history("m", (4, 1.0), (4, 1.0))))
    assert report.done["metric_point"] == 1
    assert rows(uri, "SELECT step, value FROM latest_metrics") == [(4, 1.0)]


def test_values_that_are_no_numbers_are_kept_as_mlflow_keeps_them(uri: str) -> None:
    odd = history("m", (1, math.nan), (2, math.inf), (3, -math.inf), (4, math.nan))
    assert put(uri, *contents(RUN_ID, odd)).losses == []
    found = rows(uri, "SELECT step, value, is_nan FROM metrics ORDER BY step")
    assert [(step, value, bool(is_nan)) for step, value, is_nan in found] == [
        (1, 0.0, True),
        (2, LARGEST, False),
        (3, -LARGEST, False),
        (4, 0.0, True),
    ]
    latest = rows(uri, "SELECT step, value, is_nan FROM latest_metrics")
    assert [(step, value, bool(is_nan)) for step, value, is_nan in latest] == [(4, 0.0, True)]


def test_points_come_back_to_the_last_bit(uri: str) -> None:
    keys = ["a/b", "100%s", "back\\slash", "quote'\"", "ü 日本 😀", "tab\tline\n", "x" * 250]
    values = [5e-324, -0.0, LARGEST, 1e22, 0.1, -1 / 3]
    histories = [
        MetricHistory(
            key=key,
            values=values,
            timestamps=[0, 2**63 - 1, -1, 1_700_000_000_000, 5, 6],
            steps=[-(2**63), 2**63 - 1, 0, 1, 2, 3],
        )
        for key in keys
    ]
    assert put(uri, *contents(RUN_ID, *histories)).losses == []
    given = points_of(histories[0])
    # Only the sign of zero is nothing that SQLite and MySQL would keep.
    assert read_back(uri) == dict.fromkeys(keys, given)


def test_keys_that_begin_alike_keep_their_points(uri: str) -> None:
    histories = [
        history("日" * 200 + end, *((step, base + step) for step in range(30)))
        for end, base in (("A", 1000.0), ("B", 2000.0), ("a", 3000.0))
        if not (end == "a" and uri.startswith("mysql"))  # it takes A and a for one
    ]
    assert put(uri, *contents(RUN_ID, *histories)).losses == []
    assert read_back(uri) == {each.key: points_of(each) for each in histories}


@pytest.mark.parametrize(
    ("dialect", "options"),
    [("mysql", "CHARACTER SET latin1"), ("postgresql", "")],
    ids=["latin1", "rounding"],
)
def test_long_histories_come_back_whole(
    dialect: str, options: str, prerequisite: Demand, monkeypatch: pytest.MonkeyPatch
) -> None:
    prerequisite(is_reachable(dialect), f"a {dialect} server")
    if has(3, 18):  # whose own migrations make no tables in a latin1 database
        options = ""
    monkeypatch.setattr(points, "POINTS_PER_CHUNK", 7)
    monkeypatch.setenv("PGOPTIONS", "-c extra_float_digits=0")
    histories = [
        history(key, *((step, step / 3) for step in range(20))) for key in ("précision", "p")
    ]
    with new_database(dialect, options) as uri:
        assert put(uri, *contents(RUN_ID, *histories)).losses == []
        assert read_back(uri) == {each.key: points_of(each) for each in histories}


def test_a_column_of_another_type_gets_no_garbage(prerequisite: Demand) -> None:
    prerequisite(is_reachable("postgresql"), "a postgresql server")
    many = history("m", *((step, step / 2) for step in range(10)))
    with new_database("postgresql") as uri:
        put(uri, Content(entity=Experiment(experiment_id="7", name="odd")))
        execute(uri, "ALTER TABLE metrics ALTER COLUMN step TYPE numeric")
        execute(uri, "ALTER TABLE metrics ALTER COLUMN timestamp TYPE double precision")
        assert put(uri, *contents(RUN_ID, many)).losses == []
        assert read_back(uri) == {"m": points_of(many)}


def test_a_full_disk_for_temporary_files_is_told_as_such(
    prerequisite: Demand, monkeypatch: pytest.MonkeyPatch
) -> None:
    prerequisite(is_reachable("postgresql"), "a postgresql server")

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "no space left")

    with new_database("postgresql") as uri:
        put(uri, *contents(RUN_ID, history("m", (1, 0.5))))
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
        with pytest.raises(OSError, match="no space left") as caught:
            read_back(uri)
    assert caught.value.filename == tempfile.gettempdir()


def test_tables_that_a_killed_import_began_with_are_no_obstacle(empty_uri: str) -> None:
    engine = sqlalchemy.create_engine(empty_uri, poolclass=sqlalchemy.NullPool)
    InitialBase.metadata.create_all(engine)
    many = history("m", (1, 0.5))
    assert put(empty_uri, *contents(RUN_ID, many)).losses == []
    assert read_back(empty_uri) == {"m": points_of(many)}


def test_a_database_of_before_there_were_revisions_is_not_taken_for_an_empty_one(
    empty_uri: str,
) -> None:
    engine = sqlalchemy.create_engine(empty_uri, poolclass=sqlalchemy.NullPool)
    InitialBase.metadata.create_all(engine)
    execute(empty_uri, "INSERT INTO experiments (experiment_id, name) VALUES (1, 'old')")
    with pytest.raises(SinkError, match="of an older MLflow"):
        put(empty_uri, *contents(RUN_ID))
    assert rows(empty_uri, "SELECT name FROM experiments") == [("old",)]


def test_a_text_that_no_driver_can_send_is_lost_alone(uri: str) -> None:
    report = put(uri, *contents(RUN_ID, history("m", (1, 0.5)), bad="\ud800", good="x"))
    assert [loss.field for loss in report.losses] == ["params.bad"]
    assert rows(uri, "SELECT params.key FROM params") == [("good",)]
    assert rows(uri, "SELECT metrics.key, step FROM metrics") == [("m", 1)]


def test_a_number_that_no_driver_can_send_is_lost_alone(uri: str) -> None:
    if uri.startswith("mysql"):
        return  # it takes the largest number for it, as documented of INSERT IGNORE
    late = MetricHistory(key="late", values=[1.0, 2.0], timestamps=[1, 2**63], steps=[1, 2])
    report = put(uri, *contents(RUN_ID, history("m", (1, 0.5)), late))
    assert {loss.field for loss in report.losses} == {"metrics.late"}
    found = rows(uri, "SELECT metrics.key, timestamp FROM metrics ORDER BY metrics.key")
    assert found == [("late", 1), ("m", 1001)]


def test_what_the_database_refused_is_not_counted_as_done(uri: str) -> None:
    if uri.startswith("mysql"):
        return  # it takes the largest number for it, as documented of INSERT IGNORE
    run, experiment = contents(RUN_ID, history("m", (1, 0.5)))
    assert isinstance(run.entity, Run)
    late = msgspec.structs.replace(run.entity.info, run_id=f"{RUN_ID[:-1]}x", start_time=2**63)
    refused = replace(run, entity=msgspec.structs.replace(run.entity, info=late))
    report = put(uri, run, refused, experiment)
    assert [(loss.kind, loss.id, loss.field) for loss in report.losses] == [
        ("run", late.run_id, "")
    ]
    assert report.done["run"] == 1
    assert rows(uri, "SELECT run_uuid FROM runs") == [(RUN_ID,)]
    assert put(uri, run, refused, experiment).done == {}


def test_a_database_of_another_encoding_keeps_what_that_has(prerequisite: Demand) -> None:
    prerequisite(is_reachable("postgresql"), "a postgresql server")
    options = "TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
    with new_database("postgresql", options) as uri:
        histories = (history("größe", (1, 0.5)), history("日本", (1, 0.5)), history("m", (1, 0.5)))
        model = RegisteredModel(name="m", description="日本")
        lost = Content(entity=RegisteredModel(name="日本"))
        made = contents(RUN_ID, *histories, straße="ä", other="日本")
        report = put(uri, *made, Content(entity=model), lost)
        assert {(loss.id, loss.field) for loss in report.losses} == {
            *((RUN_ID, field) for field in ("metrics.日本", "params.other")),
            *(("m", "description"), ("日本", "")),
        }
        assert all("LATIN1" in loss.reason for loss in report.losses)
        assert rows(uri, "SELECT name, description FROM registered_models") == [("m", None)]
        assert put(uri, *made, Content(entity=model), lost).done == {}
        assert rows(uri, "SELECT params.key, value FROM params") == [("straße", "ä")]
        assert sorted(rows(uri, "SELECT metrics.key FROM metrics")) == [("größe",), ("m",)]


def test_texts_come_back_as_they_were(uri: str) -> None:
    texts = {
        "tab": "a\tb",
        "lines": "a\nb\r\nc\\.\n\\.\nd",
        "backslash": "\\N \\\\ \\x41",
        "quotes": "'\"`",
        "percent": "%s %(a)s %%",
        "empty": "",
        "wide": "ü 日本 😀",
    }
    assert put(uri, *contents(RUN_ID, **texts)).losses == []
    assert dict(rows(uri, "SELECT params.key, value FROM params")) == texts  # type: ignore[arg-type]


def test_a_text_that_a_database_cannot_hold_is_a_loss_of_that_field(uri: str) -> None:
    report = put(uri, *contents(RUN_ID, good="x", nul="a\0b", long="y" * 9000))
    kept = {str(key) for (key,) in rows(uri, "SELECT params.key FROM params")}
    lost = {loss.field.removeprefix("params.") for loss in report.losses}
    assert "good" in kept
    assert kept | lost == {"good", "nul", "long"}
    assert not kept & lost
    expected = {"postgresql": {"nul", "long"}, "mysql": {"long"}, "sqlite": set()}
    assert lost == expected[uri.partition(":")[0].partition("+")[0]]


def test_an_id_that_is_too_long_gives_way_to_one_that_fits(uri: str) -> None:
    report = put(uri, *contents("a-run-with-an-id-of-its-own-that-is-long"))
    assert report.losses == []
    ((found,),) = rows(uri, "SELECT run_uuid FROM runs")
    if uri.startswith("sqlite"):
        assert found == "a-run-with-an-id-of-its-own-that-is-long"
    else:
        assert len(str(found)) == 32
        origin = rows(uri, "SELECT value FROM tags WHERE tags.key = 'mlflow_bundle.origin'")
        assert origin == [("a-run-with-an-id-of-its-own-that-is-long",)]
    assert sum(put(uri, *contents("a-run-with-an-id-of-its-own-that-is-long")).done.values()) == 0
