"""What is not counted as a difference, and why: one table.

An import over REST cannot keep these values (an *adjustment* each). They are compared all the same:
one that differs is counted as not compared, and is a difference with ``--strict``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from mlflow_bundle import provenance
from mlflow_bundle.references import SERVER_MADE_TAGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """Fields that are not counted.

    Attributes:
        kind: Kind of entity, or ``*``.
        field: Shell pattern of the field's path; ``items[].name`` is a field of an item.
        reason: Why MLflow cannot keep it.
        only_empty: Whether it counts nevertheless when both sides have a value.
        unless: A field that counts although the pattern covers it.
        but: Kinds that it is not about.
    """

    kind: str
    field: str
    reason: str
    only_empty: bool = False
    unless: str = ""
    but: tuple[str, ...] = ()

    def covers(self, kind: str, field: str, *, is_empty: bool) -> bool:
        """Whether a difference in ``field`` is not counted.

        Args:
            kind: Kind of the entity.
            field: Path of the field.
            is_empty: Whether one side has no value.
        """
        return (
            self.kind in ("*", kind)
            and kind not in self.but
            and fnmatchcase(field, self.field)
            and field != self.unless
            and (is_empty or not self.only_empty)
        )


_MADE = "the server sets it when the entity is made"
_CHANGED = "the server sets it when the entity is changed"
_PLACE = "follows from the server and its ids; the files themselves are compared"
_NO_ENDPOINT = "no endpoint sets it"
_SCORER_ID = "the server gives each scorer an id, by which nothing else knows it"
_OURS = "written by an import"
_SERVER = "the server writes it by itself"
_HELD = "MLflow's databases hold another number: none infinite, and no zero with a sign"
_SINCE_3_18 = "MLflow before 3.18 has none; since, it is at first when the entity is made"
_DEFAULT = "a server gives one of its own where there is none"

_REGISTRY = ("registered_model", "prompt")
_VERSIONS = ("model_version", "prompt_version")

EXEMPTIONS: tuple[Exemption, ...] = (
    Exemption(
        kind="*",
        field=f"tags.{provenance.PREFIX}*",
        reason=_OURS,
        unless=f"tags.{provenance.STATE}",
    ),
    Exemption(kind="experiment", field="artifact_location", reason=_PLACE),
    Exemption(kind="experiment", field="creation_time", reason=_MADE),
    Exemption(kind="experiment", field="last_update_time", reason=_CHANGED),
    Exemption(kind="run", field="artifact_uri", reason=_PLACE),
    Exemption(kind="run", field="run_name", reason=_DEFAULT, only_empty=True),
    Exemption(kind="run", field="tags.mlflow.runName", reason=_DEFAULT, only_empty=True),
    Exemption(kind="run", field="start_time", reason=_DEFAULT, only_empty=True),
    *(
        Exemption(kind=kind, field="logged_metrics[[]]", reason=_HELD)
        for kind in ("run", "logged_model")
    ),
    Exemption(kind="logged_model", field="artifact_location", reason=_PLACE),
    Exemption(kind="logged_model", field="creation_time", reason=_MADE),
    Exemption(kind="logged_model", field="last_updated_timestamp", reason=_CHANGED),
    Exemption(kind="logged_model", field="status_message", reason=_NO_ENDPOINT),
    *(
        Exemption(kind=kind, field=f"tags.{tag}", reason=_SERVER)
        for kind, tags in SERVER_MADE_TAGS.items()
        for tag in sorted(tags)
    ),
    *(
        Exemption(kind=kind, field=field, reason=reason)
        for kind in (*_REGISTRY, *_VERSIONS)
        for field, reason in (
            ("creation_timestamp", _MADE),
            ("last_updated_timestamp", _CHANGED),
        )
    ),
    *(
        Exemption(kind=kind, field=field, reason=reason)
        for kind in _VERSIONS
        for field, reason in (
            ("user_id", _MADE),
            ("status_message", _NO_ENDPOINT),
            ("storage_location", _PLACE),
        )
    ),
    Exemption(kind="gateway_endpoint", field="model_mappings[[]*.mapping_id", reason=_MADE),
    Exemption(kind="gateway_endpoint", field="bindings[[]*.resource_id", reason=_SCORER_ID),
    Exemption(kind="gateway_guardrail", field="scorer_id", reason=_SCORER_ID),
    Exemption(kind="gateway_guardrail", field="created_by", reason=_MADE),
    Exemption(kind="gateway_guardrail", field="*[[]].created_by", reason=_MADE),
    Exemption(kind="mcp_server", field="created_by", reason=_MADE),
    Exemption(kind="mcp_server", field="*[[]].created_by", reason=_MADE),
    Exemption(kind="trace", field="tags.mlflow.artifactLocation", reason=_PLACE),
    Exemption(kind="trace", field="tags.mlflow.trace.archiveLocation", reason=_PLACE),
    Exemption(kind="trace", field="tags.mlflow.trace.spansLocation", reason=_PLACE),
    Exemption(kind="trace", field="metadata.mlflow.trace.infoFinalized", reason=_SERVER),
    Exemption(kind="trace", field="request_preview", reason=_DEFAULT, only_empty=True),
    Exemption(kind="trace", field="response_preview", reason=_DEFAULT, only_empty=True),
    Exemption(kind="trace", field="assessments[[]].valid", reason=_NO_ENDPOINT),
    Exemption(kind="trace", field="assessments[[]].overrides", reason=_NO_ENDPOINT),
    Exemption(kind="issue", field="last_seen_timestamp", reason=_SINCE_3_18, only_empty=True),
    Exemption(kind="dataset", field="digest", reason=_MADE),
    Exemption(kind="dataset", field="schema", reason=_SERVER),
    Exemption(kind="dataset", field="profile", reason=_SERVER),
    Exemption(kind="dataset", field="created_by", reason=_MADE),
    Exemption(kind="dataset", field="items[[]].created_by", reason=_MADE),
    Exemption(kind="dataset", field="items[[]].dataset_record_id", reason=_MADE),
    Exemption(kind="scorer", field="scorer_id", reason=_MADE),
    Exemption(kind="scorer", field="online_configs[[]].online_scoring_config_id", reason=_MADE),
    Exemption(kind="label_schema", field="created_by", reason=_NO_ENDPOINT),
    *(
        Exemption(kind="review_queue", field=f"{before}{field}", reason=reason)
        for before in ("", "items[[]].")
        for field, reason in (
            ("creation_time_ms", _MADE),
            ("last_update_time_ms", _CHANGED),
        )
    ),
    Exemption(kind="review_queue", field="items[[]].completed_time_ms", reason=_CHANGED),
    *(
        # Of the kinds of plain entities and of their items, which say so in many words.
        Exemption(kind="*", field=f"{before}{field}", reason=reason, but=but)
        for before, but in (("", ()), ("*[[]].", ("trace",)))
        for field, reason in (
            ("id", _MADE),
            ("created_at", _MADE),
            ("created_time", _MADE),
            ("created_timestamp", _MADE),
            ("creation_time", _MADE),
            ("creation_timestamp", _MADE),
            ("last_update_time", _CHANGED),
            ("last_updated_at", _CHANGED),
            ("last_updated_by", _CHANGED),
            ("last_updated_time", _CHANGED),
            ("last_updated_timestamp", _CHANGED),
        )
    ),
)
"""Kind, field and reason of everything that an import over REST cannot keep."""


def exemption_of(kind: str, field: str, *, is_empty: bool) -> Exemption | None:
    """Return why a difference does not count, or None when it does.

    Args:
        kind: Kind of the entity.
        field: Path of the field.
        is_empty: Whether one side has no value.
    """
    for exemption in EXEMPTIONS:
        if exemption.covers(kind, field, is_empty=is_empty):
            return exemption
    return None
