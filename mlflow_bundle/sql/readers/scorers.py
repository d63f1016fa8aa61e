"""Reads scorers with all versions and online configurations; of deleted experiments too.

MLflow keeps a model of the gateway by the id of its endpoint and tells it by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from msgspec import UNSET

from mlflow_bundle import provenance
from mlflow_bundle.entities import encode_number
from mlflow_bundle.kinds.scorers import (
    GATEWAY_MODEL,
    SCORER,
    OnlineConfig,
    Scorer,
    ScorerVersion,
    model_holder,
)
from mlflow_bundle.spool import Selected
from mlflow_bundle.sql.readers.base import Chosen, Ids, Items, Reader, chunks

_Key = tuple[int, str]


class ScorerReader(Reader):
    """Reads scorers."""

    kind = SCORER.name

    def select(self, chosen: Chosen) -> Ids:
        return self._in_experiments("scorers", "scorer_name", chosen)

    def read(self, wanted: Sequence[Selected]) -> Iterator[Scorer]:
        rows = self._scorers(wanted)
        columns = ("online_scoring_config_id", "experiment_id", "sample_rate", "filter_string")
        configs = self._rows.grouped(
            "online_scoring_configs", "scorer_id", list(rows.values()), columns, order=columns[:1]
        )
        for (experiment_id, name), scorer_id in rows.items():
            yield Scorer(
                experiment_id=str(experiment_id),
                name=name,
                scorer_id=scorer_id,
                online_configs=[
                    OnlineConfig(
                        online_scoring_config_id=id,
                        experiment_id=str(of),
                        sample_rate=encode_number(rate),  # type: ignore[arg-type]
                        filter_string=filter_string,
                    )
                    for id, of, rate, filter_string in configs.get(scorer_id, ())
                ],
            )

    def read_items(self, wanted: Sequence[Selected]) -> Items:
        rows = self._scorers(wanted)
        columns = ("scorer_version", "serialized_scorer", "creation_time")
        versions = self._rows.grouped(
            "scorer_versions", "scorer_id", list(rows.values()), columns, order=columns[:1]
        )
        endpoints = self._endpoints

        def items(id: str, parent: str) -> Iterator[ScorerVersion]:
            for number, text, created in versions.get(rows.get((int(parent), id)), ()):
                told = _told(text, endpoints)
                if told is not None:
                    yield ScorerVersion(
                        version=number,
                        serialized_scorer=told,
                        creation_time=created,
                        stored_scorer=text if told != text else UNSET,
                    )

        return items

    def _scorers(self, wanted: Sequence[Selected]) -> dict[_Key, Any]:
        """Ids of scorers by experiment and name."""
        keys = {(int(row.parent), row.id) for row in wanted}
        found: dict[_Key, Any] = {}
        for some in chunks(sorted({experiment_id for experiment_id, _ in keys})):
            for experiment_id, name, scorer_id in self._rows.select(
                "scorers",
                ("experiment_id", "scorer_name", "scorer_id"),
                where={"experiment_id": some},
            ):
                if (experiment_id, name) in keys:
                    found[experiment_id, name] = scorer_id
        return found

    @cached_property
    def _endpoints(self) -> dict[str, str]:
        """Name of each endpoint of the gateway by its id."""
        return {
            id: name
            for id, name in self._rows.select("endpoints", ("endpoint_id", "name"))
            if name is not None
        }


def _told(text: str, endpoints: Mapping[str, str]) -> str | None:
    """The text as servers tell it; None for what only holds a number."""
    if GATEWAY_MODEL not in text and provenance.FILLER not in text:
        return text
    try:
        scorer = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(scorer, dict):
        return text
    if scorer.get(provenance.FILLER) is True:
        return None
    holder = model_holder(scorer)
    model = holder.get("model") if holder is not None else None
    if holder is None or not isinstance(model, str) or not model.startswith(GATEWAY_MODEL):
        return text
    name = endpoints.get(model.removeprefix(GATEWAY_MODEL))
    # An endpoint that was deleted is told as none.
    holder["model"] = None if name is None else f"{GATEWAY_MODEL}{name}"
    return json.dumps(scorer)
