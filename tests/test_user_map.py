from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_bundle.errors import SelectionError
from mlflow_bundle.user_map import read_user_map


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "users.csv"
    path.write_bytes(content)
    return path


def test_a_user_map_gives_the_new_name_of_each_user(tmp_path: Path) -> None:
    content = (
        b'\xef\xbb\xbf# old,new\r\nana,ana@example.org\r\n\r\n "Li, Wei", wei \r\n'
        b"zo\xc3\xab,zoe\r\na,b\r\nb,a\r\n"
    )
    assert read_user_map(_file(tmp_path, content)) == {
        "ana": "ana@example.org",
        "Li, Wei": "wei",
        "zoë": "zoe",
        "a": "b",
        "b": "a",
    }


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a,b\n\nc\n", r"users\.csv, line 3: 1 names where 2 belong"),
        (b"a,b,c\n", "line 1: 3 names"),
        (b"a,\n", "line 1: an empty name"),
        (b'a,"b\n', "line 1: unexpected end of data"),
        (b"a,b\n#\na,b\n", "line 3: 'a' stands in line 1 already"),
        (b"a,b\n\xff,c\n", r"users\.csv: byte 4 is not UTF-8"),
    ],
)
def test_a_faulty_user_map_is_refused_with_file_line_and_next_step(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    with pytest.raises(SelectionError, match=fault) as caught:
        read_user_map(_file(tmp_path, content))
    assert caught.value.hint


def test_a_user_map_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="No such file"):
        read_user_map(tmp_path / "none.csv")
