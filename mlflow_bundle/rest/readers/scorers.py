"""Reads scorers with all versions and online configurations (MLflow >= 3.4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from mlflow_bundle import provenance
from mlflow_bundle.entities import Experiment, Number, PlainEntity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.scorers import SCORER, OnlineConfig, Scorer, ScorerVersion
from mlflow_bundle.rest.destination import chunked
from mlflow_bundle.rest.readers.base import Chosen, Fetched, Reader
from mlflow_bundle.rest.readers.items import FetchedItems
from mlflow_bundle.rest.records import to_int
from mlflow_bundle.rest.session import API_3, Session

SCORERS = f"{API_3}scorers"

_IDS_PER_QUERY = 50
"""Scorer ids in one URL."""


class RestScorerVersion(msgspec.Struct, frozen=True):
    """``scorers/list``, ``scorers/versions``: one version."""

    scorer_name: str
    scorer_version: int
    serialized_scorer: str = ""
    creation_time: int | str | None = None
    scorer_id: str | None = None

    @property
    def is_filler(self) -> bool:
        """Whether it only holds a number, left behind by a killed import."""
        if provenance.FILLER not in self.serialized_scorer:
            return False
        try:
            text = json.loads(self.serialized_scorer)
        except (ValueError, RecursionError):
            return False
        return isinstance(text, dict) and text.get(provenance.FILLER) is True


class RestScorers(msgspec.Struct, frozen=True):
    """``scorers/list``, ``scorers/versions``."""

    scorers: list[RestScorerVersion] = []


class _RestScorerAnswer(msgspec.Struct, frozen=True):
    scorer: RestScorerVersion


class _RestConfig(msgspec.Struct, frozen=True):
    online_scoring_config_id: str
    scorer_id: str
    experiment_id: str
    sample_rate: Number
    filter_string: str | None = None


class _RestConfigs(msgspec.Struct, frozen=True):
    configs: list[_RestConfig] = []


class ScorerReader(Reader):
    """Reads scorers; the server shows none of deleted experiments."""

    kind = SCORER
    first = (3, 4)

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        experiments = self._visible(chosen)
        for scorers in self._from.pool.map(self._list, experiments):
            yield from scorers

    def _list(self, experiment: Experiment) -> list[Scorer]:
        session, id = self._from.session, experiment.experiment_id
        try:
            answer: RestScorers = session.get(
                f"{SCORERS}/list",
                params={"experiment_id": id},
                type=RestScorers,
                what=f"scorers of experiment {id}",
            )
        except ServerError as exc:
            self._lose_all(exc, id)
            return []
        ids = [row.scorer_id for row in answer.scorers if row.scorer_id]
        configs: dict[str, list[OnlineConfig]] = {}
        if self._from.since(3, 9):
            try:
                configs = read_online_configs(session, ids)
            except ServerError as exc:
                if exc.status is None:
                    raise
                for row in answer.scorers:
                    self._from.lose(
                        SCORER.name,
                        row.scorer_name,
                        exc.message,
                        field="online_configs",
                        parent=id,
                    )
        return [
            Scorer(
                experiment_id=id,
                name=row.scorer_name,
                scorer_id=row.scorer_id,
                online_configs=configs.get(row.scorer_id or "", []),
            )
            for row in answer.scorers
        ]

    def start(self, entities: list[PlainEntity]) -> Fetched:
        openers: dict[str, Callable[[], Iterator[msgspec.Struct]]] = {
            entity.id: partial(iter_versions, self._from.session, entity.parent, entity.id)
            for entity in entities
        }
        return FetchedItems(self._from.pool, openers, type=ScorerVersion, field="versions")


def list_versions(session: Session, experiment_id: str, name: str) -> list[RestScorerVersion]:
    """Return the versions of a scorer by number; their texts are encoded anew by the server.

    Raises:
        ServerError: The server refused, or has no such scorer.
    """
    answer: RestScorers = session.get(
        f"{SCORERS}/versions",
        params={"experiment_id": experiment_id, "name": name},
        type=RestScorers,
        what=f"versions of scorer {name!r}",
    )
    return answer.scorers


def iter_versions(session: Session, experiment_id: str, name: str) -> Iterator[ScorerVersion]:
    """Yield the versions of a scorer by number, texts as they were registered.

    Raises:
        ServerError: The server refused.
    """
    for listed in list_versions(session, experiment_id, name):
        if listed.is_filler:
            continue
        # A listing decodes and encodes the texts; one alone comes as it is.
        answer: _RestScorerAnswer = session.get(
            f"{SCORERS}/get",
            params={
                "experiment_id": experiment_id,
                "name": name,
                "version": listed.scorer_version,
            },
            type=_RestScorerAnswer,
            what=f"version {listed.scorer_version} of scorer {name!r}",
        )
        yield ScorerVersion(
            version=listed.scorer_version,
            serialized_scorer=answer.scorer.serialized_scorer,
            creation_time=to_int(answer.scorer.creation_time),
        )


def read_online_configs(session: Session, scorer_ids: list[str]) -> dict[str, list[OnlineConfig]]:
    """Return online configurations by scorer id.

    Raises:
        ServerError: The server refused.
    """
    found: dict[str, list[OnlineConfig]] = {}
    for ids in chunked(scorer_ids, _IDS_PER_QUERY):
        answer: _RestConfigs = session.get(
            f"{SCORERS}/online-configs",
            params=[("scorer_ids", id) for id in ids],
            type=_RestConfigs,
            what="online configurations of scorers",
        )
        for config in answer.configs:
            found.setdefault(config.scorer_id, []).append(
                OnlineConfig(
                    online_scoring_config_id=config.online_scoring_config_id,
                    experiment_id=config.experiment_id,
                    sample_rate=config.sample_rate,
                    filter_string=config.filter_string,
                )
            )
    return found
