"""The manifests of a tree: what they count, and how they are made anew from what is there.

A manifest made anew keeps what cannot be told from the tree (durations, failures, unknown keys)
from the one that was there. The manifest of an experiment is also the experiment's own document.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from mlflow_bundle.bundles import documents as docs

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)


def experiment_info(
    info: docs.ExportInfo, *, runs: list[str], failed: list[str], logged_models: list[str]
) -> docs.ExperimentExportInfo:
    """Return ``export_info`` of an experiment's manifest."""
    return docs.ExperimentExportInfo(
        mlflow_version=info.mlflow_version,
        mlflow_tracking_uri=info.mlflow_tracking_uri,
        export_time=info.export_time,
        num_total_runs=len(runs) + len(failed),
        num_ok_runs=len(runs),
        ok_runs=runs,
        num_failed_runs=len(failed),
        failed_runs=failed,
        ok_logged_models=logged_models,
    )


def experiments_document(
    info: docs.ExportInfo, entries: list[docs.ExperimentEntry], *, duration: float = 0.0
) -> docs.ExperimentsDocument:
    """Return ``experiments/manifest.json``."""
    ok = sum(entry.ok_runs for entry in entries)
    failed = sum(entry.failed_runs for entry in entries)
    return docs.ExperimentsDocument(
        info=docs.ExperimentsInfo(
            mlflow_version=info.mlflow_version,
            mlflow_tracking_uri=info.mlflow_tracking_uri,
            export_time=info.export_time,
            duration=duration,
            experiments=len(entries),
            total_runs=ok + failed,
            ok_runs=ok,
            failed_runs=failed,
        ),
        experiments=entries,
    )


def registry_document(
    info: docs.ExportInfo,
    *,
    names: list[str],
    failed: list[str],
    stages: str | None,
    notebook_formats: str | None,
    duration: float = 0.0,
) -> docs.RegistryDocument:
    """Return ``models/manifest.json`` or ``prompts/manifest.json``."""
    return docs.RegistryDocument(
        info=docs.RegistryInfo(
            mlflow_version=info.mlflow_version,
            mlflow_tracking_uri=info.mlflow_tracking_uri,
            export_time=info.export_time,
            total_models=len(names) + len(failed),
            ok_models=len(names),
            failed_models=len(failed),
            duration=duration,
        ),
        stages=stages,
        notebook_formats=notebook_formats,
        ok_models=names,
        failed_models=failed,
    )


def merged(old: bytes | None, new: msgspec.Struct) -> bytes:
    """Return ``new`` encoded, with the unknown keys of ``old`` at every level of objects.

    Entries of lists are told apart by their ``id``.
    """
    if old is None:
        return docs.encode(new)
    known: Any = msgspec.to_builtins(new)
    return msgspec.json.encode(_merge(msgspec.json.decode(old), known)) + b"\n"


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        result = {key: _merge(old.get(key), value) for key, value in new.items()}
        return result | {key: value for key, value in old.items() if key not in new}
    if isinstance(old, list) and isinstance(new, list) and _has_ids(new) and _has_ids(old):
        by_id = {entry["id"]: entry for entry in old}
        return [_merge(by_id.get(entry["id"]), entry) for entry in new]
    return new


def _has_ids(entries: Iterable[Any]) -> bool:
    return all(isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries)
