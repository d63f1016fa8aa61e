r"""What the user asked to move, as data, and how it is written on a command line.

Lists are comma separated. One element of a list of names is::

    all           every one                 sklearn*         names that begin with sklearn
    sklearn_iris  that name                 sklearn_iris/3   that version (models)
    12            that id, or that name     sklearn_iris@champion   the version under that alias

A backslash makes the next character a plain one: ``\,`` ``\*`` ``\@`` ``\/`` ``\\`` and, so that
nothing is out of reach, space around a name. Before a letter or digit it may stand only at the
start of an element: ``\all`` is the name "all", ``\12`` the name "12" and never the id. Spaces
around elements are ignored, as are empty elements. :func:`quote_name` writes the text that
selects exactly one given name.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import DocumentError, SelectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

STAGES = ("Production", "Staging", "Archived", "None")

_SPECIAL = "\\,*@"
_VERSION = re.compile(r"/([0-9]{1,18})\Z")
_LOOKS_LIKE_ID = re.compile(r"[0-9]+|[0-9a-f]{32}")
_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}", re.ASCII)  # mlflow/utils/validation.py


@dataclass(frozen=True, kw_only=True)
class Token:
    """One element of a list as it was written, with escapes taken out.

    Attributes:
        text: The element without its backslashes.
        escaped: Indices into ``text`` of the characters that had a backslash before them.
    """

    text: str
    escaped: frozenset[int] = frozenset()

    def find_active(self, character: str) -> list[int]:
        """Return the indices of ``character`` where it keeps its special meaning."""
        return [
            index
            for index, found in enumerate(self.text)
            if found == character and index not in self.escaped
        ]

    def before(self, end: int) -> Token:
        return Token(text=self.text[:end], escaped=frozenset(i for i in self.escaped if i < end))


def scan(text: str, separator: str, *, limit: int = -1) -> list[Token]:
    """Split ``text`` at each unescaped ``separator`` and take the escapes out.

    Args:
        text: What the user wrote.
        separator: One character.
        limit: Largest number of splits; -1 for any.

    Raises:
        SelectionError: A backslash escapes nothing, or a letter inside an element.
    """
    tokens: list[Token] = []
    characters: list[str] = []
    escaped: set[int] = set()

    def finish() -> None:
        start, end = 0, len(characters)
        while start < end and characters[start].isspace() and start not in escaped:
            start += 1
        while end > start and characters[end - 1].isspace() and end - 1 not in escaped:
            end -= 1
        tokens.append(
            Token(
                text="".join(characters[start:end]),
                escaped=frozenset(i - start for i in escaped if start <= i < end),
            )
        )
        characters.clear()
        escaped.clear()

    following = iter(text)
    for character in following:
        if character == "\\":
            literal = next(following, "")
            inside = any(not c.isspace() for c in characters) or bool(escaped)
            if not literal or (literal.isalnum() and inside):
                what = f"before {literal!r}" if literal else "at the end"
                raise SelectionError(
                    f"a backslash {what} means nothing in {text!r}",
                    hint="write \\\\ for a backslash in a name",
                )
            escaped.add(len(characters))
            characters.append(literal)
        elif character == separator and limit != 0:
            limit -= 1
            finish()
        else:
            characters.append(character)
    finish()
    return tokens


def parse_list(values: Iterable[str]) -> list[Token]:
    """Return the elements of comma separated lists, empty elements left out.

    Args:
        values: What was given to each use of the option.

    Raises:
        SelectionError: An escape is wrong.
    """
    return [token for value in values for token in scan(value, ",") if token.text]


@dataclass(frozen=True, kw_only=True)
class NamePattern:
    """Which names are meant: one, those with a prefix, or all.

    Attributes:
        text: The name or the prefix; empty for ``all``.
        kind: How ``text`` is compared.
        literal: The text can only be a name, never an id (it was written with a leading
            backslash).
    """

    text: str
    kind: Literal["exact", "prefix", "all"] = "exact"
    literal: bool = False

    def matches(self, name: str) -> bool:
        if self.kind == "all":
            return True
        return name.startswith(self.text) if self.kind == "prefix" else name == self.text

    def matches_id(self, entity_id: str) -> bool:
        """Whether this is the id itself; prefixes are prefixes of names only."""
        return self.kind == "exact" and not self.literal and entity_id == self.text

    def __str__(self) -> str:
        if self.kind == "all":
            return "all"
        exact = self.kind == "exact"
        return _quote(self.text, lead=self.literal and exact) + ("" if exact else "*")


@dataclass(frozen=True, kw_only=True)
class ModelPattern:
    """Which registered models are meant, and which of their versions.

    Attributes:
        name: Pattern of the model's name.
        version: The only version meant, or None.
        alias: The only alias meant, or None. Never together with ``version``.
    """

    name: NamePattern
    version: int | None = None
    alias: str | None = None

    def matches(self, name: str) -> bool:
        return self.name.matches(name)

    def matches_version(self, version: int, aliases: Collection[str] = ()) -> bool:
        """Whether a version of a model whose name matches is meant."""
        if self.version is not None:
            return version == self.version
        return self.alias is None or self.alias in aliases

    @property
    def is_whole_model(self) -> bool:
        return self.version is None and self.alias is None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}/{self.version}"
        return f"{self.name}@{_quote(self.alias)}" if self.alias is not None else str(self.name)


ALL_EXPERIMENTS = (NamePattern(text="", kind="all"),)
ALL_MODELS = (ModelPattern(name=NamePattern(text="", kind="all")),)


def quote_name(name: str) -> str:
    """Return the text that selects exactly the entity of this name in a list option.

    Raises:
        ValueError: The name is empty, which MLflow allows nowhere.
    """
    if not name:
        raise ValueError("an empty name cannot be selected")
    return _quote(name, lead=name == "all" or bool(_LOOKS_LIKE_ID.fullmatch(name)))


def _quote(text: str, *, lead: bool = False) -> str:
    version = _VERSION.search(text)
    plain_start = len(text) - len(text.lstrip())
    plain_end = len(text.rstrip())
    parts = []
    for index, character in enumerate(text):
        special = (
            character in _SPECIAL
            or (version is not None and index == version.start())
            or not plain_start <= index < plain_end
            or (lead and index == 0)
        )
        parts.append(f"\\{character}" if special else character)
    return "".join(parts)


def parse_experiments(values: Iterable[str]) -> tuple[NamePattern, ...]:
    """Parse ``--experiments``: names, prefixes with ``*``, ids, or ``all``.

    Raises:
        SelectionError: An element is malformed, or there is none.
    """
    return _parse_each(values, _name_pattern, "experiment")


def parse_models(values: Iterable[str]) -> tuple[ModelPattern, ...]:
    """Parse ``--models``: names, prefixes with ``*``, ``name/3``, ``name@alias``, or ``all``.

    Raises:
        SelectionError: An element is malformed, or there is none.
    """
    return _parse_each(values, _model_pattern, "model")


def parse_run_ids(values: Iterable[str]) -> tuple[str, ...]:
    """Parse ``--run-ids``.

    Raises:
        SelectionError: An element cannot be a run id, or there is none.
    """

    def parse(token: Token) -> str:
        if not _RUN_ID.fullmatch(token.text):
            raise SelectionError(
                f"{token.text!r} is not a run id", hint="run ids are given whole, one by one"
            )
        return token.text

    return _parse_each(values, parse, "run id")


def parse_stages(values: Iterable[str]) -> tuple[str, ...]:
    """Parse ``--stages``: Production, Staging, Archived, None, in any case.

    ``Archive`` is accepted for ``Archived``.

    Raises:
        SelectionError: An element is no stage, or there is none.
    """
    known = {stage.lower(): stage for stage in STAGES} | {"archive": "Archived"}

    def parse(token: Token) -> str:
        stage = known.get(token.text.lower())
        if stage is None:
            raise SelectionError(
                f"{token.text!r} is not a stage", hint=f"stages are {', '.join(STAGES)}"
            )
        return stage

    return _parse_each(values, parse, "stage")


def parse_workspaces(values: Iterable[str]) -> tuple[str, ...]:
    """Parse ``--workspace``: names.

    Raises:
        SelectionError: An escape is wrong, or there is no name.
    """
    return _parse_each(values, lambda token: token.text, "workspace")


def _parse_each(values: Iterable[str], parse: Callable[[Token], Any], noun: str) -> tuple[Any, ...]:
    values = list(values)
    parsed = tuple(dict.fromkeys(parse(token) for token in parse_list(values)))
    if values and not parsed:
        # An unset shell variable must not turn into "everything".
        raise SelectionError(f"the list holds no {noun}: {', '.join(map(repr, values))}")
    return parsed


def _name_pattern(token: Token) -> NamePattern:
    stars = token.find_active("*")
    if token.text == "all" and not token.escaped:
        return NamePattern(text="", kind="all")
    if not stars:
        literal = 0 in token.escaped and token.text[0].isalnum()
        return NamePattern(text=token.text, literal=literal)
    if stars != [len(token.text) - 1]:
        raise SelectionError(
            f"{token.text!r}: * may stand only at the end of a name",
            hint="write \\* for a star that is part of the name",
        )
    prefix = token.text[:-1]
    return NamePattern(text=prefix, kind="prefix") if prefix else NamePattern(text="", kind="all")


def _model_pattern(token: Token) -> ModelPattern:
    ats = token.find_active("@")
    alias = None
    if ats:
        alias = token.text[ats[0] + 1 :]
        if len(ats) > 1 or not alias or ats[0] == 0:
            raise SelectionError(
                f"{token.text!r} is not of the form name@alias",
                hint="write \\@ for an @ that is part of the name",
            )
        token = token.before(ats[0])
    number = _VERSION.search(token.text)
    version = None
    if number is not None and number.start() not in token.escaped:
        version = int(number[1])
        token = token.before(number.start())
        if alias is not None:
            raise SelectionError(f"{token.text!r}: give a version or an alias, not both")
        if not token.text:
            raise SelectionError(f"'/{version}' has no name before the version")
    return ModelPattern(name=_name_pattern(token), version=version, alias=alias)


def parse_renames(values: Iterable[str]) -> dict[str, str]:
    r"""Parse ``OLD=NEW`` values; ``\=`` is an equals sign in a name.

    Raises:
        SelectionError: A value has no ``=``, an empty side, or renames the same name again.
    """
    renames: dict[str, str] = {}
    for value in values:
        sides = [token.text for token in scan(value, "=", limit=1)]
        if len(sides) != 2 or not all(sides):
            raise SelectionError(
                f"{value!r} is not of the form OLD=NEW",
                hint="write \\= for an equals sign that is part of the old name",
            )
        old, new = sides
        if renames.setdefault(old, new) != new:
            raise SelectionError(f"{old!r} is renamed twice: to {renames[old]!r} and {new!r}")
    return renames


_TIME = re.compile(
    r"""(\d{4})-(\d\d)-(\d\d)
        (?:[T\ ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?
           \ ?(Z|[+-]\d\d(?::?\d\d)?)?)?""",
    re.ASCII | re.VERBOSE | re.IGNORECASE,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def parse_time_ms(text: str) -> int:
    """Parse a date, a date with time, or milliseconds since the epoch.

    ``2024-01-31``, ``2024-01-31T12:00:00.5Z``, ``2024-01-31 12:00+02:00``, ``1706702400000``.
    Without an offset the time is UTC; a date alone is the day's first instant.

    Returns:
        Milliseconds since the epoch; finer fractions are cut off.

    Raises:
        SelectionError: It is none of these.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        if len(text) in (4, 8, 10):  # a year, 20240131, seconds: never what was meant
            raise SelectionError(
                f"{text!r} is ambiguous",
                hint="write a date as 2024-01-31; numbers are milliseconds since the epoch",
            )
        if len(text) > 15:
            raise SelectionError(f"{text!r} is not a time: it lies millennia ahead")
        return int(text)
    match = _TIME.fullmatch(text)
    if match is None:
        raise SelectionError(
            f"{text!r} is not a time",
            hint="write 2024-01-31, 2024-01-31T12:00:00Z or milliseconds since the epoch",
        )
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0)
        ).replace(tzinfo=_offset(offset or "Z"))
        elapsed = moment - _EPOCH
    except (ValueError, OverflowError) as exc:
        raise SelectionError(f"{text!r} is not a time: {exc}") from exc
    return elapsed // timedelta(milliseconds=1) + int((fraction or "0").ljust(3, "0")[:3])


def _offset(text: str) -> timezone:
    if text in "Zz":
        return timezone.utc
    digits = text[1:].replace(":", "").ljust(4, "0")
    delta = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-delta if text[0] == "-" else delta)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the user asked to move.

    The parts add up: an entity is selected when any of them names it. The window, the stages and
    ``export_all_runs`` say which runs and versions come with what is named.

    Attributes:
        experiments: Experiments, with their runs.
        models: Registered models and versions, with their runs.
        run_ids: Single runs.
        since_ms: First start time of a run that is selected, ms since the epoch.
        until_ms: First start time of a run that is no more selected.
        stages: Only versions in these stages; empty for all.
        export_all_runs: All runs of the experiments of selected versions, not only those of the
            versions.
        everything: Everything there is, whatever the other parts name.
        lenient: What is named need not exist.
        workspaces: The only workspaces in which all this is looked for; empty for those that the
            command takes by itself.
    """

    experiments: tuple[NamePattern, ...] = ()
    models: tuple[ModelPattern, ...] = ()
    run_ids: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    stages: tuple[str, ...] = ()
    export_all_runs: bool = False
    everything: bool = False
    lenient: bool = False
    workspaces: tuple[str, ...] = ()

    @classmethod
    def all(cls) -> Selection:
        return cls(everything=True)

    @property
    def is_partial(self) -> bool:
        """Whether anything may be left out."""
        return not self.everything or self.has_window or bool(self.stages)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is named at all."""
        return not (self.everything or self.experiments or self.models or self.run_ids)

    @property
    def has_window(self) -> bool:
        return self.since_ms is not None or self.until_ms is not None

    def in_window(self) -> Selection:
        """Return the same, but of every experiment where only a time is given."""
        if self.is_empty and self.has_window:
            return replace(self, experiments=ALL_EXPERIMENTS)
        return self

    def matches_experiment(self, experiment_id: str, name: str) -> bool:
        """Whether the experiment itself is named (not: needed by something else)."""
        return self.everything or any(
            pattern.matches(name) or pattern.matches_id(experiment_id)
            for pattern in self.experiments
        )

    def matches_model(self, name: str) -> bool:
        """Whether the model, or a version of it that there may be, is named."""
        return self.everything or any(pattern.matches(name) for pattern in self.models)

    def takes_model(self, name: str, versions: Mapping[int, Collection[str]]) -> bool:
        """Whether the model, or a version that it has, is named.

        Args:
            name: Of the model.
            versions: Aliases by number, of every version.
        """
        return self.everything or any(
            pattern.matches(name)
            and (
                pattern.is_whole_model
                or any(pattern.matches_version(*version) for version in versions.items())
            )
            for pattern in self.models
        )

    def matches_version(
        self, name: str, version: int, *, stage: str | None = None, aliases: Collection[str] = ()
    ) -> bool:
        """Whether a model version is named and in a selected stage."""
        named = self.everything or any(
            pattern.matches(name) and pattern.matches_version(version, aliases)
            for pattern in self.models
        )
        return named and self.matches_stage(stage)

    def matches_stage(self, stage: str | None) -> bool:
        """Whether versions in ``stage`` are selected; None and empty are the stage ``None``."""
        return not self.stages or (stage or "None") in self.stages

    def matches_window(self, start_time: int | None) -> bool:
        """Whether a run that started then (ms since the epoch) is inside the window.

        A run without a start time is outside every window.
        """
        if not self.has_window:
            return True
        return (
            start_time is not None
            and (self.since_ms is None or start_time >= self.since_ms)
            and (self.until_ms is None or start_time < self.until_ms)
        )

    def matches_plain(self, entity: PlainEntity) -> bool:
        """Whether a plain entity is inside the window: one without a time of its own always is."""
        return entity.time_ms is None or self.matches_window(entity.time_ms)

    def to_json(self) -> dict[str, Any]:
        """Return the parts that differ from the default, patterns as the user would write them."""
        document: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if isinstance(value, tuple):
                value = [str(element) for element in value]
            document[field.name] = value
        return document

    @classmethod
    def from_json(cls, document: object) -> Selection:
        """Read what :meth:`to_json` wrote; unknown keys are ignored.

        Raises:
            DocumentError: A value has the wrong type or form.
        """
        if not isinstance(document, dict):
            raise DocumentError(
                f"expected object, got {type(document).__name__}", field_path="selection"
            )
        parts: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in document:
                parts[field.name] = _decode_part(field.name, document[field.name])
        return cls(**parts)


_LIST_PARTS: Mapping[str, Callable[[Iterable[str]], tuple[Any, ...]]] = {
    "experiments": parse_experiments,
    "models": parse_models,
    "run_ids": parse_run_ids,
    "stages": parse_stages,
    "workspaces": parse_workspaces,
}


def _decode_part(name: str, value: object) -> Any:
    where = f"selection.{name}"
    if name in _LIST_PARTS:
        if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
            raise DocumentError("expected array of strings", field_path=where)
        try:
            return _LIST_PARTS[name](value)
        except SelectionError as exc:
            raise DocumentError(exc.message, field_path=where) from exc
    if name in ("since_ms", "until_ms"):
        if isinstance(value, bool) or not isinstance(value, int):
            raise DocumentError(f"expected int, got {type(value).__name__}", field_path=where)
    elif not isinstance(value, bool):
        raise DocumentError(f"expected bool, got {type(value).__name__}", field_path=where)
    return value


def names_selection(experiments: Iterable[str], models: Iterable[str]) -> Selection:
    """Return the selection of exactly these names."""
    return Selection(
        experiments=tuple(NamePattern(text=name) for name in experiments),
        models=tuple(ModelPattern(name=NamePattern(text=name)) for name in models),
    )


def nearest(name: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` candidates that ``name`` may have meant, best first.

    Case does not count, and a candidate that holds the name is near whatever its length.
    """
    wanted = name.casefold()
    originals: dict[str, list[str]] = {}
    for candidate in candidates:
        originals.setdefault(candidate.casefold(), []).append(candidate)
    close = difflib.get_close_matches(wanted, originals, n=n)
    holding = sorted((c for c in originals if wanted in c and c not in close), key=len)
    return [original for folded in close + holding for original in originals[folded]][:n]


def require_matches(
    selection: Selection,
    *,
    experiments: Iterable[tuple[str, str]] | None = None,
    models: Mapping[str, Mapping[int, Collection[str]]] | None = None,
    run_ids: Collection[str] | None = None,
    where: str = "",
) -> None:
    """Refuse a selection when a part of it names nothing, all such parts at once.

    ``all`` may match nothing: all of nothing is nothing. So may anything that is ``lenient``.

    Args:
        selection: What was asked for.
        experiments: Id and name of each experiment there is; None when they were not listed.
        models: Name of each model to its versions' numbers and their aliases; a model of which
            no pattern asks for a version or an alias may have none. None when not listed.
        run_ids: Ids there are, at least of those asked for; None when not looked up.
        where: The server or bundle, for the message.

    Raises:
        SelectionError: Names each pattern that matched nothing, with the nearest names.
    """
    if selection.lenient:
        return
    faults: list[str] = []
    if experiments is not None:
        faults += _unmatched_experiments(selection.experiments, list(experiments))
    if models is not None:
        faults += _unmatched_models(selection.models, models)
    if run_ids is not None:
        known = set(run_ids)
        for run_id in selection.run_ids:
            if run_id not in known:
                faults.append(_no_such("run", run_id, known))
    if faults:
        raise SelectionError(". ".join(faults) + (f" (in {where})" if where else ""))


def require_workspaces(names: Iterable[str], known: Collection[str], *, where: str = "") -> None:
    """Refuse a name that is none of the ``known`` workspaces.

    Raises:
        SelectionError: Names the nearest ones.
    """
    for name in names:
        if name not in known:
            raise SelectionError(
                _no_such("workspace", name, known) + (f" (in {where})" if where else "")
            )


class Matches:
    """What several workspaces hold for one selection: it is refused when none has what it names."""

    def __init__(self) -> None:
        self._experiments: list[tuple[str, str]] = []
        self._models: dict[str, dict[int, list[str]]] = {}
        self._run_ids: set[str] = set()

    def add(
        self,
        *,
        experiments: Iterable[tuple[str, str]],
        models: Mapping[str, Mapping[int, Collection[str]]],
        run_ids: Iterable[str] = (),
    ) -> None:
        """Add what one of them holds; arguments as of :func:`require_matches`."""
        self._experiments += experiments
        self._run_ids.update(run_ids)
        for name, versions in models.items():
            known = self._models.setdefault(name, {})
            for number, aliases in versions.items():
                known.setdefault(number, []).extend(aliases)

    def require(self, selection: Selection, *, where: str = "") -> None:
        """Refuse a selection of which a part names nothing anywhere.

        Raises:
            SelectionError: As :func:`require_matches`.
        """
        require_matches(
            selection,
            experiments=self._experiments,
            models=self._models,
            run_ids=self._run_ids,
            where=where,
        )


def require_distinct(noun: str, names: list[str], renames: Mapping[str, str]) -> None:
    """Refuse a new name that another one of ``names`` has or gets: both would be mixed up."""
    taken: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name in renames):
        new = renames.get(name, name)
        if taken.setdefault(new, name) != name:
            raise SelectionError(
                f"two {noun}s would be named {new!r}: {taken[new]!r} and {name!r}",
                hint=f"give one of them another name with --rename-{noun}",
            )


def _unmatched_experiments(
    patterns: Sequence[NamePattern], experiments: Sequence[tuple[str, str]]
) -> list[str]:
    names = [name for _, name in experiments]
    return [
        _no_such("experiment", str(pattern), names, looked_for=pattern.text)
        for pattern in patterns
        if pattern.kind != "all"
        and not any(pattern.matches(name) or pattern.matches_id(eid) for eid, name in experiments)
    ]


def _unmatched_models(
    patterns: Sequence[ModelPattern], models: Mapping[str, Mapping[int, Collection[str]]]
) -> list[str]:
    faults = []
    for pattern in patterns:
        matching = [name for name in models if pattern.matches(name)]
        if not matching and pattern.name.kind == "all":
            continue
        if not matching:
            faults.append(_no_such("model", str(pattern.name), models, pattern.name.text))
        elif not pattern.is_whole_model and not any(
            pattern.matches_version(version, aliases)
            for name in matching
            for version, aliases in models[name].items()
        ):
            faults.append(f'no such model version "{pattern}"; there is: {_held(pattern, models)}')
    return faults


def _held(
    pattern: ModelPattern, models: Mapping[str, Mapping[int, Collection[str]]], n: int = 8
) -> str:
    found: list[str] = []
    for name in models:
        if pattern.matches(name):
            for version, aliases in sorted(models[name].items()):
                if pattern.version is not None:
                    found.append(f"{quote_name(name)}/{version}")
                else:
                    found += [f"{quote_name(name)}@{_quote(alias)}" for alias in sorted(aliases)]
    shown = ", ".join(found[:n]) or "none"
    return shown + (f" and {len(found) - n} more" if len(found) > n else "")


def _no_such(noun: str, shown: str, candidates: Iterable[str], looked_for: str = "") -> str:
    near = ", ".join(map(quote_name, nearest(looked_for or shown, candidates)))
    return f'no such {noun} "{shown}"' + (f"; nearest: {near}" if near else "")
