"""What a document says of its own place."""

from __future__ import annotations

import pytest

from mlflow_bundle.bundles.places import check_parts
from mlflow_bundle.errors import DocumentError

PATH = "datasets/d-1/dataset.json"


def test_parts_in_any_order_are_right() -> None:
    check_parts([], PATH)
    check_parts(["items/000002.json", "items/000001.json", "items/1000000.json"], PATH)


@pytest.mark.parametrize(
    "part",
    [
        "items/000001.json",
        "items/1.json",
        "items/../../d-2/dataset.json",
        "../d-2/items/000001.json",
        "/items/000003.json",
        "items/000003.json\n",
    ],
)
def test_a_part_that_is_none_or_comes_twice_is_refused(part: str) -> None:
    with pytest.raises(DocumentError, match=r"another part such as items/000001.json") as caught:
        check_parts(["items/000001.json", part], PATH)
    assert caught.value.field_path == "item_parts[1]"
    assert caught.value.path == PATH
