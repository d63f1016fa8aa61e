"""MLflow's REST bodies as records: what the server says, in our types."""

from __future__ import annotations

from typing import Any

import msgspec

from mlflow_bundle.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    KeyValue,
    LifecycleStage,
    LoggedModel,
    LoggedModelMetric,
    ModelInput,
    ModelOutput,
    ModelVersion,
    Number,
    Run,
    RunInfo,
    RunInputs,
    RunOutputs,
)

_MODEL_STATUS = {
    "READY": "LOGGED_MODEL_READY",
    "FAILED": "LOGGED_MODEL_UPLOAD_FAILED",
    "PENDING": "LOGGED_MODEL_PENDING",
}
_MODEL_STATUS_NAME = {value: name for name, value in _MODEL_STATUS.items()}


class RestTag(msgspec.Struct, frozen=True):
    """Key and value; an absent value is an empty one, as protobuf has it."""

    key: str = ""
    value: str = ""


class RestExperiment(msgspec.Struct, frozen=True):
    """``experiments/search``: one experiment. Times were strings on old servers."""

    experiment_id: str
    name: str = ""
    artifact_location: str = ""
    lifecycle_stage: str = "active"
    creation_time: int | str | None = None
    last_update_time: int | str | None = None
    tags: list[RestTag] = []

    def record(self) -> Experiment:
        """The record."""
        return Experiment(
            experiment_id=self.experiment_id,
            name=self.name,
            artifact_location=self.artifact_location,
            lifecycle_stage="deleted" if self.lifecycle_stage == "deleted" else "active",
            tags=_dict(self.tags),
            creation_time=to_int(self.creation_time),
            last_update_time=to_int(self.last_update_time),
        )


class RestExperiments(msgspec.Struct, frozen=True):
    """``experiments/search``."""

    experiments: list[RestExperiment] = []
    next_page_token: str | None = None


class RestExperimentAnswer(msgspec.Struct, frozen=True):
    """``experiments/get``."""

    experiment: RestExperiment


class RestRunInfo(msgspec.Struct, frozen=True):
    """``info`` of a run."""

    run_id: str
    experiment_id: str = ""
    run_name: str | None = None
    user_id: str = ""
    status: str = "RUNNING"
    start_time: int | str | None = None
    end_time: int | str | None = None
    artifact_uri: str = ""
    lifecycle_stage: str = "active"


class RestMetric(msgspec.Struct, frozen=True):
    """The latest value of a metric."""

    key: str
    value: Number = 0.0
    timestamp: int | str = 0
    step: int | str = 0


class RestRunData(msgspec.Struct, frozen=True):
    """``data`` of a run."""

    metrics: list[RestMetric] = []
    params: list[RestTag] = []
    tags: list[RestTag] = []


class RestDataset(msgspec.Struct, frozen=True):
    """A dataset of a run."""

    name: str = ""
    digest: str = ""
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None


class RestDatasetInput(msgspec.Struct, frozen=True):
    """A dataset with the tags of its use."""

    dataset: RestDataset
    tags: list[RestTag] = []


class RestModelInput(msgspec.Struct, frozen=True):
    """A logged model that a run read."""

    model_id: str


class RestModelOutput(msgspec.Struct, frozen=True):
    """A logged model that a run made."""

    model_id: str
    step: int | str = 0


class RestInputs(msgspec.Struct, frozen=True):
    """``inputs`` of a run."""

    dataset_inputs: list[RestDatasetInput] = []
    model_inputs: list[RestModelInput] = []


class RestOutputs(msgspec.Struct, frozen=True):
    """``outputs`` of a run."""

    model_outputs: list[RestModelOutput] = []


class RestRun(msgspec.Struct, frozen=True):
    """``runs/search``, ``runs/get``: one run."""

    info: RestRunInfo
    data: RestRunData = RestRunData()
    inputs: RestInputs = RestInputs()
    outputs: RestOutputs = RestOutputs()

    def record(self) -> Run:
        """The record; ``metric_keys`` come from the latest values."""
        info = self.info
        return Run(
            info=RunInfo(
                run_id=info.run_id,
                run_uuid=info.run_id,
                experiment_id=info.experiment_id,
                run_name=info.run_name,
                user_id=info.user_id,
                status=info.status,
                start_time=to_int(info.start_time),
                end_time=to_int(info.end_time),
                lifecycle_stage="deleted" if info.lifecycle_stage == "deleted" else "active",
                artifact_uri=info.artifact_uri,
            ),
            params=dict(sorted(_dict(self.data.params).items())),
            tags=dict(sorted(_dict(self.data.tags).items())),
            inputs=RunInputs(
                dataset_inputs=[
                    DatasetInput(
                        dataset=Dataset(**msgspec.structs.asdict(entry.dataset)),
                        tags=[KeyValue(key=tag.key, value=tag.value) for tag in entry.tags],
                    )
                    for entry in self.inputs.dataset_inputs
                ],
                model_inputs=[
                    ModelInput(model_id=entry.model_id) for entry in self.inputs.model_inputs
                ],
            ),
            outputs=RunOutputs(
                model_outputs=[
                    ModelOutput(model_id=entry.model_id, step=int(entry.step))
                    for entry in self.outputs.model_outputs
                ]
            ),
            metric_keys=sorted(metric.key for metric in self.data.metrics),
        )

    def estimates(self) -> dict[str, int]:
        """Points to expect of each metric, guessed from its last step."""
        return {metric.key: max(int(metric.step), 0) + 1 for metric in self.data.metrics}


class RestRuns(msgspec.Struct, frozen=True):
    """``runs/search``."""

    runs: list[RestRun] = []
    next_page_token: str | None = None


class RestRunAnswer(msgspec.Struct, frozen=True):
    """``runs/get``, ``runs/create``."""

    run: RestRun


class RestModelInfo(msgspec.Struct, frozen=True):
    """``info`` of a logged model."""

    model_id: str
    experiment_id: str = ""
    name: str = ""
    creation_timestamp_ms: int | str | None = None
    last_updated_timestamp_ms: int | str | None = None
    artifact_uri: str = ""
    status: str = ""
    status_message: str = ""
    model_type: str = ""
    source_run_id: str | None = None
    tags: list[RestTag] = []


class RestModelMetric(msgspec.Struct, frozen=True):
    """A metric of a logged model."""

    key: str
    value: Number = 0.0
    timestamp: int | str = 0
    step: int | str = 0
    run_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class RestModelData(msgspec.Struct, frozen=True):
    """``data`` of a logged model."""

    params: list[RestTag] = []
    metrics: list[RestModelMetric] = []


class RestLoggedModel(msgspec.Struct, frozen=True):
    """``logged-models``: one logged model."""

    info: RestModelInfo
    data: RestModelData = RestModelData()

    def record(self, lifecycle_stage: LifecycleStage = "active") -> LoggedModel:
        """The record; whether it is deleted is told by how the server was asked."""
        info = self.info
        return LoggedModel(
            model_id=info.model_id,
            experiment_id=info.experiment_id,
            name=info.name,
            artifact_location=info.artifact_uri,
            creation_time=to_int(info.creation_timestamp_ms),
            last_updated_timestamp=to_int(info.last_updated_timestamp_ms),
            model_type=info.model_type,
            source_run_id=info.source_run_id or None,
            status=_MODEL_STATUS_NAME.get(info.status, "UNSPECIFIED"),
            status_message=info.status_message,
            lifecycle_stage=lifecycle_stage,
            tags=dict(sorted(_dict(info.tags).items())),
            params=dict(sorted(_dict(self.data.params).items())),
            metrics=[
                LoggedModelMetric(
                    key=metric.key,
                    value=metric.value,
                    timestamp=int(metric.timestamp),
                    step=int(metric.step),
                    run_id=metric.run_id,
                    dataset_name=metric.dataset_name,
                    dataset_digest=metric.dataset_digest,
                )
                for metric in self.data.metrics
            ],
        )


class RestLoggedModels(msgspec.Struct, frozen=True):
    """``logged-models/search``."""

    models: list[RestLoggedModel] = []
    next_page_token: str | None = None


class RestLoggedModelAnswer(msgspec.Struct, frozen=True):
    """``logged-models/<id>``."""

    model: RestLoggedModel


class RestAlias(msgspec.Struct, frozen=True):
    """An alias of a registered model."""

    alias: str
    version: str | int


class RestRegisteredModel(msgspec.Struct, frozen=True):
    """``registered-models``: one model."""

    name: str
    creation_timestamp: int | str | None = None
    last_updated_timestamp: int | str | None = None
    description: str = ""
    tags: list[RestTag] = []
    aliases: list[RestAlias] = []

    @property
    def tag_dict(self) -> dict[str, str]:
        """Tags by key."""
        return _dict(self.tags)


class RestRegisteredModels(msgspec.Struct, frozen=True):
    """``registered-models/search``."""

    registered_models: list[RestRegisteredModel] = []
    next_page_token: str | None = None


class RestModelVersion(msgspec.Struct, frozen=True):
    """``model-versions``: one version."""

    name: str
    version: str | int
    creation_timestamp: int | str | None = None
    last_updated_timestamp: int | str | None = None
    user_id: str = ""
    current_stage: str = "None"
    description: str = ""
    source: str = ""
    run_id: str = ""
    run_link: str = ""
    status: str = "READY"
    status_message: str = ""
    tags: list[RestTag] = []

    def record(self) -> ModelVersion:
        """The record."""
        return ModelVersion(
            name=self.name,
            version=int(self.version),
            source=self.source,
            run_id=self.run_id,
            run_link=self.run_link,
            user_id=self.user_id,
            description=self.description,
            current_stage=self.current_stage or "None",
            status=self.status,
            status_message=self.status_message,
            creation_timestamp=to_int(self.creation_timestamp),
            last_updated_timestamp=to_int(self.last_updated_timestamp),
            tags=dict(sorted(_dict(self.tags).items())),
        )


class RestModelVersions(msgspec.Struct, frozen=True):
    """``model-versions/search``."""

    model_versions: list[RestModelVersion] = []
    next_page_token: str | None = None


class RestModelVersionAnswer(msgspec.Struct, frozen=True):
    """``model-versions/create``."""

    model_version: RestModelVersion


def model_status(name: str) -> str:
    """Status of a logged model, e.g. ``READY``, as REST bodies have it."""
    return _MODEL_STATUS[name]


def tag_list(tags: dict[str, str]) -> list[dict[str, Any]]:
    """Tags as REST bodies have them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def _dict(tags: list[RestTag]) -> dict[str, str]:
    return {tag.key: tag.value for tag in tags}


def to_int(value: int | str | None) -> int | None:
    """An integer that old servers send as text."""
    return None if value is None else int(value)
