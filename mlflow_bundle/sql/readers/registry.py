"""Reads registered models and prompts with their versions, and what is kept of deleted ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import UNSET

from mlflow_bundle import provenance
from mlflow_bundle.entities import DELETED_STAGE, PROMPT_TAG, ModelVersion, Prompt, RegisteredModel
from mlflow_bundle.references import model_version_of
from mlflow_bundle.selection import Selection
from mlflow_bundle.sql.readers.base import Nulls, chunks
from mlflow_bundle.sql.rows import Row, Rows

_VERSION_TEXTS = (
    "description",
    "user_id",
    "source",
    "run_id",
    "run_link",
    "status",
    "status_message",
)
_VERSION_COLUMNS = (
    "name",
    "version",
    "creation_time",
    "last_updated_time",
    "current_stage",
    "storage_location",
    *_VERSION_TEXTS,
)


class RunPlace(NamedTuple):
    """Where a run lies."""

    experiment_id: str
    experiment_name: str | None
    artifact_uri: str


@dataclass(slots=True)
class Listed:
    """One registered model as it is listed, before anything else of it is read."""

    kind: str
    versions: dict[int, str]
    """Number to stage, of versions that are not deleted."""
    aliases: dict[str, int]

    def aliases_of(self, number: int) -> list[str]:
        """Return the aliases of a version."""
        return [alias for alias, of in self.aliases.items() if of == number]


class Registry:
    """Reads the registry of one workspace.

    Args:
        rows: The database.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._own_names: dict[str, str] = {}
        """Names as models have them, by those that rows of theirs have."""

    def _own(self, name: str) -> str:
        """Return the name of the model that a row belongs to; empty where there is none.

        A database that takes ``a`` for ``A`` keeps what each row was written with.
        """
        own = self._own_names.get(name)
        if own is None:
            found = self._rows.select("registered_models", ("name",), where={"name": name})
            own = self._own_names[name] = str(found[0][0]) if found else ""
        return own

    def _grouped(
        self, table: str, names: Sequence[str], columns: Sequence[str]
    ) -> dict[str, Sequence[Row]]:
        """Return rows of models by the models' own names, in the order of the first column."""
        groups: dict[str, list[Row]] = {}
        for name, rows in self._rows.grouped(table, "name", names, columns).items():
            groups.setdefault(self._own(name), []).extend(rows)
        return {name: sorted(rows, key=lambda row: row[0]) for name, rows in groups.items()}

    def list(self) -> dict[str, Listed]:
        """Return every registered model and prompt by name."""
        found: dict[str, Listed] = {}
        names = [name for (name,) in self._rows.select("registered_models", ("name",))]
        self._own_names.update(zip(names, names, strict=True))
        prompts = {
            self._own(name)
            for name, value in self._rows.select(
                "registered_model_tags", ("name", "value"), where={"key": PROMPT_TAG}
            )
            if value == "true"
        }
        for name in names:
            kind = Prompt.kind if name in prompts else RegisteredModel.kind
            found[name] = Listed(kind, {}, {})
        for name, number, stage in self._rows.select(
            "model_versions", ("name", "version", "current_stage")
        ):
            if stage != DELETED_STAGE and (own := self._own(name)):
                found[own].versions[number] = stage or "None"
        fillers = self._rows.select(
            "model_version_tags", ("name", "version"), where={"key": provenance.FILLER}
        )
        for name, number in fillers:
            # What a killed import left behind to hold a number is no version.
            if own := self._own(name):
                found[own].versions.pop(number, None)
        for name, alias, number in self._rows.select(
            "registered_model_aliases", ("name", "alias", "version")
        ):
            if own := self._own(name):
                found[own].aliases[alias] = int(number)
        return found

    def needs(self, chosen: Mapping[str, Iterable[int]]) -> Iterator[tuple[str, str]]:
        """Yield run id and source of each version that travels."""
        for names in chunks(list(chosen)):
            for name, number, run_id, source in self._rows.select(
                "model_versions", ("name", "version", "run_id", "source"), where={"name": names}
            ):
                if number in chosen.get(self._own(name), ()):
                    yield run_id or "", source or ""

    def read(
        self,
        names: Sequence[str],
        kinds: Mapping[str, str],
        selection: Selection,
        numbers: Mapping[str, Iterable[int]],
        places: Mapping[str, RunPlace],
    ) -> Iterator[RegisteredModel]:
        """Yield models with the versions that travel.

        Args:
            names: Which models.
            kinds: Name to kind.
            selection: Decides about deleted versions.
            numbers: Name to the versions that travel.
            places: Run id to where it lies, of runs that travel.
        """
        tags = self._grouped("registered_model_tags", names, ("key", "value"))
        aliases = self._grouped("registered_model_aliases", names, ("alias", "version"))
        version_tags = self._grouped("model_version_tags", names, ("version", "key", "value"))
        versions = self._grouped("model_versions", names, _VERSION_COLUMNS[1:])
        columns = ("name", "creation_time", "last_updated_time", "description")
        for some in chunks(names):
            for row in self._rows.select("registered_models", columns, where={"name": some}):
                name, created, updated, description = row
                tags_of: dict[int, list[Row]] = {}
                for number, key, value in version_tags.get(name, ()):
                    tags_of.setdefault(number, []).append((key, value))
                chosen, deleted = set(numbers[name]), []
                kept = []
                for values in versions.get(name, ()):
                    version = _version(name, values, tags_of.get(values[0], ()), places)
                    if version.current_stage == DELETED_STAGE:
                        if selection.matches_version(name, version.version, stage=DELETED_STAGE):
                            deleted.append(version)
                    elif version.version in chosen:
                        kept.append(version)
                nulls = Nulls()
                record = Prompt if kinds[name] == Prompt.kind else RegisteredModel
                yield record(
                    name=name,
                    description=nulls.text("description", description),
                    tags=nulls.tags("tags", tags.get(name, ())),
                    aliases={
                        alias: int(number)
                        for alias, number in aliases.get(name, ())
                        if int(number) in chosen
                    },
                    creation_timestamp=created,
                    last_updated_timestamp=updated,
                    versions=kept,
                    deleted_versions=deleted or UNSET,
                    null_fields=nulls.names,
                )


def _version(
    name: str,
    values: Row,
    tags: Iterable[Row],
    places: Mapping[str, RunPlace],
) -> ModelVersion:
    row = dict(zip(_VERSION_COLUMNS[1:], values, strict=True))
    nulls = Nulls()
    texts = {field: nulls.text(field, row[field]) for field in _VERSION_TEXTS}
    location = row["storage_location"]
    if location is None:
        nulls.add("storage_location")
    if model_version_of(texts["source"]) is not None:
        # Servers tell where such a version's files lie, in lack of a place its source.
        location = location or texts["source"]
    elif location == texts["source"]:
        location = None
    place = places.get(texts["run_id"])
    return ModelVersion(
        name=name,
        version=row["version"],
        creation_timestamp=row["creation_time"],
        last_updated_timestamp=row["last_updated_time"],
        current_stage=nulls.text("current_stage", row["current_stage"]) or "None",
        storage_location=location,
        tags=nulls.tags("tags", tags),
        experiment_id=place.experiment_id if place else None,
        experiment_name=place.experiment_name if place else None,
        run_artifact_uri=place.artifact_uri if place else None,
        null_fields=nulls.names,
        **texts,
    )
