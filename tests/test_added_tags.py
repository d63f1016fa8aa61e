from __future__ import annotations

import pytest

from mlflow_bundle.added_tags import MAX_VALUE, parse_tags
from mlflow_bundle.errors import SelectionError


def test_a_tag_splits_at_its_first_equals_sign() -> None:
    tags = parse_tags(["site=berlin", "a.b-c/d: e=x=y, z", "site=berlin"])
    assert tags == {"site": "berlin", "a.b-c/d: e": "x=y, z"}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (["site"], "KEY=VALUE"),
        (["=x"], "KEY=VALUE"),
        (["site="], "KEY=VALUE"),
        (["mlflow_bundle.origin=1"], r"reserved: keys beginning with 'mlflow_bundle\.'"),
        (["mlflow.parentRunId=1"], r"reserved: keys beginning with 'mlflow\.'"),
        (["_mlflow_experiment_ids=,1,"], "reserved"),
        (["a,b=1"], "MLflow takes no tag"),
        (["../a=1"], "MLflow takes no tag"),
        (["a//b=1"], "MLflow takes no tag"),
        (["/a=1"], "MLflow takes no tag"),
        (["k" * 251 + "=1"], "251 characters"),
        (["k=" + "v" * (MAX_VALUE + 1)], "5001 characters"),
        (["a=1", "a=2"], "given twice"),
    ],
)
def test_a_tag_that_cannot_be_set_on_everything_is_refused(values: list[str], fault: str) -> None:
    with pytest.raises(SelectionError, match=fault):
        parse_tags(values)
