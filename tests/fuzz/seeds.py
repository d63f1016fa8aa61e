"""Makes the seeds in ``corpus/``: ``python -m tests.fuzz.seeds``.

The vectors of `tests/vectors` are seeds too, and lie there. Here are bundles of documents: one of
each kind of entity with every field set, made from the types of their records.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from mlflow_bundle import layout
from mlflow_bundle.archive import ArchiveReader, order_key
from mlflow_bundle.bundles import documents as docs
from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import (
    Experiment,
    LoggedModel,
    MetricHistory,
    ModelVersion,
    RegisteredModel,
    Run,
    RunInfo,
)
from mlflow_bundle.kinds import KINDS, Kind, NoItem
from tests.archive.bundles import SMALL, bundle
from tests.bundles import memory
from tests.fuzz.runs import CORPUS
from tests.vectors.forge import UUID_1, Bundle, Group, Record

FILES = {"MLmodel": b"flavors: {}\n", "e\u0301/\u00fc": b"", "con": b"1" * 1500}
EXPERIMENT = Content(entity=Experiment(experiment_id="1", name="1"))
PART = docs.MetricPart(key="long", points=[docs.MetricPoint(value="NaN", timestamp=1, step=-1)])


def plainest(type: inspect.Type) -> Any:
    """Return builtins that decode to a value of ``type``: all fields, one item, texts ``"1"``."""
    if isinstance(type, inspect.StructType):
        return {field.encode_name: plainest(field.type) for field in type.fields}
    if isinstance(type, (inspect.ListType, inspect.VarTupleType)):
        return [plainest(type.item_type)]
    if isinstance(type, inspect.DictType):
        return {plainest(type.key_type): plainest(type.value_type)}
    if isinstance(type, inspect.UnionType):
        return plainest(next(t for t in type.types if not isinstance(t, inspect.NoneType)))
    if isinstance(type, inspect.LiteralType):
        return type.values[0]
    if isinstance(type, (inspect.BoolType, inspect.IntType, inspect.FloatType)):
        return 1 if not isinstance(type, inspect.BoolType) else True
    return "1"


def filled(record: type[msgspec.Struct], **changes: Any) -> Any:
    """Return a record with every field set."""
    return msgspec.convert(plainest(inspect.type_info(record)) | changes, record)


def of_kind(kind: Kind) -> Content:
    """An entity of a plain kind with everything that it can have."""
    items = [] if kind.item is NoItem else [filled(kind.item)]
    artifacts = memory.MemoryArtifacts(FILES if kind.has_artifacts else {})
    return Content(entity=filled(kind.record), items=lambda: items, artifacts=artifacts)


def with_documents(
    contents: Sequence[Content], change: Callable[[dict[str, bytes]], object] | None = None
) -> bytes:
    """Return a forged bundle of what the product writes of some entities.

    Args:
        contents: The entities.
        change: Changes members by path.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = memory.write_bundle(Path(directory) / "seed.mlbundle", contents, bundle_uuid=UUID_1)
        with ArchiveReader.open(path) as archive:
            members = {member.path: archive.read(member) for member in archive.iter_members()}
            document = archive.header
    if change is not None:
        change(members)
    records = [Record(path, members[path]) for path in sorted(members, key=order_key)]
    return Bundle([Group(records)], document=document).build()


def _with_parts(members: dict[str, bytes]) -> None:
    """Let the points and items of every document go on in a part, and lie in a workspace too."""
    for path, data in list(members.items()):
        place = layout.place_of(path)
        if place is None or place.role != "document":
            continue
        directory = path.rpartition("/")[0]
        document = msgspec.json.decode(data)
        if place.kind == Run.kind:
            document["metric_parts"] = {"long": ["metrics/long/000001.json"]}
            members[f"{directory}/metrics/long/000001.json"] = docs.encode(PART)
        elif document.get("items"):
            document["item_parts"] = ["items/000001.json"]
            items = {"items": document["items"]}
            members[f"{directory}/items/000001.json"] = msgspec.json.encode(items)
        members[path] = msgspec.json.encode(document)


def _with_workspace(members: dict[str, bytes]) -> None:
    """Let the whole tree lie in the workspace ``1`` as well."""
    workspace = KINDS["workspace"]
    for path, data in list(members.items()):
        if path != layout.MANIFEST:
            members[f"{workspace.directory}/1/{path}"] = data
    document = {"kind": workspace.name, "entity": plainest(inspect.type_info(workspace.record))}
    members[f"{workspace.directory}/1/{workspace.document}"] = msgspec.json.encode(document)


def _run() -> Content:
    entity = filled(Run, info=plainest(inspect.type_info(RunInfo)), metric_keys=["1"])
    history = filled(MetricHistory, values=[0.5], timestamps=[1], steps=[1])
    return Content(
        entity=entity,
        artifacts=memory.MemoryArtifacts(FILES),
        histories=lambda: [history],
    )


def _registered(record: type[RegisteredModel]) -> Content:
    version = plainest(inspect.type_info(ModelVersion))
    entity = filled(record, versions=[version], deleted_versions=[], left_out=[])
    return Content(entity=entity, version_artifacts={1: memory.MemoryArtifacts(FILES)})


def seeds() -> dict[str, bytes]:
    """Name to bytes of every seed."""
    logged = Content(entity=filled(LoggedModel), artifacts=memory.MemoryArtifacts(FILES))
    tracking = [EXPERIMENT, _run(), logged]
    registry = [_registered(RegisteredModel), *map(_registered, RegisteredModel.__subclasses__())]
    plain = {name: [EXPERIMENT, of_kind(kind)] for name, kind in KINDS.items()}
    del plain["workspace"]
    return {
        "written": bundle(SMALL),
        "tracking": with_documents(tracking, _with_parts),
        "registry": with_documents(registry),
        "workspace": with_documents([EXPERIMENT, _run()], _with_workspace),
        "names": with_documents(
            [Content(entity=RegisteredModel(name=name)) for name in memory.ODD_NAMES]
        ),
        **{name: with_documents(contents, _with_parts) for name, contents in plain.items()},
    }


if __name__ == "__main__":
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
