"""Typed records of everything that moves, and their strict JSON codec.

A record holds what MLflow says of an entity, in MLflow's own words, with MLflow's own types: ids
are strings, timestamps are integer milliseconds since the epoch (UTC), version numbers are
integers. Where a record lies in a bundle is `layout.py`; what its references mean is
`references.py`.

Metric histories are not part of a run's record: they can be larger than memory and travel beside it
as chunks (:class:`MetricHistory`).

Fields that are ``UNSET`` unless somebody sets them are what only MLflow's database tells and no
REST API does; a record from REST has none of them (:func:`database_fields`).
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Annotated, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

Number: TypeAlias = float | Literal["NaN", "Infinity", "-Infinity"]
"""A float as strict JSON and MLflow's REST API can hold it."""

Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer as MLflow's protobuf messages and the documents of a bundle hold it."""

LifecycleStage = Literal["active", "deleted"]

NON_FINITE: dict[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How the values that strict JSON cannot hold are written (FORMAT.md, documents)."""


class KeyValue(msgspec.Struct, frozen=True, kw_only=True):
    """One tag where MLflow keeps tags as a list."""

    key: str
    value: str


class Experiment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """An experiment without its runs."""

    kind: ClassVar[str] = "experiment"

    experiment_id: str
    name: str
    artifact_location: str = ""
    lifecycle_stage: LifecycleStage = "active"
    tags: dict[str, str] = {}
    creation_time: Int64 | None = None
    last_update_time: Int64 | None = None
    datasets: list[Dataset] | UnsetType = UNSET
    """Datasets of the experiment that no run names any more."""
    null_fields: list[str] | UnsetType = UNSET
    """Texts that are null in MLflow's table though they are empty here: names, ``tags.<key>``."""

    @property
    def id(self) -> str:
        """The id at the source."""
        return self.experiment_id


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """MLflow's ``RunInfo``; ``status`` is the name, e.g. ``FINISHED``."""

    run_id: str
    experiment_id: str
    run_uuid: str = ""
    run_name: str | None = None
    user_id: str = ""
    status: str = "FINISHED"
    start_time: Int64 | None = None
    end_time: Int64 | None = None
    lifecycle_stage: LifecycleStage = "active"
    artifact_uri: str = ""
    deleted_time: Int64 | UnsetType | None = UNSET
    source_type: str | UnsetType | None = UNSET
    source_name: str | UnsetType | None = UNSET
    source_version: str | UnsetType | None = UNSET
    entry_point_name: str | UnsetType | None = UNSET
    null_fields: list[str] | UnsetType = UNSET
    """Texts that are null in MLflow's table though they are empty here: names, ``tags.<key>``."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that a run used; ``schema`` and ``profile`` are JSON texts."""

    name: str
    digest: str
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None
    dataset_uuid: str | UnsetType = UNSET


class DatasetInput(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset with the tags of its use in one run, e.g. ``mlflow.data.context``."""

    dataset: Dataset
    tags: list[KeyValue] = []
    input_uuid: str | UnsetType = UNSET


class ModelInput(msgspec.Struct, frozen=True, kw_only=True):
    """A logged model that a run read."""

    model_id: str
    input_uuid: str | UnsetType = UNSET


class ModelOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A logged model that a run made at ``step``."""

    model_id: str
    step: Int64 = 0
    input_uuid: str | UnsetType = UNSET


class RunInputs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run read."""

    dataset_inputs: list[DatasetInput] = []
    model_inputs: list[ModelInput] = []


class RunOutputs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run made."""

    model_outputs: list[ModelOutput] = []


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run without its metric histories and artifacts."""

    kind: ClassVar[str] = "run"

    info: RunInfo
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    inputs: RunInputs = RunInputs()
    outputs: RunOutputs = RunOutputs()
    metric_keys: list[str] = []
    """Keys that have a history, sorted; the points travel beside the record."""

    @property
    def id(self) -> str:
        """The id at the source."""
        return self.info.run_id


class EncodedHistory(msgspec.Struct, frozen=True):
    """All points of one metric of a run as its document has them."""

    key: str
    length: int
    points: bytes
    """JSON array (`bundles.documents.points_of`)."""


class MetricHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Logged points of one metric of one run, in the server's order; a chunk of them when long.

    Three parallel lists of equal length n >= 1. NaN and infinities are floats here and strings in
    JSON.
    """

    key: str
    values: list[float]
    """float64, shape (n,)."""
    timestamps: list[int]
    """int64 ms since the epoch, shape (n,); not necessarily sorted."""
    steps: list[int]
    """int64, shape (n,); may be negative and may repeat."""

    def __len__(self) -> int:
        return len(self.values)


class LoggedModelMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric value of a logged model; MLflow stores NaN as 0 here."""

    key: str
    value: Number
    timestamp: Int64
    step: Int64 = 0
    run_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None
    dataset_uuid: str | UnsetType | None = UNSET


class LoggedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A logged model (MLflow >= 3) without its artifacts; ``status`` is e.g. ``READY``."""

    kind: ClassVar[str] = "logged_model"

    model_id: str
    experiment_id: str
    name: str = ""
    artifact_location: str = ""
    creation_time: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    model_type: str = ""
    source_run_id: str | None = None
    status: str = "READY"
    status_message: str = ""
    lifecycle_stage: LifecycleStage = "active"
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    metrics: list[LoggedModelMetric] = []
    null_fields: list[str] | UnsetType = UNSET
    """Texts that are null in MLflow's table though they are empty here: names, ``tags.<key>``."""

    @property
    def id(self) -> str:
        """The id at the source."""
        return self.model_id


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a registered model or prompt."""

    name: str
    version: Int64
    source: str = ""
    storage_location: str | None = None
    """Where the files lie, if the server says something else than ``source``."""
    run_id: str = ""
    run_link: str = ""
    user_id: str = ""
    description: str = ""
    current_stage: str = "None"
    status: str = "READY"
    status_message: str = ""
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    tags: dict[str, str] = {}
    experiment_id: str | None = None
    """Experiment of ``run_id``, if the run could be read."""
    experiment_name: str | None = None
    run_artifact_uri: str | None = None
    null_fields: list[str] | UnsetType = UNSET
    """Texts that are null in MLflow's table though they are empty here: names, ``tags.<key>``."""


class RegisteredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A registered model with its versions, in increasing order of number."""

    kind: ClassVar[str] = "registered_model"

    name: str
    description: str = ""
    tags: dict[str, str] = {}
    aliases: dict[str, Int64] = {}
    """Alias to version number."""
    creation_timestamp: Int64 | None = None
    last_updated_timestamp: Int64 | None = None
    versions: list[ModelVersion] = []
    left_out: list[int] = []
    """Numbers of versions that exist but are not selected; never written to a bundle."""
    deleted_versions: list[ModelVersion] | UnsetType = UNSET
    """What MLflow keeps of versions that were deleted: their numbers are never given again."""
    null_fields: list[str] | UnsetType = UNSET
    """Texts that are null in MLflow's table though they are empty here: names, ``tags.<key>``."""

    @property
    def id(self) -> str:
        """The name: registered models have no other id."""
        return self.name

    @property
    def version_aliases(self) -> dict[int, list[str]]:
        """Aliases of every version, by its number."""
        return {
            version.version: [alias for alias, n in self.aliases.items() if n == version.version]
            for version in self.versions
        }


class Prompt(RegisteredModel, frozen=True, kw_only=True):
    """A prompt: MLflow keeps it as a registered model with the tag ``mlflow.prompt.is_prompt``."""

    kind: ClassVar[str] = "prompt"


class PlainEntity(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the records that `kinds` describes: entities with one general form of document.

    Subclasses have a ``kind``, give their ``id``, and have an ``experiment_id`` field where their
    kind lies in experiments. A ``tags`` field, where there is one, is a ``dict[str, str]``.
    """

    kind: ClassVar[str]
    uri_fields: ClassVar[tuple[str, ...]] = ()
    """Fields whose value is a URI that may carry credentials: masked in what is written."""

    json_fields: ClassVar[tuple[str, ...]] = ()
    """Fields whose value is a JSON text that may hold credentials: masked in what is written."""

    @property
    def id(self) -> str:
        """The id at the source; unique within the kind and experiment."""
        raise NotImplementedError

    @property
    def parent(self) -> str:
        """Id of the experiment it lies in; empty for kinds of the whole server."""
        experiment_id = getattr(self, "experiment_id", "")
        return str(experiment_id)

    @property
    def time_ms(self) -> int | None:
        """When its artifacts were made, in ms since the epoch; None for the bundle's own time."""
        return None


Entity: TypeAlias = Experiment | Run | LoggedModel | RegisteredModel | Prompt | PlainEntity


class Association(msgspec.Struct, frozen=True, kw_only=True):
    """A row of MLflow's table of links from an entity, e.g. from a trace to a run."""

    association_id: str
    destination_type: str
    """``run``, ``prompt_version``, ``experiment``…"""
    destination_id: str
    """Of a prompt version ``<name>/<number>``."""
    created_time: Int64 | None = None


RECORDS: dict[str, type[Entity]] = {
    record.kind: record for record in (Experiment, Run, LoggedModel, RegisteredModel, Prompt)
}
"""Kind to record type of the entities with documents of their own; `kinds` has all."""

VERSION_KIND = {"registered_model": "model_version", "prompt": "prompt_version"}
"""Kind of a registry entry to the kind its versions are counted under."""

PROMPT_TAG = "mlflow.prompt.is_prompt"

DELETED_STAGE = "Deleted_Internal"
"""Stage of a version that was deleted: MLflow keeps the row, so that no number comes twice
(mlflow/entities/model_registry/model_version_stages.py)."""

LARGEST_FLOAT = sys.float_info.max
"""What MLflow keeps for infinity, and its negative for minus infinity."""


def bounded(value: float) -> float:
    """Return a metric's value with :data:`LARGEST_FLOAT` for infinity."""
    return math.copysign(LARGEST_FLOAT, value) if math.isinf(value) else value


def held_value(value: float) -> float:
    """Return a metric's value as MLflow's databases hold it: finite, and zero without a sign."""
    return 0.0 if value == 0.0 else bounded(value)


@functools.cache
def database_fields(record: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of the fields of a record that only MLflow's database tells."""
    fields = msgspec.structs.fields(record)
    return frozenset(field.name for field in fields if field.default is UNSET)


def encode_number(value: float) -> float | str:
    """Return ``value`` as strict JSON can hold it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode_number(value: float | str) -> float:
    """Inverse of :func:`encode_number`.

    Raises:
        ValueError: A string that is none of the three.
    """
    if isinstance(value, str):
        try:
            return NON_FINITE[value]
        except KeyError:
            raise ValueError(
                f"expected a number, NaN, Infinity or -Infinity, got {value!r}"
            ) from None
    return value
