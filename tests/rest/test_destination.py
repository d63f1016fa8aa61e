from __future__ import annotations

from typing import Any, cast

import pytest

from mlflow_bundle.importing import ImportOptions, OnConflict
from mlflow_bundle.progress import SilentProgress
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report
from mlflow_bundle.rest.destination import Destination


def _destination(on_conflict: OnConflict = "skip", **options: Any) -> Destination:
    unused = cast(Any, None)
    return Destination(
        session=unused,
        version=(3, 17, 2),
        report=Report(),
        remap=Remap(),
        options=ImportOptions(on_conflict=on_conflict, **options),
        progress=SilentProgress(),
        files=unused,
    )


def _changed(to: Destination, here: dict[str, str], bundle: dict[str, str]) -> dict[str, str]:
    return to.changed("run", "r", "tags", here, bundle)


def test_an_entry_that_is_missing_here_is_written() -> None:
    assert _changed(_destination(), {"a": "1"}, {"a": "1", "b": "2"}) == {"b": "2"}


@pytest.mark.parametrize(("on_conflict", "written"), [("skip", {}), ("update", {"a": "2"})])
def test_an_entry_that_differs_follows_on_conflict(
    on_conflict: OnConflict, written: dict[str, str]
) -> None:
    to = _destination(on_conflict)
    assert _changed(to, {"a": "1"}, {"a": "2"}) == written
    (conflict,) = to.report.conflicts
    assert conflict.reason.endswith("which is taken") == (on_conflict == "update")


def test_a_reference_that_an_earlier_import_could_not_follow_is_completed() -> None:
    to = _destination()
    to.remap.place("run", "parent at the source", "parent here")
    here, bundle = {"mlflow.parentRunId": "parent at the source"}, {}
    bundle["mlflow.parentRunId"] = "parent here"
    assert _changed(to, here, bundle) == bundle
    assert not to.report.conflicts
    assert not to.report.adjusted


def test_a_reference_that_somebody_changed_here_is_a_conflict() -> None:
    to = _destination()
    to.remap.place("run", "parent at the source", "parent here")
    here = {"mlflow.parentRunId": "another one"}
    assert _changed(to, here, {"mlflow.parentRunId": "parent here"}) == {}
    assert [conflict.field for conflict in to.report.conflicts] == ["tags.mlflow.parentRunId"]


def test_tags_have_ids_and_users_of_here_and_those_asked_for() -> None:
    to = _destination(users={"ana": "ana@there"}, extra_tags={"site": "berlin"})
    to.remap.place("run", "r0", "r1")
    tags = {
        "mlflow.user": "ana",
        "mlflow.parentRunId": "r0",
        "owner": "ana",
        "mlflow.trace.user": "ana",
        "site": "rome",
        "mlflow_bundle.state": "importing",
    }
    assert to.tags_of("run", tags) == {
        "mlflow.user": "ana@there",
        "mlflow.parentRunId": "r1",
        "owner": "ana",
        "mlflow.trace.user": "ana",
        "site": "berlin",
    }
    assert to.options.user_of("bo") == "bo"
