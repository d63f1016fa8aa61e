"""The manifests of a tree: what they count, and how they are made anew from what is there.

A manifest made anew keeps what cannot be told from the tree (durations, failures, unknown keys)
from the one that was there. The manifest of an experiment is also the experiment's own document.
"""

from __future__ import annotations

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
    return msgspec.json.encode(_merge(old, known)) + b"\n"


def _merge(old: bytes | msgspec.Raw | None, new: Any) -> Any:
    """Return ``new`` with what the JSON text ``old`` has beside it, whatever that is."""
    if old is None:
        return new
    try:
        if isinstance(new, dict):
            fields = msgspec.json.decode(old, type=dict[str, msgspec.Raw])
            result = {key: _merge(fields.get(key), value) for key, value in new.items()}
            return result | {key: value for key, value in fields.items() if key not in new}
        if isinstance(new, list) and all(
            isinstance(entry, dict) and "id" in entry for entry in new
        ):
            entries = msgspec.json.decode(old, type=list[msgspec.Raw])
            by_id = {msgspec.json.decode(entry, type=_Entry).id: entry for entry in entries}
            return [_merge(by_id.get(entry["id"]), entry) for entry in new]
    except msgspec.ValidationError:
        pass  # of another shape: nothing in it is beside anything of ours
    return new


class _Entry(msgspec.Struct, frozen=True):
    """What tells an entry of a list from others."""

    id: str
