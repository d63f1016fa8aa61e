"""Member paths: their order, the rules a reader holds them to, and how other names are escaped.

A bundle can hold every name that MLflow accepts while a reader accepts only names that are safe on
every file system: what lies between is percent-encoded (FORMAT.md 6). Escaping is the writer's
duty and is undone from the name alone, except for the hashed form, whose original stands in the
document of the owner.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Container
from typing import Final

from mlflow_bundle.archive.limits import DEFAULT_LIMITS
from mlflow_bundle.errors import CorruptFrameError, UnsafePathError

HEADER_PATH: Final = ".mlbundle/bundle.json"
"""The member in the first frame."""
HEADER_DIRECTORY: Final = ".mlbundle"

MAX_ESCAPED_COMPONENT_BYTES: Final = 200
MAX_ESCAPED_PATH_BYTES: Final = 3584
"""What :func:`escape_path` may return; the rest of 4 096 bytes is for the place in the tree."""
HASHED_MARK: Final = "%~"
HASHED_DIGITS: Final = 32

DEVICE_NAMES: Final = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
"""Names that Windows takes for devices, whatever follows the first dot."""

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:<>"|?*]')
_ENCODED = re.compile(r'[\x00-\x1f\x7f\\:<>"|?*%/\ud800-\udfff]')
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ESCAPE = re.compile(r"%(?:([0-9A-F]{2})|)")

# The names that nearly all members have, recognised in one match; any other goes the slow way.
_EDGE = r"[A-Za-z0-9_%~+=@,#-]"
_COMPONENT = (
    rf"(?!(?:con|prn|aux|nul|com|lpt)(?:[0-9. /$]|$)){_EDGE}(?:[A-Za-z0-9_%~+=@,# .-]*{_EDGE})?"
)
_PLAIN_PATH = re.compile(rf"(?:{_COMPONENT}/)*{_COMPONENT}", re.IGNORECASE | re.ASCII)


def order_key(path: str) -> bytes:
    """Return the key whose bytewise order is the order of members in a bundle.

    Every directory component contributes ``01 name 00`` and the last component ``02 name``, so
    that at each level directories come before files (FORMAT.md 6.1).
    """
    directory, slash, name = path.rpartition("/")
    if not slash:
        return b"\x02" + name.encode()
    return b"\x01" + directory.encode().replace(b"/", b"\x00\x01") + b"\x00\x02" + name.encode()


def directory_key(path: str) -> bytes:
    """Return the prefix that the keys of all members below directory ``path`` have in common."""
    if not path:
        return b""
    return b"\x01" + path.encode().replace(b"/", b"\x00\x01") + b"\x00"


def is_header_place(path: str) -> bool:
    """Say whether a member at ``path`` would be the header's twin, or make it a directory."""
    return path.startswith(HEADER_PATH) and path[len(HEADER_PATH) :][:1] in ("", "/")


class Directories:
    """Knows the directories beside each file of those that come in the order of their keys."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._names: list[set[str]] = [set()]  # of the directories in each component of the path

    def add(self, path: str) -> None:
        """Note the directories of a file."""
        components = path.split("/")[:-1]
        depth = self._enter(components)
        for name in components[depth:]:
            self._names[-1].add(name)
            self._path.append(name)
            self._names.append(set())

    def demand_file(self, path: str) -> None:
        """Refuse the path of a directory.

        Raises:
            CorruptFrameError: It is one.
        """
        *components, name = path.split("/")
        if self._enter(components) == len(components) and name in self._names[-1]:
            raise CorruptFrameError("is both a file and a directory", path=path)

    def _enter(self, components: list[str]) -> int:
        """Leave the directories that ``components`` are not in; return how many stay."""
        depth = 0
        for ours, theirs in zip(self._path, components, strict=False):
            if ours != theirs:
                break
            depth += 1
        del self._path[depth:], self._names[depth + 1 :]
        return depth


def validate_path(path: str) -> None:
    """Refuse a member path that is not safe on every file system (FORMAT.md 6.2).

    Raises:
        UnsafePathError: The message says which rule the path breaks.
    """
    if len(path) <= DEFAULT_LIMITS.component_bytes and _PLAIN_PATH.fullmatch(path):
        return
    problem = _path_problem(path)
    if problem:
        raise UnsafePathError(f"{problem}: {path[:200]!r}")


def _path_problem(path: str) -> str:
    if not path:
        return "empty path"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "path is not valid Unicode"
    if len(encoded) > DEFAULT_LIMITS.path_bytes:
        return f"path is longer than {DEFAULT_LIMITS.path_bytes} bytes"
    if path.startswith("/"):
        return "absolute path"
    if _FORBIDDEN.search(path):
        return "path has a forbidden character"
    if not unicodedata.is_normalized("NFC", path):
        return "path is not in Unicode normal form C"
    for position, component in enumerate(path.split("/")):
        problem = _component_problem(component, top=position == 0 and component != path)
        if problem:
            return problem
    return ""


def _component_problem(component: str, *, top: bool) -> str:
    if not component:
        return "path has an empty component"
    if len(component.encode()) > DEFAULT_LIMITS.component_bytes:
        return f"path component is longer than {DEFAULT_LIMITS.component_bytes} bytes"
    if component.startswith(".") and not (top and component == HEADER_DIRECTORY):
        return "path component begins with a dot"
    if component.endswith((".", " ")):
        return "path component ends with a dot or a space"
    if _is_device(component):
        return "path component is a Windows device name"
    return ""


def _is_device(component: str) -> bool:
    return component.partition(".")[0].rstrip(" ").lower() in DEVICE_NAMES


def escape_component(name: str, *, reserved: Container[str] = ()) -> str:
    """Return ``name`` as one path component that :func:`validate_path` accepts (FORMAT.md 6.3).

    Args:
        name: Any text, ``/`` and the empty string included.
        reserved: Fixed names of the layout. A name among them gets its first character encoded,
            so that a model called ``manifest.json`` does not take the place of the manifest.
    """
    escaped = _ENCODED.sub(_percent_match, name)
    if escaped.startswith(".") or _is_device(name) or name in reserved:
        escaped = escaped if escaped.startswith("%") else _percent(escaped[:1]) + escaped[1:]
    if escaped.endswith((".", " ")):
        escaped = escaped[:-1] + _percent(escaped[-1])
    # Last: an escape may end in a letter that a combining character after it would join.
    if not unicodedata.is_normalized("NFC", escaped):
        escaped = _NOT_ASCII.sub(_percent_match, escaped)
    if not name or len(escaped.encode()) > MAX_ESCAPED_COMPONENT_BYTES:
        return _hashed(escaped, name)
    return escaped


def hashed_component(name: str) -> str:
    """Return the hashed form of ``name``: for a file where a directory of its name exists.

    The original must be kept in the document of the owner.
    """
    return _hashed(escape_component(name).partition(HASHED_MARK)[0], name)


def unescape_component(component: str) -> str | None:
    """Return the name that :func:`escape_component` was given; None for the hashed form.

    Raises:
        UnsafePathError: A ``%`` is not followed by two uppercase hexadecimal digits, or the
            encoded bytes are not UTF-8.
    """
    if "%" not in component:
        return component
    if HASHED_MARK in component:
        return None
    out = bytearray()
    end = 0
    for match in _ESCAPE.finditer(component):
        if match[1] is None:
            raise UnsafePathError(f"malformed escape in {component[:200]!r}")
        out += component[end : match.start()].encode("utf-8", "surrogatepass")
        out.append(int(match[1], 16))
        end = match.end()
    out += component[end:].encode("utf-8", "surrogatepass")
    try:
        return out.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as exc:
        raise UnsafePathError(f"escapes are not UTF-8 in {component[:200]!r}") from exc


def escape_path(path: str) -> str:
    """Escape each component of ``path``; ``/`` stays the separator.

    A result of more than 3 584 bytes is replaced by one hashed component for the whole path.
    """
    escaped = "/".join([escape_component(component) for component in path.split("/")])
    if len(escaped.encode()) > MAX_ESCAPED_PATH_BYTES:
        return _hashed(escaped.partition("/")[0].partition(HASHED_MARK)[0], path)
    return escaped


def unescape_path(path: str) -> str | None:
    """Return the path that :func:`escape_path` was given; None when a component is hashed."""
    if "%" not in path:
        return path
    components = [unescape_component(component) for component in path.split("/")]
    known = [component for component in components if component is not None]
    return "/".join(known) if len(known) == len(components) else None


def _percent(text: str) -> str:
    return "".join([f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass")])


def _percent_match(match: re.Match[str]) -> str:
    return _percent(match[0])


def _hashed(escaped: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:HASHED_DIGITS]
    room = MAX_ESCAPED_COMPONENT_BYTES - len(HASHED_MARK) - HASHED_DIGITS
    prefix = escaped.encode()[:room].decode("utf-8", "ignore")
    cut = prefix.rfind("%", max(len(prefix) - 2, 0))
    if cut >= 0:  # half an escape
        prefix = prefix[:cut]
    return f"{prefix}{HASHED_MARK}{digest}"
