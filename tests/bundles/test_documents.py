"""Decoding documents: what is malformed is a DocumentError, wherever it is."""

from __future__ import annotations

import pytest

from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.bundles import manifests
from mlflow_bundle.errors import DocumentError


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"info": {"\x98": 1}}', id="unknown key"),
        pytest.param(b'{"later": "\x98"}', id="value of an unknown key"),
    ],
)
def test_a_document_that_is_not_utf_8_is_refused_where_nobody_looks(data: bytes) -> None:
    with pytest.raises(DocumentError, match=r"^p: not JSON: 'utf-8' codec"):
        docs.decode(data, docs.ManifestDocument, path="p")


@pytest.mark.parametrize(
    ("data", "field_path"),
    [
        pytest.param(b'{"totals": {"run": []}}', 'totals["run"]', id="sound but for that"),
        pytest.param(b'{"totals": {"run": []}', "totals[...]", id="cut behind it"),
        pytest.param(b'{"totals": {"run": []}, "x": ' + b"[" * 5000, "totals[...]", id="deep"),
        pytest.param(b'{"totals": {"run": []}, "totals": {}}', "totals[...]", id="twice"),
    ],
)
def test_a_wrong_value_is_told_whatever_follows_it(data: bytes, field_path: str) -> None:
    with pytest.raises(DocumentError, match="expected `int`, got `array`") as info:
        docs.decode(data, docs.ManifestDocument, path="p")
    assert info.value.field_path == field_path


def test_a_wrong_value_in_an_object_that_comes_twice_is_told() -> None:
    with pytest.raises(DocumentError, match="expected `str`, got `int`"):
        docs.decode(
            b'{"logged_model": {"model_id": "m", "experiment_id": "1", "tags": {"a": 1}},'
            b' "logged_model": {}}',
            docs.LoggedModelDocument,
            path="p",
        )


LATER = [b"1e400", b"1" + b"0" * 5000, b"-0", b'{"a": [1e999]}', b"[" * 500 + b"]" * 500]
"""Values of unknown keys that a float or a decoder of everything cannot hold."""


@pytest.mark.parametrize("later", LATER, ids=range(len(LATER)))
def test_an_unknown_key_keeps_its_value_whatever_that_is(later: bytes) -> None:
    entry = docs.ExperimentEntry(id="1", name="one", ok_runs=1)
    new = docs.ExperimentsDocument(experiments=[entry])
    old = b'{"info": {"later": %b}, "experiments": [{"later": %b, "id": "1"}], "later": %b}'
    merged = manifests.merged(old % (later, later, later), new)
    assert merged.count(b'"later":' + later) == 3
    assert docs.decode(merged, docs.ExperimentsDocument, path="p") == new


def test_what_has_another_shape_than_before_is_taken_as_it_is_now() -> None:
    entry = docs.ExperimentEntry(id="1", name="one")
    new = docs.ExperimentsDocument(experiments=[entry])
    for old in (b'{"info": [], "experiments": {}}', b'{"experiments": [{"id": 1}]}', b"{}", b"[]"):
        assert manifests.merged(old, new) == docs.encode(new)
