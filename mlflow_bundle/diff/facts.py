"""What each side says of an entity, as facts: one for each field, tag, file, history and item.

Values are canonical (`values.py`) and references are names (`names.py`), so that equal facts are
equal texts. Some facts carry a flag, which tells later what a difference in them means:

``outside``   it refers to something that its side does not hold: REST may have dropped it
``own``       files of a model version that lie in no run or logged model: an import copies them
``asked``     the import was asked to set it
``unread``    it could not be read, which is listed elsewhere
``database``  only MLflow's database tells it: the other side may be none
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from mlflow_bundle import provenance
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, Content
from mlflow_bundle.credentials import URI_TAGS, mask_record, mask_uri, mask_uris_in
from mlflow_bundle.diff.exemptions import exemption_of
from mlflow_bundle.diff.expected import Expected
from mlflow_bundle.diff.items import fields_of, key_of
from mlflow_bundle.diff.ledger import Entry, Fact, Ledger, Thing
from mlflow_bundle.diff.names import HOLDER, Names
from mlflow_bundle.diff.result import Side
from mlflow_bundle.diff.values import REFERENCES, canonical, is_empty, text_of, told
from mlflow_bundle.entities import (
    VERSION_KIND,
    Entity,
    Experiment,
    LoggedModel,
    ModelVersion,
    PlainEntity,
    Prompt,
    RegisteredModel,
    Run,
    decode_number,
    held_value,
)
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds import is_hidden
from mlflow_bundle.kinds.skills import Skill, SkillVersion
from mlflow_bundle.kinds.traces import TRACE_DATA
from mlflow_bundle.progress import Progress
from mlflow_bundle.references import (
    MLMODEL,
    PROMPT_EXPERIMENTS_TAG,
    SERVER_MADE_TAGS,
    is_below,
    model_version_of,
    rewrite_dataset_source,
    rewrite_mlmodel,
    rewrite_tags,
    rewrite_trace_data,
    rewrite_values,
    rewrite_version_source,
)
from mlflow_bundle.report import Report
from mlflow_bundle.users import USER_TAG
from mlflow_bundle.version_files import HELD_DIRECTORY, HOLDER_DIRECTORY

OUTSIDE, OWN, ASKED, UNREAD, DATABASE = "outside", "own", "asked", "unread", "database"

FileComparison = Literal["digest", "size", "skip"]

HISTORY = 'metrics["'
"""How the field of a run's metric history begins; values are as MLflow's databases hold them."""

AS_LOGGED = 'logged_metrics["'
"""How the field of those values of a metric begins which a database may hold as another number."""

_CHUNK_BYTES = 1024 * 1024
_MLMODEL_BYTES = 16 * 1024 * 1024
"""A larger ``MLmodel`` is compared as it is."""

_PROMPT_SOURCE = "dummy-source"

_SETS = frozenset({"roles", "users"})
"""Lists of names without an order, of which a side may have more than the other."""

_NATURAL_KEYS: dict[str, tuple[str, ...]] = {
    "gateway_budget": ("target_scope", "budget_unit", "duration_unit", "duration_value"),
    "gateway_secret": ("secret_name",),
    "issue": ("name", "description"),
    "user": ("username",),
}
_NATURAL_KEY = ("name", "version", "url")
"""Fields that tell entities of a kind without origin apart: any that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Turns the entities of one side into entries and facts.

    Attributes:
        side: Which side.
        ledger: Holds what is known of both sides.
        names: Names for ids of this side.
        expected: What the side's contents are to look like.
        files: How artifacts are compared.
        report: Gets what could not be read.
        progress: Told of bytes.
    """

    side: Side
    ledger: Ledger
    names: Names
    expected: Expected
    files: FileComparison
    report: Report
    progress: Progress
    experiments: dict[str, str] = field(default_factory=dict)
    """Id of an experiment here to its name at B."""
    copies: dict[str, list[str]] = field(default_factory=dict)
    """Where files lie, to the versions whose source is another version with these files."""

    # Entries

    def entries(self, entity: Entity) -> Iterator[Entry]:
        """Yield an entity as it is put down: a registered model with each of its versions."""
        if isinstance(entity, Experiment):
            label = self.expected.experiment(entity.name)
            self.experiments[entity.id] = label
            yield _entry(entity.kind, entity.id, key=label, label=label)
        elif isinstance(entity, Run):
            origin = provenance.origin_of(entity.id, entity.tags)
            info = entity.info
            yield _entry(
                # The origin of a run that holds a version's files is the version's: name/3/time.
                HOLDER if "/" in origin else entity.kind,
                entity.id,
                parent=info.experiment_id,
                scope=self.experiments.get(info.experiment_id, info.experiment_id),
                origin=origin,
                root=info.artifact_uri,
                label=origin,
            )
        elif isinstance(entity, LoggedModel):
            origin = provenance.origin_of(entity.id, entity.tags)
            yield _entry(
                entity.kind,
                entity.id,
                parent=entity.experiment_id,
                scope=self.experiments.get(entity.experiment_id, entity.experiment_id),
                origin=origin,
                root=entity.artifact_location,
                label=origin,
            )
        elif isinstance(entity, RegisteredModel):
            label = self.expected.model(entity.name)
            yield _entry(entity.kind, entity.id, key=label, label=label)
            for version in entity.versions:
                id = f"{entity.name}/{version.version}"
                if version.storage_location and model_version_of(version.source) is not None:
                    self.copies.setdefault(version.storage_location.rstrip("/"), []).append(id)
                yield _entry(
                    VERSION_KIND[entity.kind],
                    id,
                    scope=label,
                    origin=provenance.version_origin(version),
                    key=str(version.version),
                    root=version.source,
                    label=f"{label}/{version.version}",
                )
        elif isinstance(entity, PlainEntity):
            yield self._plain_entry(entity)

    def _plain_entry(self, entity: PlainEntity) -> Entry:
        id, entity = entity.id, self.expected.record(entity)
        fields = {name: value for name, value, only_database in told(entity) if not only_database}
        keys = [
            f"{fields[name]}"
            for name in _NATURAL_KEYS.get(entity.kind, _NATURAL_KEY)
            if fields.get(name)
        ]
        tags = fields.get("tags")
        origin = provenance.origin_of(entity.id, tags if isinstance(tags, dict) else {})
        body = {
            name: value
            for name, value in msgspec.to_builtins(fields).items()
            if not name.endswith(("_id", "_ids"))
            and name not in ("tags", "metadata")
            and exemption_of(entity.kind, name, is_empty=False) is None
        }
        return _entry(
            entity.kind,
            id,
            parent=entity.parent,
            scope=self.experiments.get(entity.parent, entity.parent),
            origin=origin,
            key="\n".join(keys) or None,
            body=text_of(canonical(body, lambda kind, id: "")),
            label=origin,
        )

    # Facts

    def facts(self, content: Content) -> Iterator[tuple[int, Fact]]:
        """Yield the facts of an entity that has a twin, each with the pair that it is about."""
        for thing, fact in self._facts(content):
            if thing is not None and (pair := thing.pair) is not None:
                yield pair, fact

    def _facts(self, content: Content) -> Iterator[tuple[Thing | None, Fact]]:
        entity = content.entity
        if isinstance(entity, Run) and (holder := self._find(HOLDER, entity.id)) is not None:
            held = self.ledger.find_origin(self.side, "model_version", holder.origin or "")
            places = [held, *self._copies_of(f"{holder.root.rstrip('/')}/{HOLDER_DIRECTORY}")]
            for path, fact in self._file_facts(entity, content.artifacts):
                for place in places:
                    yield place, _below(f"{HOLDER_DIRECTORY}/", path, fact)
            return
        parent = entity.parent if isinstance(entity, PlainEntity) else None
        thing = self._find(entity.kind, entity.id, parent)
        for fact in self._record(content):
            yield thing, fact
        if isinstance(entity, RegisteredModel):
            for version in entity.versions:
                tree = content.version_artifacts.get(version.version)
                kind, id = VERSION_KIND[entity.kind], f"{entity.name}/{version.version}"
                place = self._find(kind, id)
                for fact in self._version(entity, version, place, tree):
                    yield place, fact
        elif not isinstance(entity, Experiment):
            hidden = _hidden_directories(content)
            for path, fact in self._file_facts(entity, content.artifacts):
                if path.partition("/")[0] in hidden:
                    fact = fact._replace(flag=DATABASE)
                versions, below = self._versions_holding(thing, path)
                for held in versions or (thing,):
                    yield held, _below(below, path, fact)

    def _find(self, kind: str, id: str, parent: str | None = None) -> Thing | None:
        return self.ledger.find(self.side, kind, id, parent)

    def _versions_holding(self, run: Thing | None, path: str) -> tuple[list[Thing], str]:
        """Return the versions whose files an import put below this path of a run, and where."""
        parts = path.split("/", 3)
        if run is None or run.kind != Run.kind or parts[0] != HELD_DIRECTORY or len(parts) < 4:
            return [], ""
        below = "/".join(parts[:3])
        # Neither name nor number tells: a database's import quotes the name, and either may be
        # another one since. In a file:// URI the quoted name is not that of the directory.
        for place in (below, quote(below)):
            root = f"{run.root.rstrip('/')}/{place}"
            version = self.ledger.find_version_at(self.side, root)
            if version is not None:
                return [version, *self._copies_of(root)], f"{below}/"
        return [], ""

    def _copies_of(self, root: str) -> list[Thing]:
        """Return the versions whose source is another version, whose files lie there."""
        found = (self._find("model_version", id) for id in self.copies.get(root, ()))
        return [version for version in found if version is not None]

    def _record(self, content: Content) -> Iterator[Fact]:
        entity = content.entity
        yield Fact("id", text_of(entity.id))
        if isinstance(entity, Experiment):
            yield from _plain_fields(entity, "experiment_id", "name", "tags", "datasets")
            if entity.datasets is not msgspec.UNSET:
                unused = sorted([dataset.name, dataset.digest] for dataset in entity.datasets)
                yield Fact("datasets", text_of(unused), DATABASE)
            yield from self._tags(entity.kind, entity.tags)
        elif isinstance(entity, Run):
            yield from self._run(entity)
            yield from self._histories(content)
        elif isinstance(entity, LoggedModel):
            yield from self._logged_model(entity)
        elif isinstance(entity, RegisteredModel):
            yield from _plain_fields(
                entity, "name", "tags", "aliases", "versions", "left_out", "deleted_versions"
            )
            if entity.deleted_versions is not msgspec.UNSET:
                numbers = sorted(version.version for version in entity.deleted_versions)
                yield Fact("deleted_versions", text_of(numbers), DATABASE)
            yield from self._tags(entity.kind, entity.tags)
            for alias, number in entity.aliases.items():
                place = self._find(VERSION_KIND[entity.kind], f"{entity.name}/{number}")
                value = place.label if place else f"{entity.name}/{number}"
                yield Fact(f"aliases.{alias}", text_of(value))
        elif isinstance(entity, PlainEntity):
            yield from self._plain(entity, content.items())

    def _tags(self, kind: str, tags: dict[str, str]) -> Iterator[Fact]:
        rewritten = rewrite_tags(kind, dict(tags), self.names, Report())
        experiments = rewritten.pop(PROMPT_EXPERIMENTS_TAG, None)
        if experiments is not None:
            yield from self._experiments_of(tags[PROMPT_EXPERIMENTS_TAG])
        for key in SERVER_MADE_TAGS.get(kind, frozenset()) & tags.keys():
            rewritten[key] = tags[key]
        for key in URI_TAGS & rewritten.keys():
            rewritten[key] = mask_uri(rewritten[key])
        for key, value in self.expected.tags(rewritten).items():
            flag = ASKED if key == USER_TAG and not self.expected.keeps_users else ""
            yield Fact(f"tags.{key}", text_of(value), flag)

    def _experiments_of(self, value: str) -> Iterator[Fact]:
        """The experiments of a prompt: a set, so each is a fact."""
        for id in dict.fromkeys(part for part in value.split(",") if part):
            field, name = f"tags.{PROMPT_EXPERIMENTS_TAG}", self.names.name("experiment", id)
            if self.names.knows("experiment", id):
                yield Fact(field, text_of(name))
            else:
                # Each apart: it is not to be taken for another one of the other side.
                yield Fact(f"{field}[{id}]", text_of(name), OUTSIDE)

    def _reference(self, field_name: str, kind: str, id: str | None) -> Iterator[Fact]:
        if id and (name := self.names.name(kind, id)):
            flag = "" if self.names.knows(kind, id) else OUTSIDE
            yield Fact(field_name, text_of(name), flag)

    def _run(self, run: Run) -> Iterator[Fact]:
        info = run.info
        yield from _plain_fields(info, "run_id", "run_uuid", "experiment_id", "user_id")
        if info.user_id:
            flag = "" if self.expected.keeps_users else ASKED
            yield Fact("user_id", text_of(self.expected.user(info.user_id)), flag)
        yield from self._tags(run.kind, run.tags)
        for key, value in run.params.items():
            yield Fact(f"params.{key}", text_of(value))
        for entry in run.inputs.dataset_inputs:
            dataset = rewrite_dataset_source(entry.dataset, self.names, Report())
            described = {
                "source_type": dataset.source_type,
                "source": mask_uris_in(dataset.source),
                "schema": dataset.schema or "",
                "profile": dataset.profile or "",
                "tags": sorted([tag.key, tag.value] for tag in entry.tags),
            }
            yield Fact(f"datasets[{dataset.name} {dataset.digest}]", text_of(described))
        for read in run.inputs.model_inputs:
            yield from self._reference("inputs.models", LoggedModel.kind, read.model_id)
        for made in run.outputs.model_outputs:
            name = self.names.name(LoggedModel.kind, made.model_id)
            flag = "" if self.names.knows(LoggedModel.kind, made.model_id) else OUTSIDE
            yield Fact("outputs.models", text_of([name, made.step]), flag)

    def _histories(self, content: Content) -> Iterator[Fact]:
        key: str | None = None
        count = total = unheld = 0
        for chunk in content.histories():
            if chunk.key != key:
                if key is not None:
                    yield from _history(key, count, total, unheld)
                key, count, total, unheld = chunk.key, 0, 0, 0
            count += len(chunk)
            for timestamp, step, value in zip(
                chunk.timestamps, chunk.steps, chunk.values, strict=True
            ):
                held = held_value(value)
                # A sum does not depend on the order, which servers do not keep for equal times.
                total += _digest(timestamp, step, held)
                if held is not value and repr(held) != repr(value):
                    unheld += _digest(timestamp, step, value)
        if key is not None:
            yield from _history(key, count, total, unheld)

    def _logged_model(self, model: LoggedModel) -> Iterator[Fact]:
        yield from _plain_fields(
            model, "model_id", "experiment_id", "source_run_id", "tags", "params", "metrics"
        )
        yield from self._reference("source_run_id", Run.kind, model.source_run_id)
        yield from self._tags(model.kind, model.tags)
        for key, value in model.params.items():
            yield Fact(f"params.{key}", text_of(value))
        for metric in model.metrics:
            run = self.names.name(Run.kind, metric.run_id or "")
            dataset = [metric.dataset_name or "", metric.dataset_digest or ""]
            logged = decode_number(metric.value)
            held = 0.0 if math.isnan(logged) else held_value(logged)
            point = [metric.timestamp, metric.step, held, run, *dataset]
            inside = metric.run_id and self.names.knows(Run.kind, metric.run_id)
            yield Fact(f"metrics.{metric.key}", text_of(point), "" if inside else OUTSIDE)
            if repr(held) != repr(logged):
                point[2] = metric.value
                yield Fact(f'{AS_LOGGED}{metric.key}"]', text_of(point))

    def _version(
        self,
        model: RegisteredModel,
        version: ModelVersion,
        thing: Thing | None,
        tree: ArtifactTree | None,
    ) -> Iterator[Fact]:
        kind = VERSION_KIND[model.kind]
        yield Fact("id", text_of(thing.id if thing else ""))
        renumbered = ASKED if provenance.SOURCE_VERSION in version.tags else ""
        yield Fact("version", text_of(version.version), renumbered)
        yield from _plain_fields(
            version,
            *("name", "version", "source", "run_id", "current_stage", "tags"),
            *("experiment_id", "experiment_name", "run_artifact_uri"),
        )
        yield Fact("current_stage", text_of(version.current_stage or "None"))
        yield from self._tags(kind, version.tags)
        if isinstance(model, Prompt):
            if version.source not in ("", _PROMPT_SOURCE):
                yield Fact("source", text_of(mask_uri(version.source)))
            return
        moved = rewrite_version_source(version, self.names)
        run = moved.run_id if moved.run_id.startswith("<") else self.names.name("run", moved.run_id)
        if version.run_id and self.names.name(Run.kind, version.run_id) == "":
            run = ""
        held = self._is_held(version)
        own = OWN if held or (tree is not None and not moved.moved) else ""
        if moved.source:
            source = moved.source if moved.moved else self.expected.location(moved.source)
            yield Fact("source", text_of(mask_uri(source)), own)
        if run:
            known = self.names.knows(Run.kind, version.run_id)
            yield Fact("run_id", text_of(run), "" if known or not version.run_id else OUTSIDE)
        if tree is not None and not held:
            for _, fact in self._file_facts(version, tree, kind, f"{model.name}/{version.version}"):
                yield fact

    def _is_held(self, version: ModelVersion) -> bool:
        """Whether an import put the version's files into a run."""
        if not version.run_id:
            return False
        if self._find(HOLDER, version.run_id) is not None:
            return True
        run = self._find(Run.kind, version.run_id)
        root = "" if run is None else f"{run.root.rstrip('/')}/{HELD_DIRECTORY}"
        return is_below(version.source, root) and version.source[len(root) :].count("/") == 2

    def _plain(self, entity: PlainEntity, items: Iterable[msgspec.Struct]) -> Iterator[Fact]:
        entity = mask_record(self.expected.record(entity), _unheard)  # as a bundle holds it
        for name, value, only_database in told(entity):
            if only_database:
                yield Fact(name, text_of(msgspec.to_builtins(value)), DATABASE)
            elif (name == "experiment_id" and entity.parent) or (
                name.endswith("_id") and value == entity.id
            ):
                continue  # where it lies, and its own id: told already
            elif name == "tags" and isinstance(value, dict):
                yield from self._tags(entity.kind, value)
            elif is_empty(value):
                continue
            elif isinstance(value, dict):
                rewritten = rewrite_values(entity.kind, name, value, self.names, Report())
                for key, entry in canonical(rewritten, self.names.name).items():
                    yield Fact(f"{name}.{key}", text_of(entry))
            elif name in _SETS and isinstance(value, list):
                for entry in value:
                    yield Fact(name, text_of(entry))
            elif name.endswith("_ids") and (kind := REFERENCES.get(name.removesuffix("s"))):
                for id in value:
                    yield from self._reference(name, kind, id)
            elif isinstance(value, (list, tuple)) and all(
                isinstance(entry, msgspec.Struct) for entry in value
            ):
                yield from self._items(entity.kind, name, value)
            else:
                yield self._plain_field(entity, name, value)
        yield from self._items(entity.kind, "items", map(self._item, items))

    def _item(self, item: msgspec.Struct) -> msgspec.Struct:
        if isinstance(item, SkillVersion) and item.has_files:
            # Each upload has a place of its own; the files are compared.
            item = msgspec.structs.replace(item, source=None)
        return self.expected.record(item)

    def _plain_field(self, entity: PlainEntity, name: str, value: Any) -> Fact:
        known = {name: msgspec.to_builtins(value)}
        unknown: list[str] = []

        def named(kind: str, id: str) -> str:
            if id and not self.names.knows(kind, id):
                unknown.append(id)
            return self.names.name(kind, id)

        return Fact(name, text_of(canonical(known, named)[name]), OUTSIDE if unknown else "")

    def _items(self, kind: str, name: str, items: Iterable[msgspec.Struct]) -> Iterator[Fact]:
        for item in items:
            fields = fields_of(item, self.names, self.expected)
            key = key_of(fields)
            if key is None:
                compared = {
                    part: value
                    for part, value in fields.items()
                    if exemption_of(kind, f"{name}[].{part}", is_empty=False) is None
                }
                digest = hashlib.sha256(repr(sorted(compared.items())).encode()).hexdigest()
                key = f"#{digest[:12]}"
            flag = DATABASE if is_hidden(item) else ""
            for part, value in fields.items():
                yield Fact(f"{name}[{key}].{part}", text_of(value), flag)

    # Files

    def _file_facts(
        self, entity: Entity | ModelVersion, tree: ArtifactTree, kind: str = "", id: str = ""
    ) -> Iterator[tuple[str, Fact]]:
        """Yield path and fact of each file of an entity."""
        if self.files == "skip":
            return
        if not isinstance(entity, ModelVersion):
            kind, id = entity.kind, entity.id
        if self._is_of_no_use(kind, id):
            return
        if tree.mode != "included":
            yield "", Fact("artifacts", text_of(tree.mode), UNREAD)
            return
        try:
            files = tree.files()
        except ServerError as exc:
            if exc.status is None:
                raise
            self.report.lose(kind, id, exc.message, field="artifacts")
            yield "", Fact("artifacts", text_of("unreadable"), UNREAD)
            return
        for file in files:
            name = f"artifacts/{file.path}"
            try:
                yield file.path, Fact(name, self._file(tree, file))
            except ServerError as exc:
                if exc.status is None:
                    raise
                self.report.lose(kind, id, exc.message, field=name)
                yield file.path, Fact(name, text_of("unreadable"), UNREAD)

    def _is_of_no_use(self, kind: str, id: str) -> bool:
        """Whether A holds no files of it, or could not read them: there is nothing to compare."""
        thing = self._find(kind, id) if self.side == "b" else None
        pair = thing.pair if thing is not None else None
        return pair is not None and self.ledger.has(pair, "a", "artifacts")

    def _file(self, tree: ArtifactTree, file: ArtifactFile) -> str:
        name = posixpath.basename(file.path)
        if self.files == "size":
            if name in (MLMODEL, TRACE_DATA):
                return "holds ids"
            size = file.size
            if size is None:
                size = tree_size(tree, file)
            return f"{size} bytes"
        opened = tree.open(file)
        with opened.stream as stream:
            chunks = iter(lambda: stream.read(_CHUNK_BYTES), b"")
            named = True
            if name == TRACE_DATA:
                chunks = rewrite_trace_data(stream, self.names)
            elif name == MLMODEL and opened.size <= _MLMODEL_BYTES:
                chunks = iter([rewrite_mlmodel(stream.read(), self.names)])
            else:
                named = False
            digest, size = hashlib.sha256(), 0
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                self.progress.advance(bytes=len(chunk))
        if named:
            return f"sha256 {digest.hexdigest()} with names for ids"
        return f"{size} bytes, sha256 {digest.hexdigest()}"


def _hidden_directories(content: Content) -> set[str]:
    """Return the directories of files that only a database tells of."""
    if not isinstance(content.entity, Skill):
        return set()
    versions = (item for item in content.items() if isinstance(item, SkillVersion))
    return {str(version.version) for version in versions if is_hidden(version)}


def _unheard(field_name: str) -> None:
    """Masked fields are not counted here."""


def tree_size(tree: ArtifactTree, file: ArtifactFile) -> int:
    """Return the size of a file whose store does not tell it."""
    opened = tree.open(file)
    with contextlib.closing(opened.stream):
        return opened.size


def _entry(
    kind: str,
    id: str,
    *,
    parent: str = "",
    scope: str = "",
    origin: str | None = None,
    key: str | None = None,
    body: str = "",
    root: str = "",
    label: str,
) -> Entry:
    return Entry(
        kind=kind,
        id=id,
        parent=parent,
        scope=scope,
        origin=origin,
        key=key,
        body=body,
        root=root,
        label=label,
    )


def _plain_fields(record: msgspec.Struct, *but: str) -> Iterator[Fact]:
    """Facts of the fields of a record of its own document, those left out that are named."""
    for name, value, only_database in told(record):
        if name not in but and (only_database or not is_empty(value)):
            text = mask_uri(value) if isinstance(value, str) and "://" in value else value
            yield Fact(name, text_of(text), DATABASE if only_database else "")


def _history(key: str, count: int, total: int, unheld: int) -> Iterator[Fact]:
    digest = f"{total % 2**128:032x}"
    yield Fact(f'{HISTORY}{key}"]', f"{count} points, digest {digest}")
    if unheld:
        yield Fact(f'{AS_LOGGED}{key}"]', f"digest {unheld % 2**128:032x}")


def _digest(timestamp: int, step: int, value: float) -> int:
    point = f"{timestamp} {step} {value!r}".encode()
    return int.from_bytes(hashlib.blake2b(point, digest_size=16).digest(), "big")


def _below(prefix: str, path: str, fact: Fact) -> Fact:
    """Return a fact about a file as one about the file below ``prefix``."""
    if not path:
        return fact
    return fact._replace(field=f"artifacts/{path.removeprefix(prefix)}")
