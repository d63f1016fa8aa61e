"""Writes scorers: the name tells which is which, and versions keep their numbers."""

from __future__ import annotations

import json

from mlflow_bundle.contracts import Content
from mlflow_bundle.entities import Entity, decode_number
from mlflow_bundle.importing import NEW
from mlflow_bundle.kinds.gateway import GatewayEndpoint
from mlflow_bundle.kinds.scorers import GATEWAY_MODEL, Scorer, ScorerVersion
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.target import Target
from mlflow_bundle.sql.writers.base import Writer, known

_TABLE, _VERSIONS, _CONFIGS = "scorers", "scorer_versions", "online_scoring_configs"


class ScorerWriter(Writer):
    """Writes scorers. Guardrails name them, so they are placed first."""

    kind = Scorer.kind

    def __init__(self, to: Target) -> None:
        super().__init__(to)
        self._ids: dict[tuple[str, str], str] = {}
        """Id here by experiment and name in the bundle."""

    def reserve(self, entity: Entity, *, dry: bool) -> None:
        assert isinstance(entity, Scorer)
        place = self._to.experiment(entity.experiment_id, self.kind, entity.id)
        if place.id == NEW:
            return
        where = {"experiment_id": int(place.id), "scorer_name": entity.name}
        here = self._to.row(_TABLE, where, "scorer_id")
        if here is not None:
            id = str(here["scorer_id"])
        elif entity.scorer_id:
            id = self._to.free_id(
                _TABLE, "scorer_id", entity.scorer_id, within=place.id, short=False
            )
        else:
            id = self._to.made_id(_TABLE, place.id, entity.name, short=False)
        self._ids[entity.experiment_id, entity.name] = id
        if entity.scorer_id:
            self._to.remap.place(self.kind, entity.scorer_id, id)

    def write(self, content: Content, *, dry: bool) -> None:
        scorer = content.entity
        assert isinstance(scorer, Scorer)
        place = self._to.experiment(scorer.experiment_id, self.kind, scorer.id)
        id = self._ids.get((scorer.experiment_id, scorer.name))
        if id is None:
            return
        here = self._to.row(_TABLE, {"scorer_id": id}, "scorer_name")
        if here is None and dry:
            return
        with Merge(self._to, self.kind, scorer.id, fresh=here is None, dry=dry) as merge:
            row: Row = {
                "experiment_id": int(place.id),
                "scorer_name": scorer.name,
                "scorer_id": id,
            }
            merge.own(_TABLE, row, here, key=("scorer_id",), compared=())
            versions = [
                self._version(item, id)
                for item in content.items()
                if isinstance(item, ScorerVersion)
            ]
            merge.rows(
                _VERSIONS,
                {"scorer_id": id},
                versions,
                key=("scorer_id", "scorer_version"),
                name="versions",
                named_by="scorer_version",
                compared=("serialized_scorer",),
            )
            self._write_configs(merge, scorer, id)
            merge.count()

    def _version(self, version: ScorerVersion, id: str) -> Row:
        text = known(version.stored_scorer, version.serialized_scorer)
        return {
            "scorer_id": id,
            "scorer_version": version.version,
            "serialized_scorer": self._with_endpoint(text),
            "creation_time": version.creation_time,
        }

    def _with_endpoint(self, text: str) -> str:
        """Return a scorer's text with the id here of the gateway endpoint that it asks, if any.

        The table has the id where REST shows the name.
        """
        if GATEWAY_MODEL not in text:
            return text
        from mlflow.genai.scorers.scorer_utils import (
            extract_model_from_serialized_scorer,
            update_model_in_serialized_scorer,
        )

        try:
            data = json.loads(text)
            model = extract_model_from_serialized_scorer(data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return text
        if not isinstance(model, str) or not model.startswith(GATEWAY_MODEL):
            return text
        named = model.removeprefix(GATEWAY_MODEL)
        placed = self._to.remap.find(GatewayEndpoint.kind, named)
        id = placed.id if placed is not None else self._endpoint_named(named)
        if id is None:
            self._to.report.adjust(self.kind, "versions.serialized_scorer (points outside)")
            return text
        if id == named:
            return text
        return json.dumps(update_model_in_serialized_scorer(data, f"{GATEWAY_MODEL}{id}"))

    def _endpoint_named(self, name: str) -> str | None:
        placed = self._to.remap.find(f"{GatewayEndpoint.kind}_name", name)
        return None if placed is None else placed.id

    def _write_configs(self, merge: Merge, scorer: Scorer, id: str) -> None:
        here: list[Row] = []
        if not merge.fresh:
            columns = ("online_scoring_config_id", "sample_rate", "filter_string")
            here = list(self._to.rows(_CONFIGS, {"scorer_id": id}, columns))
        for position, config in enumerate(scorer.online_configs):
            place = self._to.remap.find("experiment", config.experiment_id)
            if place is None or place.id == NEW:
                self._to.report.adjust(self.kind, "online_configs (points outside)")
                continue
            own = config.online_scoring_config_id
            found = next((row for row in here if row["online_scoring_config_id"] == own), None)
            # A scorer has one: over REST it has another id.
            found = found or (here[0] if here and position == 0 else None)
            if found is not None:
                config_id = str(found["online_scoring_config_id"])
            else:
                config_id = self._to.free_id(
                    _CONFIGS, "online_scoring_config_id", own, within=id, short=True
                )
            row: Row = {
                "online_scoring_config_id": config_id,
                "scorer_id": id,
                "sample_rate": decode_number(config.sample_rate),
                "experiment_id": int(place.id),
                "filter_string": config.filter_string,
            }
            merge.own(
                _CONFIGS,
                row,
                found,
                key=("online_scoring_config_id",),
                compared=("sample_rate", "filter_string"),
                name=f"online_configs.{own}",
            )
