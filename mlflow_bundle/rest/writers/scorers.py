"""Writes scorers: their names tell which is which, and versions keep their numbers.

The server gives a new version the number after the highest. A gap is made with a filler, a version
that is deleted once a later one is there. What lies below the highest number can only be appended,
and would then be the one in use: `--renumber` asks for that.
"""

from __future__ import annotations

import json
from typing import Any

from mlflow_bundle import provenance
from mlflow_bundle.contracts import Content
from mlflow_bundle.errors import ServerError, SinkError, UnsupportedEntityError
from mlflow_bundle.kinds.scorers import (
    GATEWAY_MODEL,
    OnlineConfig,
    Scorer,
    ScorerVersion,
    model_holder,
)
from mlflow_bundle.rest.readers.gateway import list_endpoints
from mlflow_bundle.rest.readers.scorers import (
    SCORERS,
    iter_versions,
    list_versions,
    read_online_configs,
)
from mlflow_bundle.rest.registry_writer import MAX_GAP
from mlflow_bundle.rest.writers.base import Writer

_KIND = Scorer.kind

_RENUMBER = "(--renumber gives the next free one)"


class _Here:
    """A scorer at the server."""

    def __init__(self) -> None:
        self.scorer_id: str | None = None
        self.versions: list[ScorerVersion] = []
        self.fillers: list[int] = []
        self.highest = 0


class ScorerWriter(Writer):
    """Writes scorers, after the endpoints that they ask and before the guardrails that use them."""

    kind = _KIND
    hides_in_deleted = True

    def examine(self, content: Content) -> None:
        scorer = content.entity
        assert isinstance(scorer, Scorer)
        here = self._here(scorer, self._experiment(scorer).id)
        if here.versions:
            self._to.report.found(_KIND)
            self._new_versions(scorer, content, here)
            self._new_config(scorer, here)

    def put(self, content: Content) -> None:
        scorer = content.entity
        assert isinstance(scorer, Scorer)
        if not self._to.since(3, 4):
            raise UnsupportedEntityError(
                f"scorer {scorer.name}: the server has no scorers (they came with MLflow 3.4)",
                status=404,
            )
        experiment_id = self._experiment(scorer).id
        here = self._here(scorer, experiment_id)
        new = self._new_versions(scorer, content, here)
        self._require_endpoints(scorer, new)
        config = self._new_config(scorer, here)
        was_here = bool(here.versions)
        made = 0
        try:
            for version in new:
                made += self._make(scorer, experiment_id, version, here)
        finally:
            self._remove_fillers(scorer, experiment_id, here)
        if scorer.scorer_id and here.scorer_id:
            self._to.remap.place(_KIND, scorer.scorer_id, here.scorer_id)
        changed = bool(made)
        if config is not None and here.versions:
            changed |= self._configure(scorer, experiment_id, config)
        if made and not was_here:
            self._to.report.adjust(_KIND, "scorer_id")
        if changed:
            self._to.report.did(_KIND)
        elif here.versions:
            self._to.report.found(_KIND)

    def _here(self, scorer: Scorer, experiment_id: str) -> _Here:
        here = _Here()
        if not self._to.was_here(experiment_id):
            return here
        try:
            listed = list_versions(self._to.session, experiment_id, scorer.name)
        except ServerError as exc:
            if not self._to.session.is_missing(exc):
                raise
            return here
        here.fillers = [row.scorer_version for row in listed if row.is_filler]
        here.highest = max((row.scorer_version for row in listed), default=0)
        here.scorer_id = next((row.scorer_id for row in listed if row.scorer_id), None)
        here.versions = list(iter_versions(self._to.session, experiment_id, scorer.name))
        return here

    # Versions

    def _new_versions(self, scorer: Scorer, content: Content, here: _Here) -> list[ScorerVersion]:
        """Return the versions to make; report those that cannot be."""
        by_number = {version.version: version for version in here.versions}
        new: list[ScorerVersion] = []
        twins: set[int] = set()
        for version in content.items():
            assert isinstance(version, ScorerVersion)
            twin = by_number.get(version.version)
            if twin is not None and _text(twin) == _text(version):
                twins.add(twin.version)
            else:
                new.append(version)
        if self._to.options.renumber:
            # An import before this one appended what has another number here.
            texts = [_text(v) for v in here.versions if v.version not in twins]
            return [v for v in new if not _taken(texts, _text(v))]
        return [version for version in new if self._is_free(scorer, version, by_number, here)]

    def _is_free(
        self,
        scorer: Scorer,
        version: ScorerVersion,
        by_number: dict[int, ScorerVersion],
        here: _Here,
    ) -> bool:
        number, field = version.version, f"versions[{version.version}]"
        if number in by_number:
            if self._to.differs(
                _KIND,
                scorer.name,
                field,
                here=by_number[number].serialized_scorer,
                bundle=version.serialized_scorer,
            ):
                self._lose(scorer, field, f"a version never changes {_RENUMBER}")
            return False
        if number <= here.highest:
            reason = f"its number is below the latest one there, {here.highest}"
            self._lose(scorer, field, f"{reason} {_RENUMBER}")
            return False
        return True

    def _require_endpoints(self, scorer: Scorer, versions: list[ScorerVersion]) -> None:
        """Refuse a scorer that asks endpoints which are not there: its numbers would shift.

        Raises:
            SinkError: One is missing.
        """
        wanted = {name for version in versions if (name := _endpoint_of(version))}
        if not wanted or not self._to.since(3, 9):
            return
        # Not one by its name: servers of before MLflow 3.11 know the lookup by id alone.
        missing = wanted - {endpoint.name for endpoint in list_endpoints(self._to.session)}
        if missing:
            raise SinkError(
                f"scorer {scorer.name}: the gateway endpoint {min(missing)!r} that it asks is not "
                "at the destination; --placeholder-secrets brings gateway endpoints",
                status=409,
            )

    def _make(self, scorer: Scorer, experiment_id: str, version: ScorerVersion, here: _Here) -> int:
        """Register one version under its number; return how many were made."""
        field = f"versions[{version.version}]"
        renumber = self._to.options.renumber
        if not renumber and version.version - here.highest > MAX_GAP:
            gap = version.version - here.highest - 1
            self._lose(
                scorer, field, f"{gap} numbers before it, at most {MAX_GAP} are used up {_RENUMBER}"
            )
            return 0
        try:
            while not renumber and here.highest + 1 < version.version:
                filler = json.dumps({"name": scorer.name, provenance.FILLER: True})
                here.fillers.append(self._register(scorer, experiment_id, filler, here))
            number = self._register(scorer, experiment_id, version.serialized_scorer, here)
        except ServerError as exc:
            if exc.status is None:
                raise
            self._lose(scorer, field, exc.message)
            return 0
        here.versions.append(version)
        self._to.report.adjust(_KIND, "versions.creation_time")
        if number != version.version:
            self._to.report.adjust(_KIND, "versions.version (--renumber)")
            self._to.report.note(
                f"scorer {scorer.name}: version {version.version} is {number} at the destination"
            )
        return 1

    def _register(self, scorer: Scorer, experiment_id: str, text: str, here: _Here) -> int:
        answer = self._to.session.post(
            f"{SCORERS}/register",
            {"experiment_id": experiment_id, "name": scorer.name, "serialized_scorer": text},
            what=f"scorer {scorer.name!r}",
            once=True,
        )
        here.scorer_id = answer.get("scorer_id") or here.scorer_id
        here.highest = int(answer["version"])
        return here.highest

    def _remove_fillers(self, scorer: Scorer, experiment_id: str, here: _Here) -> None:
        which: dict[str, Any] = {"experiment_id": experiment_id, "name": scorer.name}
        if here.fillers and not here.versions:
            # Without a version number the scorer itself goes too.
            self._delete(which)
            return
        for number in here.fillers:
            self._delete({**which, "version": number})

    def _delete(self, which: dict[str, Any]) -> None:
        self._to.session.remove(f"{SCORERS}/delete", which, what=f"scorer {which['name']!r}")

    # Online configurations

    def _new_config(self, scorer: Scorer, here: _Here) -> OnlineConfig | None:
        """Return the online configuration to set."""
        if not scorer.online_configs:
            return None
        *others, config = scorer.online_configs
        for other in others:
            self._lose(
                scorer,
                f"online_configs[{other.online_scoring_config_id}]",
                "the server takes one online configuration of a scorer",
            )
        if not self._to.since(3, 9):
            self._lose(scorer, "online_configs", "the server has none (they came with MLflow 3.9)")
            return None
        if here.scorer_id and here.versions:
            found = read_online_configs(self._to.session, [here.scorer_id])
            for twin in found.get(here.scorer_id, []):
                ours = (config.sample_rate, config.filter_string)
                theirs = (twin.sample_rate, twin.filter_string)
                if ours == theirs or not self._to.differs(
                    _KIND, scorer.name, "online_configs", here=theirs, bundle=ours
                ):
                    return None
        return config

    def _configure(self, scorer: Scorer, experiment_id: str, config: OnlineConfig) -> bool:
        body: dict[str, Any] = {
            "experiment_id": experiment_id,
            "name": scorer.name,
            "sample_rate": config.sample_rate,
        }
        if config.filter_string is not None:
            body["filter_string"] = config.filter_string
        try:
            self._to.session.call(
                "PUT",
                f"{SCORERS}/online-config",
                json_body=body,
                what=f"online configuration of scorer {scorer.name!r}",
            )
        except ServerError as exc:
            if exc.status is None:
                raise
            self._lose(scorer, "online_configs", exc.message)
            return False
        self._to.report.adjust(_KIND, "online_configs.online_scoring_config_id")
        return True

    def _lose(self, scorer: Scorer, field: str, reason: str) -> None:
        self._to.report.lose(_KIND, scorer.name, reason, field=field, parent=scorer.experiment_id)


def _text(version: ScorerVersion) -> str:
    """Equal for texts that mean the same: the server encodes those with an endpoint anew."""
    try:
        return json.dumps(json.loads(version.serialized_scorer), sort_keys=True)
    except (ValueError, RecursionError):
        return version.serialized_scorer


def _taken(texts: list[str], text: str) -> bool:
    """Take ``text`` out of ``texts``; whether it was there."""
    if text not in texts:
        return False
    texts.remove(text)
    return True


def _endpoint_of(version: ScorerVersion) -> str | None:
    """Name of the gateway's endpoint that a scorer asks, wherever its text names the model."""
    try:
        data = json.loads(version.serialized_scorer)
    except (ValueError, RecursionError):
        return None
    model = (model_holder(data) or {}).get("model")
    if not isinstance(model, str) or not model.startswith(GATEWAY_MODEL):
        return None
    return model.removeprefix(GATEWAY_MODEL)
