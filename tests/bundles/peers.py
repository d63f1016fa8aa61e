"""Builds directory trees as generations of mlflow-export-import wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXPORT_INFO = {
    "mlflow_version": "1.27.0",
    "mlflow_tracking_uri": "http://localhost:5127",
    "export_time": "2022-07-23 17:09:27",
}
RUN_ID = "a4e1e0c4682048a58d14410bbe24dcd8"
OTHER_RUN_ID = "ae45991c6d674e0b977c6ed595df61e5"


def write(path: Path, document: object) -> None:
    """Write JSON as the peer does: indented, NaN as a bare token."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def run_document(run_id: str, **changes: Any) -> dict[str, Any]:
    """``run.json`` of June 2022."""
    document: dict[str, Any] = {
        "export_info": EXPORT_INFO,
        "info": {
            "run_uuid": run_id,
            "run_id": run_id,
            "experiment_id": "1",
            "user_id": "root",
            "status": "FINISHED",
            "start_time": 1795453760410,
            "end_time": 1795453762051,
            "lifecycle_stage": "active",
            "artifact_uri": f"/srv/mlflow/mlruns/1/{run_id}/artifacts",
        },
        "params": {"C": "0.5", "solver": "NaN"},
        "metrics": {
            "loss": [
                {"value": 1.0, "timestamp": 1795453760428, "step": 0},
                {"value": 0.5, "timestamp": 1795453760437, "step": 1},
            ],
            "nanm": [{"value": float("nan"), "timestamp": 1795453760454, "step": 0}],
            "infm": [{"value": float("-inf"), "timestamp": 1795453760454, "step": -1}],
        },
        "tags": {"mlflow.runName": "r0", "mlflow.user": "root", "owner": "alice"},
    }
    return document | changes


def write_experiments(root: Path) -> None:
    """What ``export-experiments`` wrote into ``root``."""
    counts = {"experiments": 1, "total_runs": 2, "ok_runs": 2, "failed_runs": 0}
    write(
        root / "manifest.json",
        {
            "info": {**EXPORT_INFO, "duration": 0.3, **counts},
            "experiments": [
                {"id": "1", "name": "sklearn_iris", "ok_runs": 2, "failed_runs": 0, "duration": 0.2}
            ],
        },
    )
    write(
        root / "1" / "manifest.json",
        {
            "experiment": {
                "experiment_id": "1",
                "name": "sklearn_iris",
                "artifact_location": "/srv/mlflow/mlruns/1",
                "lifecycle_stage": "active",
                "tags": {"team": "vision"},
            },
            "export_info": {
                **EXPORT_INFO,
                "num_total_runs": 2,
                "num_ok_runs": 2,
                "ok_runs": [OTHER_RUN_ID, RUN_ID],
                "num_failed_runs": 0,
                "failed_runs": [],
            },
        },
    )
    for run_id in (RUN_ID, OTHER_RUN_ID):
        write(root / "1" / run_id / "run.json", run_document(run_id))
    artifacts = root / "1" / OTHER_RUN_ID / "artifacts" / "model"
    artifacts.mkdir(parents=True)
    (artifacts / "MLmodel").write_bytes(b"flavors: {}\n")
    (artifacts / "100%: odd?").write_bytes(b"odd")
    (artifacts / ("l" * 250)).write_bytes(b"long")


def write_g0(root: Path) -> Path:
    """What ``export-all`` wrote from June to December 2022."""
    write(
        root / "manifest.json",
        {
            "info": {**EXPORT_INFO, "duration": 0.5},
            "stages": "Production,Staging,Archive,None",
            "notebook_formats": "",
        },
    )
    write_experiments(root / "experiments")
    write(
        root / "models" / "manifest.json",
        {
            "info": {**EXPORT_INFO, "total_models": 2, "ok_models": 2, "failed_models": 0},
            "stages": "Production,Staging,Archive,None",
            "notebook_formats": "",
            "ok_models": ["sklearn_iris", "odd:name"],
            "failed_models": [],
        },
    )
    source = f"/srv/mlflow/mlruns/1/{OTHER_RUN_ID}/artifacts"
    write(
        root / "models" / "sklearn_iris" / "model.json",
        {
            "registered_model": {
                "name": "sklearn_iris",
                "creation_timestamp": "1630416728707",
                "last_updated_timestamp": 1795453765447,
                "description": "iris model",
                "latest_versions": [
                    {
                        "creation_timestamp": 1795453765411,
                        "current_stage": "Production",
                        "description": "d1",
                        "last_updated_timestamp": "1795453765419",
                        "name": "sklearn_iris",
                        "run_id": OTHER_RUN_ID,
                        "run_link": "",
                        "source": f"{source}/model",
                        "status": "READY",
                        "status_message": "",
                        "tags": {"v": "1"},
                        "user_id": "",
                        "version": "2",
                        "_run_artifact_uri": source,
                        "_experiment_name": "sklearn_iris",
                    }
                ],
                "tags": [{"key": "use", "value": "demo"}],
                "peer_key": [1],
            }
        },
    )
    write(
        root / "models" / "odd:name" / "model.json",
        {"registered_model": {"name": "odd:name", "latest_versions": []}},
    )
    return root
