"""``--export-source-tags``: where a run came from, as tags of the exported run.

The tag names are those of mid-2022 mlflow-export-import, so that what reads them keeps working.
"""

from __future__ import annotations

from datetime import datetime, timezone

import msgspec

from mlflow_bundle.contracts import SourceInfo
from mlflow_bundle.entities import Run, database_fields

PREFIX = "mlflow_export_import"
_MLFLOW = "mlflow."


def source_tags(
    run: Run, source: SourceInfo, as_of_ms: int, experiment_name: str = ""
) -> dict[str, str]:
    """Return the tags that describe ``run`` at ``source``.

    ``…metadata.*`` is about the export, ``…run_info.*`` holds the fields of MLflow's ``RunInfo``,
    ``…mlflow.*`` the run's system tags, which the destination may set anew.
    """
    time = datetime.fromtimestamp(as_of_ms / 1000, timezone.utc)
    tags = {
        f"{PREFIX}.metadata.mlflow_version": source.mlflow_version,
        f"{PREFIX}.metadata.tracking_uri": source.uri,
        f"{PREFIX}.metadata.timestamp": str(as_of_ms),
        f"{PREFIX}.metadata.timestamp_nice": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if experiment_name:
        tags[f"{PREFIX}.metadata.experiment_name"] = experiment_name
    for field, value in msgspec.structs.asdict(run.info).items():
        if value is not None and field not in database_fields(type(run.info)):
            tags[f"{PREFIX}.run_info.{field}"] = str(value)
    for key, value in run.tags.items():
        if key.startswith(_MLFLOW):
            tags[f"{PREFIX}.mlflow.{key.removeprefix(_MLFLOW)}"] = value
    return tags
