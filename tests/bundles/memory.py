"""An in-memory source: a real implementation of the contract over a list of contents.

``SAMPLE`` is a small world with odd names; ``write_bundle`` puts contents into a bundle with the
product's own sink, with a fixed uuid and clock.
"""

from __future__ import annotations

import io
import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from mlflow_bundle import layout
from mlflow_bundle.archive import order_key
from mlflow_bundle.bundles.opening import open_writer
from mlflow_bundle.bundles.sink import BundleSink
from mlflow_bundle.contracts import (
    ArtifactFile,
    ArtifactTree,
    Content,
    FileReading,
    NoArtifacts,
    OpenedArtifact,
    Source,
    SourceInfo,
    Wanted,
)
from mlflow_bundle.entities import (
    VERSION_KIND,
    Dataset,
    DatasetInput,
    Entity,
    Experiment,
    KeyValue,
    LoggedModel,
    LoggedModelMetric,
    MetricHistory,
    ModelInput,
    ModelOutput,
    ModelVersion,
    Prompt,
    RegisteredModel,
    Run,
    RunInfo,
    RunInputs,
    RunOutputs,
)
from mlflow_bundle.report import Report
from mlflow_bundle.selection import Selection
from mlflow_bundle.transfer import transfer

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone.utc)
CREATED_NS = int(NOW.timestamp()) * 10**9


class MemoryArtifacts(ArtifactTree):
    """Artifacts by path."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents

    def files(self) -> list[ArtifactFile]:
        return [ArtifactFile(path, len(data)) for path, data in sorted(self.contents.items())]

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        data = self.contents[file.path]
        return OpenedArtifact(io.BytesIO(data), len(data))


class MemorySource(Source):
    """Hands out contents that are in memory; a selection is ignored but for what it counts."""

    random_access = True

    def __init__(self, contents: Sequence[Content], *, uri: str = "http://localhost:5000") -> None:
        self._contents = sorted(
            contents, key=lambda content: order_key(layout.document_path(content.entity))
        )
        self._info = SourceInfo(uri=uri, mlflow_version="3.17.2")

    @property
    def info(self) -> SourceInfo:
        return self._info

    def select(self, selection: Selection, report: Report) -> None:
        for content in self._contents:
            report.plan(content.entity.kind)
            if isinstance(content.entity, RegisteredModel):
                report.plan(VERSION_KIND[content.entity.kind], len(content.entity.versions))

    def iter_entities(self, kind: str) -> Iterator[Entity]:
        for content in self._contents:
            if content.entity.kind == kind:
                yield content.entity

    def iter_contents(
        self,
        *,
        files: FileReading = "open",
        histories: bool = True,
        wanted: Wanted | None = None,
    ) -> Iterator[Content]:
        for content in self._contents:
            entity = content.entity
            if wanted is not None and not wanted(entity.kind, entity.id, layout.parent_of(entity)):
                continue
            if files == "none":
                content = replace(content, artifacts=NoArtifacts(), version_artifacts={})
            yield content


def write_bundle(
    path: Path,
    contents: Sequence[Content] | None = None,
    *,
    is_directory: bool = False,
    report: Report | None = None,
    bundle_uuid: uuid.UUID = UUID,
) -> Path:
    """Write contents, ``sample()`` by default, as a bundle file or directory."""
    report = report or Report("test")
    sink = BundleSink(
        open_writer(str(path), is_directory=is_directory, jobs=1),
        report,
        now=lambda: NOW,
        bundle_uuid=bundle_uuid,
    )
    source = MemorySource(sample() if contents is None else contents)
    transfer(source, sink, Selection.all(), report, jobs=1)
    return path


def run(
    run_id: str,
    experiment_id: str = "1",
    *,
    artifacts: dict[str, bytes] | None = None,
    histories: Sequence[MetricHistory] = (),
    inputs: RunInputs | None = None,
    outputs: RunOutputs | None = None,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> Content:
    """A finished run with everything given."""
    keys = sorted({history.key for history in histories})
    entity = Run(
        info=RunInfo(
            run_id=run_id,
            run_uuid=run_id,
            experiment_id=experiment_id,
            run_name=f"run {run_id}",
            user_id="alice",
            status="FINISHED",
            start_time=1_700_000_000_000,
            end_time=1_700_000_001_234,
            artifact_uri=f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts",
        ),
        params=params or {},
        tags=tags or {},
        inputs=inputs or RunInputs(),
        outputs=outputs or RunOutputs(),
        metric_keys=keys,
    )
    return Content(
        entity=entity,
        artifacts=MemoryArtifacts(artifacts or {}),
        histories=lambda: histories,
    )


def history(key: str, *values: float) -> MetricHistory:
    """A history with steps 0, 1, … and increasing timestamps."""
    return MetricHistory(
        key=key,
        values=list(values),
        timestamps=[1_700_000_000_000 + index for index in range(len(values))],
        steps=list(range(len(values))),
    )


def version(name: str, number: int, **values: object) -> ModelVersion:
    """A version of ``name``."""
    return ModelVersion(name=name, version=number, creation_timestamp=1, **values)  # type: ignore[arg-type]


LONG_NAME = "long " * 60 + "name"
ODD_NAMES = ("manifest.json", "con", "a\\b", "100% <odd>?", "é", "e\u0301", " dots. ", LONG_NAME)


def sample() -> list[Content]:
    """Two experiments, three runs, a logged model, models with odd names, a prompt."""
    iris = run(
        "a" * 32,
        artifacts={
            "model/MLmodel": b"flavors: {}\n",
            "model/model.pkl": bytes(range(256)) * 20,
            "empty": b"",
            ".hidden/C:x?": b"odd",
            "e\u0301/ü": b"composed",
            LONG_NAME: b"long name",
            "both": b"a file",
            "both/inside": b"and a directory, as object stores allow",
            "big.bin": b"0123456789abcdef" * 70_000,
        },
        histories=[
            history("loss", 1.0, 0.5, math.nan),
            history("value", math.inf, -math.inf, 0.25),
        ],
        params={"value": "NaN", "C": "0.5"},
        tags={"mlflow.note.content": 'quoted "value":"NaN" text'},
        outputs=RunOutputs(model_outputs=[ModelOutput(model_id="m-1", step=3)]),
        inputs=RunInputs(
            dataset_inputs=[
                DatasetInput(
                    dataset=Dataset(name="d", digest="1"),
                    tags=[KeyValue(key="mlflow.data.context", value="train")],
                )
            ]
        ),
    )
    reader = run(
        "b" * 32,
        inputs=RunInputs(model_inputs=[ModelInput(model_id="m-1")]),
        artifacts={"model/MLmodel": b"flavors: {}\n"},
    )
    other = run("logged_models", "2", artifacts={"x": b"reserved run id"})
    logged = Content(
        entity=LoggedModel(
            model_id="m-1",
            experiment_id="1",
            name="clf",
            source_run_id="a" * 32,
            creation_time=1_700_000_000_500,
            metrics=[LoggedModelMetric(key="acc", value="Infinity", timestamp=1)],
        ),
        artifacts=MemoryArtifacts({"MLmodel": b"model_id: m-1\n"}),
    )
    registered = [
        Content(
            entity=RegisteredModel(
                name="sklearn_iris",
                description="iris",
                tags={"team": "vision"},
                aliases={"champion": 3},
                versions=[
                    version(
                        "sklearn_iris",
                        1,
                        run_id="b" * 32,
                        source=f"mlflow-artifacts:/1/{'b' * 32}/artifacts/model",
                        experiment_id="1",
                        experiment_name="iris",
                    ),
                    version("sklearn_iris", 3, source="models:/m-1", run_id="a" * 32),
                    version("sklearn_iris", 10, source="s3://elsewhere/model", run_id="f" * 32),
                ],
            ),
            version_artifacts={10: MemoryArtifacts({"MLmodel": b"outside\n"})},
        ),
        *(Content(entity=RegisteredModel(name=name)) for name in ODD_NAMES),
    ]
    prompt = Content(
        entity=Prompt(name="greeting", versions=[version("greeting", 1, tags={"t": "Hi {{x}}"})])
    )
    experiments = [
        Content(entity=Experiment(experiment_id="1", name="iris", tags={"owner": "alice"})),
        Content(entity=Experiment(experiment_id="2", name="other/expériment")),
    ]
    return [iris, reader, other, logged, *experiments, *registered, prompt]
