"""Properties of the archive layer over generated names, contents and damage."""

from __future__ import annotations

import contextlib
import io

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_bundle.archive import (
    ArchiveReader,
    escape_component,
    escape_path,
    hashed_component,
    order_key,
    recover,
    tar,
    unescape_component,
    unescape_path,
    validate_path,
)
from mlflow_bundle.archive.header import encode_header_frame
from mlflow_bundle.errors import FormatError, UnsafePathError
from tests.archive.bundles import HEADER, MTIME_NS, READERS, SMALL, Members, bundle
from tests.archive.test_recovery import go_on

NAMES = st.text(
    alphabet=st.one_of(
        st.characters(),
        st.sampled_from("abcon.NUL %~/:\\\u0301\u00e9e\x00\n"),
    ),
    max_size=80,
)
COMPONENTS = NAMES.map(escape_component)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=5).map("/".join)
CONTENTS = st.one_of(
    st.binary(max_size=3000),
    st.tuples(st.binary(min_size=1, max_size=20), st.integers(0, 90_000)).map(
        lambda pair: (pair[0] * (pair[1] // len(pair[0]) + 1))[: pair[1]]
    ),
)
TREES = st.dictionaries(PATHS, CONTENTS, max_size=12).map(
    lambda tree: {
        path: content
        for path, content in tree.items()
        if not any(other.startswith(path + "/") for other in tree)
    }
)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(NAMES)
def test_an_escaped_name_is_safe_and_unescapes_to_itself(name: str) -> None:
    escaped = escape_component(name)
    validate_path(escaped)
    assert "/" not in escaped
    assert unescape_component(escaped) in (name, None)
    validate_path(hashed_component(name))
    assert unescape_component(hashed_component(name)) is None


@given(NAMES, NAMES)
def test_two_names_never_share_an_escape(one: str, other: str) -> None:
    assert (escape_component(one) == escape_component(other)) == (one == other)


@given(st.lists(NAMES, min_size=1, max_size=6).map("/".join))
def test_an_escaped_path_is_safe_and_unescapes_to_itself(path: str) -> None:
    validate_path(escape_path(path))
    assert unescape_path(escape_path(path)) in (path, None)


@given(st.text())
def test_any_text_is_a_safe_path_or_refused(path: str) -> None:
    try:
        validate_path(path)
    except UnsafePathError:
        return
    assert path.encode().decode() == path
    assert not path.startswith("/")
    assert ".." not in path.split("/")


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_component_unescapes_or_is_refused(component: str) -> None:
    try:
        name = unescape_component(component)
    except UnsafePathError:
        return
    assert name is None or isinstance(name, str)


@given(PATHS, PATHS)
def test_keys_order_directories_before_files_at_every_level(one: str, other: str) -> None:
    def by_level(path: str) -> list[tuple[int, bytes]]:
        *directories, name = path.split("/")
        return [(1, directory.encode()) for directory in directories] + [(2, name.encode())]

    assert (order_key(one) < order_key(other)) == (by_level(one) < by_level(other))


@given(
    PATHS,
    st.integers(0, 2**63 - 1),
    st.integers(0, tar.MAX_MTIME_NS),
    st.integers(0, 0o777),
    st.one_of(st.none(), PATHS),
)
def test_a_rendered_header_is_parsed_to_what_it_renders(
    path: str, size: int, mtime_ns: int, mode: int, link: str | None
) -> None:
    blocks = tar.render_header(path, size, mtime_ns, mode, link)
    parsed = tar.parse_header(blocks, 0)
    assert parsed == (path, size if link is None else 0, mtime_ns, mode, link, len(blocks))
    assert len(blocks) == tar.header_length(path, size, mtime_ns, link)


@SETTINGS
@given(TREES)
def test_a_tree_round_trips_through_both_readers(tree: Members) -> None:
    data = bundle(tree)
    for read in READERS.values():
        assert read(data) == tree
    assert ArchiveReader(io.BytesIO(data)).verify().problems == []


@SETTINGS
@given(TREES, st.integers(0, 40), st.data())
def test_a_tree_cut_anywhere_is_resumed_to_the_same_bytes(
    tree: Members, large: int, data: st.DataObject
) -> None:
    # Many small members, so that there are several groups.
    tree |= {f"~many/{n:05}": b"%d" % n for n in range(large * 100)}
    tree = dict(sorted(tree.items(), key=lambda member: order_key(member[0])))
    whole = bundle(tree)
    first_frame = len(encode_header_frame(HEADER, MTIME_NS))
    complete = whole.rindex(b"\x5e\x2a\x4d\x18")  # without its seek table it is whole, too
    stream = io.BytesIO(whole[: data.draw(st.integers(first_frame, complete - 1))])
    go_on(stream, tree)
    assert stream.getvalue() == whole


SMALL_BUNDLE = bundle(SMALL)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_bundle_parses_or_raises_a_format_error(data: st.DataObject) -> None:
    mutated = bytearray(SMALL_BUNDLE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    for read in READERS.values():
        try:
            contents = read(bytes(mutated))
        except FormatError:
            continue
        assert contents == SMALL
    with contextlib.suppress(FormatError):
        recover(io.BytesIO(bytes(mutated)), io.BytesIO(), header=HEADER)
