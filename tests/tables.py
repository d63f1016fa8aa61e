"""Compare two MLflow databases (SQLite) row by row, and count what a database holds.

`compare_databases` reads both files directly and shares no code with the package. Ids that the
destination gave are first translated back to the source's (`tests.table_ids`): in columns, and
inside texts, JSON, URIs and spans. An id of the source that has another one in the destination is
never right there, so it is marked wherever it still stands; fields that are not compared are
searched for such ids too.

What is not compared is listed, with its reason, in `tests.table_exemptions`, and nowhere else.
Our own tags (``mlflow_bundle.*``) are passed over on both sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.compare import row_dump
from tests.installed import has
from tests.table_exemptions import EXEMPT, NOT_CARRIED, Exemption, RowExemption
from tests.table_ids import Rename, Translation, pair_ids
from tests.table_rows import Database, Row

_SKILL_TABLES = (
    "skills",
    "skill_tags",
    "skill_aliases",
    "skill_versions",
    "skill_version_tags",
)

USER_TABLES = (
    # runs and experiments
    "experiments",
    "experiment_tags",
    "runs",
    "tags",
    "params",
    "metrics",
    "datasets",
    "inputs",
    "input_tags",
    # logged models
    "logged_models",
    "logged_model_params",
    "logged_model_tags",
    "logged_model_metrics",
    # traces
    "trace_info",
    "trace_tags",
    "trace_request_metadata",
    "spans",
    "assessments",
    "entity_associations",
    # what is made with traces
    "evaluation_datasets",
    "evaluation_dataset_records",
    "evaluation_dataset_tags",
    "scorers",
    "scorer_versions",
    "online_scoring_configs",
    "issues",
    *(("issue_categories",) if has(3, 18) else ()),
    "label_schemas",
    "review_queues",
    "review_queue_users",
    "review_queue_items",
    "review_queue_label_schemas",
    # registry, webhooks, workspaces
    "registered_models",
    "registered_model_tags",
    "registered_model_aliases",
    "model_versions",
    "model_version_tags",
    "webhooks",
    "webhook_events",
    "workspaces",
    "mcp_servers",
    "mcp_server_tags",
    "mcp_server_aliases",
    "mcp_server_versions",
    "mcp_server_version_tags",
    "mcp_access_endpoints",
    *(_SKILL_TABLES if has(3, 18) else ()),
    # gateway
    "model_definitions",
    "endpoints",
    "endpoint_model_mappings",
    "endpoint_tags",
    "endpoint_bindings",
    "guardrails",
    "guardrail_configs",
    "budget_policies",
)
"""Every table that holds what users made: each must travel, and is compared."""

OTHER_TABLES = {
    "latest_metrics": "derived from metrics; compared nevertheless",
    "trace_metrics": "derived; empty since 3.17",
    "span_metrics": "derived; empty since 3.17",
    "sql_trace_metric_daily_rollups": "derived",
    "sql_span_cost_daily_rollups": "derived",
    "sql_assessment_daily_rollups": "derived",
    "sql_trace_rollup_rebuild_queue": "operational",
    "secrets": "secret: travels by name only",
    "jobs": "operational",
    "job_locks": "operational",
    "scheduler_leases": "operational",
    "alembic_version": "of the schema",
}
"""The other tables of a database at the head of MLflow 3.17 and 3.18."""


TAG_KEYS = {
    "experiment_tags": "key",
    "tags": "key",
    "logged_model_tags": "tag_key",
    "registered_model_tags": "key",
    "model_version_tags": "key",
    "trace_tags": "key",
    "evaluation_dataset_tags": "key",
    "mcp_server_tags": "key",
    "mcp_server_version_tags": "key",
    "skill_tags": "key",
    "skill_version_tags": "key",
    "endpoint_tags": "key",
}
"""Tables of tags, where ours may stand, to the column of their keys."""
OURS = "mlflow_bundle."


@dataclass(frozen=True)
class Comparison:
    """What differs, and how much was compared."""

    differences: list[str]
    """One line for each row or field."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows that both databases hold, by table; tables without any are left out."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Fields and rows that an exemption covers and that do differ, by its reason."""

    def __str__(self) -> str:
        return (
            f"{sum(self.rows.values())} rows of {len(self.rows)} tables compared,"
            f" {len(self.differences)} differences,"
            f" {sum(self.passed_over.values())} covered by exemptions"
        )


def compare_databases(
    source: Path | str | Database,
    destination: Path | str,
    *,
    tables: Iterable[str] = (*USER_TABLES, "latest_metrics"),
    exempt: Iterable[Exemption] = EXEMPT,
    exempt_rows: Iterable[RowExemption] = NOT_CARRIED,
    may_lack: bool = False,
    may_have_more: bool = False,
    experiment_name: Rename = lambda name: name,
    model_name: Rename = lambda name: name,
    workspace: Rename = lambda name: name,
) -> Comparison:
    """Compare every row of every table of users' data after translating ids.

    Args:
        source: SQLite file that was exported; a `Database` to read it once for many comparisons.
        destination: SQLite file that was imported into.
        tables: Tables to compare.
        exempt: Fields that are not compared.
        exempt_rows: Rows that one side may have alone.
        may_lack: Whether rows may be missing in the destination (a part was imported).
        may_have_more: Whether the destination may hold more rows (it was not empty).
        experiment_name: The name that an experiment of the source has in the destination.
        model_name: The same for a registered model or prompt.
        workspace: The same for a workspace.
    """
    a = source if isinstance(source, Database) else Database(source)
    b = Database(destination)
    translation = pair_ids(
        a, b, experiment_name=experiment_name, model_name=model_name, workspace=workspace
    )
    comparing = _Comparing(a, b, translation, tuple(exempt), tuple(exempt_rows))
    for table in tables:
        comparing.table(table, may_lack=may_lack, may_have_more=may_have_more)
    return Comparison(comparing.lines, comparing.rows, dict(comparing.passed_over))


class _Comparing:
    def __init__(
        self,
        source: Database,
        destination: Database,
        translation: Translation,
        exempt: tuple[Exemption, ...],
        exempt_rows: tuple[RowExemption, ...],
    ) -> None:
        self._source = source
        self._destination = destination
        self._translation = translation
        self._exempt = exempt
        self._exempt_rows = exempt_rows
        self.lines: list[str] = []
        self.rows: dict[str, int] = {}
        self.passed_over: dict[str, int] = defaultdict(int)

    def table(self, table: str, *, may_lack: bool, may_have_more: bool) -> None:
        ours = self._keyed(table, self._source.rows(table))
        found = self._destination.rows(table)
        originals = [row for row in found if not _is_ours(table, row)]
        translated = [self._translation.row(table, row) for row in originals]
        theirs = self._keyed(table, translated)
        for original in originals:
            self._leftovers(table, original)
        both = [key for key in ours if key in theirs]
        if both:
            self.rows[table] = len(both)
        for key in both:
            if self._row_reason(table, ours[key], self._source, ("all",)) is None:
                self._fields(table, key, ours[key], theirs[key])
        for mine, other, database, allowed, where in (
            (ours, theirs, self._source, may_lack, "first"),
            (theirs, ours, self._destination, may_have_more, "second"),
        ):
            for key, row in mine.items():
                if key in other:
                    continue
                reason = self._row_reason(table, row, database, (where, "either", "all"))
                if reason is not None:
                    self.passed_over[reason] += 1
                elif not allowed:
                    self.lines.append(f"{table}[{_named(key)}]: only in the {where}")

    def _keyed(self, table: str, rows: list[Row]) -> dict[tuple[Any, ...], Row]:
        columns = self._source.tables[table]
        keyed = {}
        for row in rows:
            if not _is_ours(table, row):
                keyed[tuple(row[column] for column in columns)] = row
        return keyed

    def _row_reason(
        self, table: str, row: Row, database: Database, where: tuple[str, ...]
    ) -> str | None:
        for exemption in self._exempt_rows:
            asked = exemption.table == table and exemption.where in where
            if asked and exemption.applies(row, database):
                return exemption.reason
        return None

    def _fields(self, table: str, key: tuple[Any, ...], a: Row, b: Row) -> None:
        for column in a:
            left, right = a[column], b.get(column, "<no such column>")
            if left == right and type(left) is type(right):
                continue
            exemption = self._field_exemption(table, column, a)
            if exemption is not None and exemption.covers_values(left, right):
                self.passed_over[exemption.reason] += 1
            else:
                self.lines.append(f"{table}[{_named(key)}] {column}: {_contrast(left, right)}")

    def _field_exemption(self, table: str, column: str, row: Row) -> Exemption | None:
        for exemption in self._exempt:
            if exemption.covers(table, column, row):
                return exemption
        return None

    def _leftovers(self, table: str, row: Row) -> None:
        """Look for ids of the source also where values are not compared."""
        for column, value in row.items():
            for id in self._translation.leftovers(value):
                key = tuple(row[name] for name in self._destination.tables[table])
                self.lines.append(
                    f"{table}[{_named(key)}] {column}: still holds {id} of the source"
                )


def _is_ours(table: str, row: Row) -> bool:
    column = TAG_KEYS.get(table)
    return column is not None and str(row[column]).startswith(OURS)


def _named(key: tuple[Any, ...]) -> str:
    return ", ".join(_short(part) if isinstance(part, str) else str(part) for part in key)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _contrast(left: Any, right: Any) -> str:
    if isinstance(left, str) and isinstance(right, str) and len(left) + len(right) > 160:
        pairs = enumerate(zip(left, right, strict=False))
        end = min(len(left), len(right))
        first = next((i for i, (x, y) in pairs if x != y), end)
        start = max(0, first - 20)
        return (
            f"{len(left)} against {len(right)} characters, first difference at {first}:"
            f" …{_short(left[start:])!r} != …{_short(right[start:])!r}"
        )
    return f"{left!r} != {right!r}"


def empty_tables(database: Path | str) -> list[str]:
    """Tables of users' data without a row."""
    held = Database(database)
    return [table for table in USER_TABLES if not held.rows(table)]


def changed_rows(before: dict[str, list[tuple[Any, ...]]], database: Path | str) -> Iterator[str]:
    """Name the tables that changed since ``before = row_dump(database)``."""
    after = row_dump(database)
    for table in sorted(before.keys() | after.keys()):
        if before.get(table) != after.get(table):
            yield table
