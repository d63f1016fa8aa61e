"""Which id of the destination is which of the source's, and the translation of values.

The pairs are found in the databases themselves: by name within a parent, by the tag
``mlflow_bundle.origin``, or by everything that tells two of a kind apart; of several alike, the
first is the first. Traces, spans and assessments keep their ids.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.table_rows import Database, Row

ORIGIN = "mlflow_bundle.origin"

Rename = Callable[[str], str]


class Natural(NamedTuple):
    """A table whose rows the destination gave ids, and the columns that tell them apart."""

    table: str
    id: str
    columns: tuple[str, ...]


NATURAL = (
    Natural("experiments", "experiment_id", ("workspace", "name")),
    Natural("runs", "run_uuid", ("tags run_uuid key value",)),
    Natural("logged_models", "model_id", ("logged_model_tags model_id tag_key tag_value",)),
    Natural("datasets", "dataset_uuid", ("experiment_id", "name", "digest")),
    Natural(
        "inputs",
        "input_uuid",
        ("source_type", "source_id", "destination_type", "destination_id"),
    ),
    Natural(
        "evaluation_datasets",
        "dataset_id",
        ("evaluation_dataset_tags dataset_id key value", "workspace", "name"),
    ),
    Natural("evaluation_dataset_records", "dataset_record_id", ("dataset_id", "input_hash")),
    Natural("scorers", "scorer_id", ("experiment_id", "scorer_name")),
    Natural("issues", "issue_id", ("experiment_id", "name", "description", "source_run_id")),
    Natural("label_schemas", "schema_id", ("experiment_id", "name")),
    Natural("review_queues", "queue_id", ("experiment_id", "name_key")),
    Natural("webhooks", "webhook_id", ("workspace", "name", "url", "description")),
    Natural(
        "mcp_access_endpoints",
        "id",
        ("workspace", "server_name", "server_version", "server_alias", "url"),
    ),
    Natural("secrets", "secret_id", ("workspace", "secret_name")),
    Natural("model_definitions", "model_definition_id", ("workspace", "name")),
    Natural("endpoints", "endpoint_id", ("workspace", "name")),
    Natural(
        "endpoint_model_mappings",
        "mapping_id",
        ("endpoint_id", "model_definition_id", "linkage_type", "fallback_order"),
    ),
    Natural("guardrails", "guardrail_id", ("workspace", "name", "scorer_id", "scorer_version")),
    Natural(
        "budget_policies",
        "budget_policy_id",
        (
            "workspace",
            "target_scope",
            "target_value",
            "budget_unit",
            "budget_amount",
            "duration_unit",
            "duration_value",
            "budget_action",
        ),
    ),
    Natural("online_scoring_configs", "online_scoring_config_id", ("scorer_id",)),
)
"""In an order in which every column is translated before it is needed. ``table id key value`` in
place of a column is the origin: the tag in that table, or else the row's own id."""

_ID = re.compile(
    r"([a-z]{1,3}-)?([0-9a-f]{32})(?![0-9a-f])"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_SPAN_EXPERIMENT = re.compile(r'("mlflow\.experimentId": "\\")(\d+)(\\"")')

REGISTRY_NAMES = frozenset(
    {
        "registered_models",
        "registered_model_tags",
        "registered_model_aliases",
        "model_versions",
        "model_version_tags",
    }
)
_TAGS_WITH_NAMES = frozenset({"mlflow.modelVersions", "mlflow.linkedPrompts"})
_VERSION_URI = re.compile(r"models:/([^/@]+)(?=/\d+$)")


@dataclass
class Translation:
    """Values of the destination, as the source has them."""

    to_source: dict[str, str] = field(default_factory=dict)
    """Text id of the destination to the source's."""
    to_destination: dict[str, str] = field(default_factory=dict)
    experiments: dict[int, int] = field(default_factory=dict)
    """Experiment id of the destination to the source's."""
    experiment_names: dict[str, str] = field(default_factory=dict)
    """Name in the destination to name in the source, where they differ."""
    model_names: dict[str, str] = field(default_factory=dict)
    workspaces: dict[str, str] = field(default_factory=dict)
    _roots: dict[str, str] = field(default_factory=dict)
    _root: re.Pattern[str] | None = None

    def row(self, table: str, row: Row) -> Row:
        """Translate every column."""
        return {column: self.value(table, column, value, row) for column, value in row.items()}

    def value(self, table: str, column: str, value: Any, row: Row) -> Any:
        """Translate one value of ``row``."""
        if value is None:
            return None
        if column == "experiment_id":
            return self.experiment(value)
        if not isinstance(value, str):
            return value
        if column == "workspace" or (table, column) == ("workspaces", "name"):
            return self.workspaces.get(value, value)
        if (table, column) == ("experiments", "name"):
            return self.experiment_names.get(value, value)
        if table in REGISTRY_NAMES and column == "name":
            return self.model_names.get(value, value)
        if column.endswith("_id") and row.get(f"{column[:-3]}_type") == "experiment":
            return str(self.experiment(int(value)))
        if column == "value" and row.get("key") == "_mlflow_experiment_ids":
            return self._experiment_set(value)
        if self.model_names:
            value = self._named_models(column, value, row)
        return self.text(value)

    def _named_models(self, column: str, value: str, row: Row) -> str:
        """Translate the names of models and prompts where they stand in links."""
        if column == "destination_id" and row.get("destination_type") == "prompt_version":
            name, slash, number = value.rpartition("/")
            return f"{self.model_names.get(name, name)}{slash}{number}"
        if row.get("key", row.get("tag_key")) in _TAGS_WITH_NAMES:
            for new, old in self.model_names.items():
                value = value.replace(f'"name": {json.dumps(new)}', f'"name": {json.dumps(old)}')
        return value

    def experiment(self, id: int) -> Any:
        """An experiment's id at the source, or a mark that it has none there."""
        return self.experiments.get(id, f"<experiment {id} of the destination>")

    def _experiment_set(self, value: str) -> str:
        parts = value.split(",")
        return ",".join(str(self.experiment(int(part))) if part else "" for part in parts)

    def text(self, value: str) -> str:
        """Translate the ids inside a text, marking those of the source that have a new one."""
        translated = _ID.sub(self._id, value) if len(value) >= 32 else value
        if "mlflow.experimentId" in translated:
            translated = _SPAN_EXPERIMENT.sub(self._span_experiment, translated)
        if self._root is not None and ":/" in translated:
            translated = self._root.sub(lambda match: self._roots[match[0]], translated)
        if self.model_names and translated.startswith("models:/"):
            translated = _VERSION_URI.sub(
                lambda match: f"models:/{self.model_names.get(match[1], match[1])}", translated
            )
        return translated

    def _id(self, match: re.Match[str]) -> str:
        whole = match[0]
        if whole in self.to_source:
            return self.to_source[whole]
        if whole in self.to_destination:
            return f"<{whole} of the source>"
        if match[1] and match[2] in self.to_source:
            return match[1] + self.to_source[match[2]]
        if match[1] and match[2] in self.to_destination:
            return f"{match[1]}<{match[2]} of the source>"
        return whole

    def _span_experiment(self, match: re.Match[str]) -> str:
        return f"{match[1]}{self.experiment(int(match[2]))}{match[3]}"

    def leftovers(self, value: Any) -> list[str]:
        """Ids of the source in ``value`` that have another one in the destination."""
        if not isinstance(value, str) or len(value) < 32:
            return []
        named = {id for match in _ID.finditer(value) for id in (match[0], match[2])}
        return sorted(id for id in named & self.to_destination.keys() if id not in self.to_source)

    def add(self, source: Any, destination: Any) -> None:
        """Pair two ids."""
        if isinstance(source, int):
            self.experiments[destination] = source
        elif source != destination:
            self.to_source[destination] = source
            self.to_destination[source] = destination

    def add_roots(self, roots: dict[str, str]) -> None:
        """Pair the locations of experiments, destination to source."""
        self._roots = {a.rstrip("/"): b.rstrip("/") for a, b in roots.items() if a}
        longest_first = sorted(self._roots, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, longest_first))
        self._root = re.compile(f"(?:{alternatives})(?![^/\"'?#])") if alternatives else None


def pair_ids(
    source: Database,
    destination: Database,
    *,
    experiment_name: Rename,
    model_name: Rename,
    workspace: Rename,
) -> Translation:
    """Find every pair; renames are those that the import was asked for, source to destination."""
    translation = Translation()
    for table, column, rename, names in (
        ("experiments", "name", experiment_name, translation.experiment_names),
        ("registered_models", "name", model_name, translation.model_names),
        ("workspaces", "name", workspace, translation.workspaces),
    ):
        for row in source.rows(table):
            name = row[column]
            if rename(name) != name:
                names[rename(name)] = name
    for natural in NATURAL:
        _pair(natural, source, destination, translation)
    locations = {
        row["experiment_id"]: row["artifact_location"] for row in source.rows("experiments")
    }
    translation.add_roots(
        {
            row["artifact_location"]: locations[translation.experiments[row["experiment_id"]]]
            for row in destination.rows("experiments")
            if row["experiment_id"] in translation.experiments
        }
    )
    return translation


def _pair(
    natural: Natural, source: Database, destination: Database, translation: Translation
) -> None:
    ours = _by_key(natural, source, lambda _table, row: row)
    theirs = _by_key(natural, destination, translation.row)
    origins = any(" " in column for column in natural.columns)
    if origins:  # by origin first; what has none, by the other columns
        for key in list(ours.keys() & theirs.keys()):
            for a, b in zip(ours.pop(key), theirs.pop(key), strict=False):
                translation.add(a, b)
        rest = tuple(column for column in natural.columns if " " not in column)
        if not rest:
            return
        ours, theirs = _without_origin(ours), _without_origin(theirs)
    for key in ours.keys() & theirs.keys():
        for a, b in zip(ours[key], theirs[key], strict=False):
            translation.add(a, b)


Keyed = dict[tuple[Hashable, ...], list[Any]]


def _by_key(natural: Natural, database: Database, translate: Callable[[str, Row], Row]) -> Keyed:
    keyed: Keyed = defaultdict(list)
    origins: dict[Any, str] = {}
    for column in natural.columns:
        if " " in column:
            origins = _origins(database, column)
    for row in database.rows(natural.table):
        id = row[natural.id]
        translated = translate(natural.table, row)
        key = tuple(
            origins.get(id, id) if " " in column else translated[column]
            for column in natural.columns
        )
        keyed[key].append(id)
    return dict(keyed)


def _origins(database: Database, where: str) -> dict[Any, str]:
    table, id, key, value = where.split()
    return {row[id]: row[value] for row in database.rows(table) if row[key] == ORIGIN}


def _without_origin(keyed: Keyed) -> Keyed:
    without: Keyed = defaultdict(list)
    for key, ids in keyed.items():
        without[key[1:]] += ids
    return without
