"""A file store tells what MLflow's server on it tells, and is left as it is."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_bundle.entities import Experiment, LoggedModel, RegisteredModel, Run
from mlflow_bundle.errors import SourceError
from mlflow_bundle.filestore.source import FileStoreSource
from mlflow_bundle.kinds.traces import Trace
from mlflow_bundle.report import Report
from mlflow_bundle.rest.source import RestSource
from mlflow_bundle.selection import Selection, parse_experiments, parse_models
from mlflow_bundle.sql.artifacts import ArtifactStore
from tests.servers import launch_server
from tests.sql.told import Key, Told, differences, tell


def opened(root: Path) -> FileStoreSource:
    return FileStoreSource(root, store=ArtifactStore(error=SourceError))


def told_of(root: Path, selection: Selection | None = None) -> tuple[dict[Key, Told], Report]:
    report = Report("test")
    source = opened(root)
    try:
        return tell(source, selection, report), report
    finally:
        source.close()


def digests(root: Path) -> dict[str, str]:
    """Every file and directory below one, with what it holds and when it was changed."""
    return {
        str(path.relative_to(root)): (
            f"{path.stat().st_mtime_ns} "
            + (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture(scope="module")
def told(store: Path) -> dict[Key, Told]:
    before = digests(store)
    told, report = told_of(store)
    assert report.losses == []
    assert digests(store) == before
    return told


def run_named(told: dict[Key, Told], name: str) -> Told:
    (found,) = (
        one
        for one in told.values()
        if isinstance(one.entity, Run) and one.entity.info.run_name == name
    )
    return found


def directory_of(root: Path, run: Told) -> Path:
    assert isinstance(run.entity, Run)
    return root / run.entity.info.experiment_id / run.entity.id


def _sorted(told: Told) -> dict[str, Any]:
    """What REST tells; a file store gives assessments in the order of its directory."""
    fields = told.over_rest()
    fields["record"].get("assessments", []).sort(key=lambda one: one["assessment_id"])
    return fields


@pytest.mark.server
def test_it_tells_what_a_server_on_it_tells(
    store: Path, told: dict[Key, Told], tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "mlruns")
    server = launch_server(
        tmp_path / "server",
        backend_uri=(tmp_path / "mlruns").as_uri(),
        env={"MLFLOW_ALLOW_FILE_STORE": "true"},
    )
    report = Report("test")
    try:
        source = RestSource(server.uri)
        over_rest = tell(source, report=report)
        source.close()
    finally:
        server.stop()
    assert [loss for loss in report.losses if loss.id == "all"] == []
    (note,) = [note for note in report.notes if "in files, not in a database" in note]
    assert "gateway_secret" in note
    assert "webhook" in note
    assert "trace" not in note
    left = []
    gone = {
        one.entity.id
        for one in told.values()
        if isinstance(one.entity, Experiment) and one.entity.lifecycle_stage == "deleted"
    }
    for key, there in over_rest.items():
        if key not in told:
            left.append(f"{key} is missing")
            continue
        for path, a, b in differences(key[0], _sorted(there), _sorted(told[key])):
            if key[2] in gone and path == "run.files":
                continue  # a server looks for them where they were before the deletion
            if path == "run.histories[]" and a[0] == "of":
                continue  # a server takes 0 for the step of points with a dataset
            if path == "registered_model.record.versions[].storage_location" and a is None:
                continue  # servers are asked only for versions of versions
            left.append(f"{key} {path}: {a!r} != {b!r}"[:400])
    assert "\n".join(left) == ""


def test_everything_is_found(told: dict[Key, Told]) -> None:
    kinds = sorted(kind for kind, _, _ in told)
    assert kinds == sorted(
        [Experiment.kind] * 4
        + [Run.kind] * 5
        + [LoggedModel.kind] * 3
        + [RegisteredModel.kind, "prompt", Trace.kind]
    )


def test_a_point_that_stands_twice_is_one(copy: Path, told: dict[Key, Told]) -> None:
    file = directory_of(copy, run_named(told, "kept")) / "metrics" / "loss" / "train"
    lines = file.read_text()
    file.write_text(lines + lines.splitlines(keepends=True)[0])
    assert "1 metric point stands twice" in "".join(told_of(copy)[1].notes)
    file.write_text(lines + lines + "2000 0.25\n")
    again, report = told_of(copy)
    before = run_named(told, "kept").histories["loss/train"]
    assert run_named(again, "kept").histories["loss/train"] == [*before, ("0.25", 2000, 0)]
    assert "4 metric points stand twice" in "".join(report.notes)


def test_what_is_damaged_is_lost_and_nothing_else(copy: Path, told: dict[Key, Told]) -> None:
    kept = run_named(told, "kept")
    directory = directory_of(copy, kept)
    (directory / "metrics" / "loss" / "train").write_text("1 0.5 0\nhalf a li")
    (directory / "params" / "rate").write_bytes(b"\xff")
    (copy / "named").mkdir()
    (copy / "named" / "meta.yaml").write_text("experiment_id: named")
    (model,) = copy.glob("*/models/*/metrics/acc")
    model.write_text(2 * model.read_text() + model.read_text().replace("0.9", "0.8"))
    (other,) = (
        key
        for key, one in told.items()
        if isinstance(one.entity, Run) and one.entity.info.status == "FAILED"
    )
    (directory_of(copy, told[other]) / "meta.yaml").write_text("run_id: [")
    (copy / "models" / "iris" / "version-1" / "meta.yaml").write_text("name: iris")
    again, report = told_of(copy)
    assert {
        (loss.kind, loss.id, loss.field, loss.reason.split(": ", 1)[1]) for loss in report.losses
    } == {
        ("run", kept.entity.id, "metrics.loss/train", "line 2 is malformed: 'half a li'"),
        ("run", kept.entity.id, "params.rate", "not UTF-8"),
        ("run", other[1], "", "no YAML: while parsing a flow node"),
        (
            *("logged_model", model.parts[-3], "metrics.acc"),
            "1 values at times and steps that have another one",
        ),
        ("experiment", "named", "", "its id is no number"),
        ("model_version", "iris/1", "", "'version' is missing"),
    }
    assert set(told) - set(again) == {other}
    assert run_named(again, "kept").histories == {"loss/train": [("0.5", 1, 0)]}


def test_losses_of_what_was_not_selected_are_not_told(copy: Path, told: dict[Key, Told]) -> None:
    directory = directory_of(copy, run_named(told, "kept"))
    (directory / "params" / "rate").write_bytes(b"\xff")
    _, report = told_of(copy, Selection(experiments=parse_experiments(["Default"])))
    assert report.losses == []
    _, report = told_of(copy, Selection(experiments=parse_experiments(["one"])))
    assert [loss.field for loss in report.losses] == ["params.rate"]


def test_a_model_comes_with_what_it_depends_on(store: Path) -> None:
    told, report = told_of(store, Selection(models=parse_models(["iris/1"])))
    kinds = sorted(kind for kind, _, _ in told)
    assert kinds == ["experiment", "logged_model", "registered_model", "run"]
    assert report.losses == []


def test_files_are_found_where_the_directory_was_moved_to(
    store: Path, copy: Path, told: dict[Key, Told]
) -> None:
    for meta in copy.rglob("*"):
        if meta.is_file() and store.as_uri() in (text := meta.read_text(errors="ignore")):
            meta.write_text(text.replace(store.as_uri(), "file:///no/where/mlruns"))
    again, report = told_of(copy)
    assert report.losses == []
    assert {key: one.files for key, one in again.items()} == {
        key: one.files for key, one in told.items()
    }
    assert [one.version_files for one in again.values()] == [
        one.version_files for one in told.values()
    ]


def test_a_copy_beside_its_original_has_its_own_files(copy: Path, told: dict[Key, Told]) -> None:
    for directory in copy.rglob("artifacts"):
        (directory / "only of the copy").write_text("x")
    again, report = told_of(copy)
    assert report.losses == []
    with_files = [key for key, one in told.items() if one.files]
    assert with_files
    for key in with_files:
        assert again[key].files == sorted([*(told[key].files or ()), "only of the copy"])


def test_files_that_were_logged_elsewhere_are_read_there(
    store: Path, copy: Path, told: dict[Key, Told], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for root, pattern in ((copy, "[0-9]*/**/artifacts"), (copy / ".trash", "**/artifacts")):
        for directory in [*root.glob(pattern)]:
            shutil.copytree(directory, elsewhere / directory.relative_to(root))
            shutil.rmtree(directory)
            directory.mkdir()
    for meta in copy.rglob("*"):
        if meta.is_file() and store.as_uri() in (text := meta.read_text(errors="ignore")):
            meta.write_text(text.replace(store.as_uri(), elsewhere.as_uri()))
    again, report = told_of(copy)
    assert report.losses == []
    assert {key: one.files for key, one in again.items()} == {
        key: one.files for key, one in told.items()
    }


def test_files_of_old_versions_are_read(tmp_path: Path) -> None:
    def write(path: str, text: str | dict[str, Any]) -> None:
        file = tmp_path / "mlruns" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text if isinstance(text, str) else yaml.safe_dump(text))

    # As MLflow 0.2 wrote them; before it, the place of files was not recorded.
    write("0/meta.yaml", {"experiment_id": 0, "name": "Default", "artifact_location": "mlruns/0"})
    run = {"run_uuid": "r1", "experiment_id": 0, "name": "", "status": 3, "source_type": 4}
    run |= {"source_name": "train.py", "source_version": None, "entry_point_name": "main"}
    run |= {"user_id": "ana", "start_time": 1500, "end_time": None, "tags": []}
    write("0/r1/meta.yaml", run)
    write("0/r1/artifacts/model.txt", "weights")
    write("0/r1/tags/mlflow.runName", "of the tag")
    write("0/0012/meta.yaml", "run_id: 0012\n" + yaml.safe_dump(run))  # a number in YAML
    write("0/r1/metrics/m", "1500 0.5\n")
    trace = {"request_id": "tr-1", "experiment_id": "0", "timestamp_ms": 9, "status": "OK"}
    write("0/traces/tr-1/trace_info.yaml", trace | {"execution_time_ms": 4})
    write("0/traces/tr-1/request_metadata/mlflow.traceInputs", "{}")
    told, report = told_of(tmp_path / "mlruns")
    assert report.losses == []
    entity = told["run", "r1", "0"].entity
    assert isinstance(entity, Run)
    assert (entity.info.status, entity.info.source_type) == ("FINISHED", "LOCAL")
    assert (entity.info.run_name, entity.info.user_id) == ("of the tag", "ana")
    assert told["run", "r1", "0"].files == ["model.txt"]
    assert told["run", "r1", "0"].histories == {"m": [("0.5", 1500, 0)]}
    assert ("run", "0012", "0") in told
    old = told["trace", "tr-1", "0"].entity
    assert isinstance(old, Trace)
    assert (old.request_time, old.execution_duration, old.state) == (9, 4, "OK")
    assert old.metadata == {"mlflow.traceInputs": "{}"}
