"""Writes registered models and prompts; versions keep their numbers, gaps and deleted ones too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import sqlalchemy
from mlflow.utils.uri import append_to_uri_path

from mlflow_bundle import provenance
from mlflow_bundle.contracts import ArtifactTree, Content
from mlflow_bundle.entities import (
    DELETED_STAGE,
    PROMPT_TAG,
    VERSION_KIND,
    Entity,
    LoggedModel,
    ModelVersion,
    Prompt,
    RegisteredModel,
    Run,
)
from mlflow_bundle.errors import ServerError, SinkError
from mlflow_bundle.references import (
    PROMPT_EXPERIMENTS_TAG,
    files_of,
    join_experiments,
    logged_model_id_of,
    model_version_of,
    rewrite_version_source,
    rewrite_version_storage,
)
from mlflow_bundle.sql.batch import Owner, Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.base import FileWriter, Writer, known, null_names, text
from mlflow_bundle.version_files import HELD_DIRECTORY

_MODELS, _VERSIONS = "registered_models", "model_versions"
_BELOW = (  # children first
    "registered_model_aliases",
    "registered_model_tags",
    "model_version_tags",
    _VERSIONS,
    _MODELS,
)
_ORIGINALS = "model_version_files"
"""Kind in the `Remap` of the versions that are not made of others, by where their files lie."""
_COMPARED = ("description", "current_stage", "status", "status_message")
_LONG_NAME = 100
"""A location is kept in 500 characters: a longer name is no directory."""

_HINT = "(--renumber gives the next free one, --rename-model another name)"


class _Copy(NamedTuple):
    """A version whose files are those of another one."""

    version: ModelVersion
    """As the bundle has it."""
    where: Row
    """Its key here."""
    original: str
    """Name and number here of the other one."""


class RegistryWriter(Writer):
    """Writes registered models, or prompts."""

    def __init__(self, to: Target, kind: str) -> None:
        super().__init__(to)
        self.kind = kind  # type: ignore[misc]
        self._copies: list[_Copy] = []
        self._away: set[str] = set()
        """Artifact stores that could not be read, by host."""

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, RegisteredModel)
        name = self._name(entity)
        self._to.claim(_MODELS, "name", name)
        self._require_kind(entity, name)
        self._to.remap.place(entity.kind, entity.id, name)
        here = {} if self._to.options.delete_model else self._versions_here(name)
        highest = max(here, default=0)
        for version in entity.versions:
            number: int | None = self._number(version, name, here)
            if number is None and self._to.options.renumber:
                number = highest = max(highest, *here, 0) + 1
                here[number] = ""
            if number is not None:
                here.setdefault(number, provenance.version_origin(version))
                self._to.remap.place(
                    VERSION_KIND[entity.kind],
                    f"{entity.name}/{version.version}",
                    f"{name}/{number}",
                    source_root=files_of(version),
                )
                if model_version_of(version.source) is None:
                    # By this, copies of it find it.
                    self._to.remap.place(_ORIGINALS, files_of(version), f"{name}/{number}")

    def _name(self, model: RegisteredModel) -> str:
        return self._to.options.rename_models.get(model.name, model.name)

    def _within(self, name: str) -> Row:
        return {"workspace": self._to.workspace, "name": name}

    def _require_kind(self, model: RegisteredModel, name: str) -> None:
        if self._to.options.delete_model:
            return
        if self._to.row_before(_MODELS, self._within(name), "name") is None:
            return
        where = {**self._within(name), "key": PROMPT_TAG}
        tag = self._to.row("registered_model_tags", where, "value")
        is_prompt = tag is not None and tag["value"] == "true"
        if is_prompt != isinstance(model, Prompt):
            noun = "prompt" if is_prompt else "registered model"
            self._to.report.conflict(
                model.kind, model.name, "kind", f"the destination has a {noun} there"
            )
            raise SinkError(
                f"{name} is a {noun} at the destination",
                status=409,
                hint="--rename-model gives it another name",
            )

    def _versions_here(self, name: str) -> dict[int, str]:
        """Return the origins of the versions that are here, by number."""
        if _MODELS in self._to.empty:
            return {}
        within = self._within(name)
        columns = ("version", "creation_time")
        here = {
            int(row["version"]): f"{name}/{row['version']}/{row['creation_time']}"
            for row in self._to.rows(_VERSIONS, within, columns)
        }
        where = {**within, "key": provenance.ORIGIN}
        for row in self._to.rows("model_version_tags", where, ("version", "value")):
            here[int(row["version"])] = str(row["value"])
        return here

    def _number(self, version: ModelVersion, name: str, here: dict[int, str]) -> int | None:
        """Return the number of a version here: that of its twin, or its own if that is free."""
        origin = provenance.version_origin(version)
        for number, other in here.items():
            if other == origin:
                return number
        if version.version not in here:
            return version.version
        # Sources that tell no times: the number is all there is.
        return version.version if version.creation_timestamp is None else None

    def write(self, content: Content, *, dry: bool) -> None:
        model = content.entity
        assert isinstance(model, RegisteredModel)
        name = self._name(model)
        within = self._within(name)
        if self._to.remap.find(model.kind, model.id) is None:
            return  # lost when it was to be placed
        deletes = self._to.options.delete_model
        here = self._to.row_before(_MODELS, within, "description")
        if here is not None and deletes:
            self._note_deletion(name, dry=dry)
        if dry and (here is None or deletes):
            return
        moves = [
            (version, number, self._source(model, version, name, number, content, dry=dry))
            for version, number in self._numbers(model)
        ]
        fresh = here is None or deletes
        with Merge(self._to, model.kind, model.name, fresh=fresh, dry=dry) as merge:
            if here is not None and deletes:
                self._delete(within)
                here = None
            self._write_model(merge, model, within, here)
            merge.count()
            for version, number, source in moves:
                self._write_version(model, version, number, source, within, merge)
            self._write_deleted(merge, model, within)
            self._write_aliases(merge, model, within)

    # Deletion (--delete-model)

    def _note_deletion(self, name: str, *, dry: bool) -> None:
        numbers = ", ".join(map(str, sorted(self._versions_here(name)))) or "none"
        what = "would be deleted" if dry else "was deleted"
        self._to.report.note(f"{name} {what} at the destination, with versions {numbers}")

    def _delete(self, within: Row) -> None:
        for table in _BELOW:
            self._delete_rows(table, within)

    def _delete_rows(self, table: str, where: Row) -> None:
        source = self._to.table(table)
        statement = sqlalchemy.delete(source)
        for column, value in where.items():
            statement = statement.where(source.c[column] == value)
        self._to.batch.execute(statement)

    # Rows

    def _write_model(
        self, merge: Merge, model: RegisteredModel, within: Row, here: Row | None
    ) -> None:
        row: Row = {
            **within,
            "creation_time": model.creation_timestamp,
            "last_updated_time": model.last_updated_timestamp,
            "description": text(model.description, "description", model.null_fields),
        }
        if here is None or row["description"]:
            merge.own(_MODELS, row, here, key=tuple(within), compared=("description",))
        tags = self._to.tags_of(model.kind, model.tags)
        joined: dict[str, str] = {}
        if not merge.fresh and PROMPT_EXPERIMENTS_TAG in tags:
            found = merge.here_map("registered_model_tags", within)
            if PROMPT_EXPERIMENTS_TAG in found:
                bundle = tags.pop(PROMPT_EXPERIMENTS_TAG)
                both = join_experiments(found[PROMPT_EXPERIMENTS_TAG], bundle)
                joined = {PROMPT_EXPERIMENTS_TAG: both}
        merge.map(
            "registered_model_tags",
            within,
            tags,
            name="tags",
            nulls=null_names(model.null_fields),
            joined=joined,
        )

    def _numbers(self, model: RegisteredModel) -> Iterator[tuple[ModelVersion, int]]:
        """Yield the versions that have a place here; the others are losses."""
        kind = VERSION_KIND[model.kind]
        for version in model.versions:
            id = f"{model.name}/{version.version}"
            placed = self._to.remap.find(kind, id)
            if placed is None:
                self._to.report.lose(kind, id, f"another version holds its number {_HINT}")
            else:
                yield version, int(placed.id.rpartition("/")[2])

    def _write_version(
        self,
        model: RegisteredModel,
        version: ModelVersion,
        number: int,
        source: Row,
        within: Row,
        merge: Merge,
    ) -> None:
        kind = VERSION_KIND[model.kind]
        id = f"{model.name}/{version.version}"
        where = {**within, "version": number}
        columns = (*_COMPARED, *source)
        here = None if merge.fresh else self._to.row(_VERSIONS, where, *columns)
        if here is None and merge.dry:
            return
        if here is not None and here["current_stage"] == DELETED_STAGE:
            self._to.report.conflict(kind, id, "current_stage", "deleted at the destination")
            self._to.report.found(kind)
            return
        nulls = version.null_fields
        part = merge.part(Owner(kind, id), fresh=here is None)
        row = self._version_row(version, where, source)
        if here is not None and not row["description"]:
            row["description"] = None
        arrived = () if here is None else _arrived(version, source, here)
        compared = (*_COMPARED, *arrived)
        part.own(_VERSIONS, row, here, key=tuple(where), compared=compared, news=arrived)
        self._follow_files(version, where, row if here is None else here, merge)
        tags = self._to.tags_of(kind, version.tags)
        if here is not None:
            tags.pop(provenance.ORIGIN, None)
            tags.pop(provenance.SOURCE_VERSION, None)
        elif (model.name, version.version) != (within["name"], number):
            tags[provenance.ORIGIN] = provenance.version_origin(version)
            if number != version.version:
                tags[provenance.SOURCE_VERSION] = str(version.version)
                self._to.report.adjust(kind, "version (--renumber)")
        part.map("model_version_tags", where, tags, name="tags", nulls=null_names(nulls))
        part.count()

    def _follow_files(self, version: ModelVersion, where: Row, row: Row, merge: Merge) -> None:
        """Remember a version whose files are those of another one, wherever that has them here."""
        stored = version.storage_location
        if merge.dry or not stored or row["storage_location"] != stored:
            return
        placed = self._to.remap.find(_ORIGINALS, stored)
        if placed is not None and model_version_of(version.source) is not None:
            self._copies.append(_Copy(version, where, placed.id))

    def finish(self) -> None:
        for version, where, original in self._copies:
            name, _, number = original.rpartition("/")
            of = {**self._within(name), "version": int(number)}
            row = self._to.row(_VERSIONS, of, "source", "storage_location")
            location = None if row is None else row["storage_location"] or row["source"]
            if location is None or location == version.storage_location:
                continue
            id = f"{version.name}/{version.version}"
            with Merge(self._to, VERSION_KIND[self.kind], id, fresh=False, dry=False) as merge:
                merge.replace(_VERSIONS, where, {"storage_location": location})

    def _version_row(self, version: ModelVersion, where: Row, source: Row) -> Row:
        nulls, user = version.null_fields, self._to.options.user_of(version.user_id)
        return {
            **where,
            "creation_time": version.creation_timestamp,
            "last_updated_time": version.last_updated_timestamp,
            "description": text(version.description, "description", nulls),
            "user_id": text(user, "user_id", nulls, empty=None),
            "current_stage": version.current_stage,
            **source,
            "run_link": text(version.run_link, "run_link", nulls),
            "status": version.status,
            "status_message": text(version.status_message, "status_message", nulls, empty=None),
        }

    def _write_deleted(self, merge: Merge, model: RegisteredModel, within: Row) -> None:
        """Write what is left of deleted versions, where they are live or their numbers free."""
        deleted = known(model.deleted_versions, [])
        if not deleted:
            return
        taken = {} if merge.fresh else self._versions_here(within["name"])
        used = {number for _, number in self._numbers_placed(model)}
        for version in deleted:
            origin = provenance.version_origin(version)
            twin = next((number for number, other in taken.items() if other == origin), None)
            number = version.version if twin is None else twin
            if number in used or (twin is None and number in taken):
                continue
            where: Row = {**within, "version": number}
            stored = version.storage_location
            if stored is None and "storage_location" not in null_names(version.null_fields):
                stored = version.source
            source: Row = {
                "source": version.source,
                "storage_location": stored,
                "run_id": text(version.run_id, "run_id", version.null_fields),
            }
            row = self._version_row(version, where, source)
            if twin is not None:
                self._delete_version(merge, model, version, where, row)
                continue
            name = f"versions.{version.version}"
            merge.own(_VERSIONS, row, None, key=("version",), compared=(), name=name)
            merge.insert_map(
                "model_version_tags",
                where,
                version.tags,
                name=f"{name}.tags",
                nulls=null_names(version.null_fields),
            )

    def _delete_version(
        self, merge: Merge, model: RegisteredModel, version: ModelVersion, where: Row, row: Row
    ) -> None:
        """Delete a version that was deleted at the source; nothing would bring it back."""
        here = self._to.row(_VERSIONS, where, "current_stage")
        if here is None or here["current_stage"] == DELETED_STAGE:
            return
        kind, id = VERSION_KIND[model.kind], f"{model.name}/{version.version}"
        if not self._to.differs(
            kind, id, "current_stage", here=here["current_stage"], bundle=DELETED_STAGE
        ):
            return
        kept = {*where, "storage_location"}  # its files stay, as where MLflow deletes one
        values = {column: value for column, value in row.items() if column not in kept}
        merge.replace(_VERSIONS, where, values)
        if not merge.dry:
            self._delete_rows("registered_model_aliases", where)

    def _numbers_placed(self, model: RegisteredModel) -> Iterator[tuple[ModelVersion, int]]:
        for version in model.versions:
            placed = self._to.remap.find(
                VERSION_KIND[model.kind], f"{model.name}/{version.version}"
            )
            if placed is not None:
                yield version, int(placed.id.rpartition("/")[2])

    def _write_aliases(self, merge: Merge, model: RegisteredModel, within: Row) -> None:
        numbers = {version.version: number for version, number in self._numbers_placed(model)}
        aliases = {
            alias: numbers[number] for alias, number in model.aliases.items() if number in numbers
        }
        selected = {version.version for version in model.versions}
        for alias, number in model.aliases.items():
            if alias in aliases:
                continue
            if number in selected:
                reason = f"its version {number} could not be imported"
                self._to.report.lose(model.kind, model.name, reason, field=f"aliases.{alias}")
            else:
                self._to.report.adjust(model.kind, "aliases (points outside)")
        merge.map(
            "registered_model_aliases",
            within,
            aliases,
            name="aliases",
            key="alias",
            value="version",
        )

    # Where the files are

    def _source(
        self,
        model: RegisteredModel,
        version: ModelVersion,
        name: str,
        number: int,
        content: Content,
        *,
        dry: bool,
    ) -> Row:
        """Return source, storage location and run of a version here; its own files are written."""
        kind, nulls = VERSION_KIND[model.kind], version.null_fields
        moved = rewrite_version_source(version, self._to.remap)
        run_id = moved.run_id
        if version.run_id and self._to.remap.find(Run.kind, version.run_id) is None:
            self._to.report.adjust(kind, "run_id (points outside)")
        source = moved.source
        storage = rewrite_version_storage(version, self._to.remap)
        is_null = "storage_location" in null_names(nulls)
        if is_null and version.storage_location == version.source:
            storage = None  # only told, of a version that is made of another one
        if storage is None and not is_null:
            # As a server does where it makes the version (``create_model_version``).
            made_of = logged_model_id_of(version.source)
            placed = self._to.remap.find(LoggedModel.kind, made_of) if made_of else None
            by_name = placed is not None and version.source == f"models:/{made_of}"
            storage = placed.sink_root if placed is not None and by_name else source
        tree = content.version_artifacts.get(version.version)
        location = ""
        has_own = not moved.moved and tree is not None and tree.mode == "included"
        if has_own and tree is not None and not self._finds_files(version, name, number):
            location = self._write_files(version, name, number, tree, dry=dry)
        if location:
            source = storage = location
            self._to.report.adjust(kind, "source")
        elif not moved.moved and not isinstance(model, Prompt):
            self._to.report.adjust(kind, "source (points outside)")
        return {
            "source": text(source, "source", nulls),
            "storage_location": storage,
            "run_id": text(run_id, "run_id", nulls),
        }

    def _finds_files(self, version: ModelVersion, name: str, number: int) -> bool:
        """Whether a version is here that finds its files where they were at the source.

        So it is in the database that the bundle comes from, and after an import that left the files
        where they were.
        """
        if _MODELS in self._to.empty or self._to.options.artifacts != "copy":
            return False
        where = {**self._within(name), "version": number}
        row = self._to.row(_VERSIONS, where, "storage_location")
        place = version.storage_location or version.source
        store = urlsplit(place).netloc
        if row is None or row["storage_location"] != place or store in self._away:
            return False
        try:
            return bool(self._to.store.tree(place).files())
        except ServerError:
            if store:
                self._away.add(store)  # to ask again would take its time again
            return False

    def _write_files(
        self, version: ModelVersion, name: str, number: int, tree: ArtifactTree, *, dry: bool
    ) -> str:
        """Write files that belong to no run that was moved.

        Returns:
            Where they are now; empty where there are none, or they stay where they were.
        """
        run = self._to.remap.find(Run.kind, version.run_id) if version.run_id else None
        root = run.sink_root if run is not None else self._to.location()
        directory = quote(name, safe="")
        if len(directory) > _LONG_NAME:
            directory = self._to.made_id(_MODELS, name)
        location = str(append_to_uri_path(root, HELD_DIRECTORY, directory, str(number)))
        files = FileWriter(
            self._to,
            kind="model_version",
            id=f"{version.name}/{version.version}",
            location=location,
            tree=tree,
        )
        if not dry:
            files.write(fresh=False)
        return location if files.has_some else ""


def _arrived(version: ModelVersion, source: Row, here: Row) -> tuple[str, ...]:
    """Return the columns that still point to where the version comes from.

    An earlier import has left them so, without the files, run or logged model that are here now.

    Args:
        version: As the bundle has it.
        source: What the columns are to be here.
        here: What they are.
    """
    before = {
        "source": version.source,
        "storage_location": version.storage_location or version.source,
        "run_id": version.run_id,
    }
    return tuple(
        column
        for column, value in source.items()
        if value and value != here[column] == before[column]
    )
