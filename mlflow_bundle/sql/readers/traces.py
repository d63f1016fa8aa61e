"""Reads traces with spans, assessments and links; of deleted experiments too.

Before MLflow 3.17 the name of a trace, its session, tokens and costs were ordinary tags and
metadata; since then they are columns. They are told as tags and metadata, as servers do.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import ColumnElement

from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, NoArtifacts, OpenedArtifact
from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.entities import Association
from mlflow_bundle.errors import ServerError, SourceError
from mlflow_bundle.kinds.traces import (
    ARCHIVE_LOCATION,
    ARCHIVE_REPO,
    ARTIFACT_LOCATION,
    NUMBERS,
    SOURCE_RUN,
    SPANS_LOCATION,
    TRACE,
    TRACE_NAME,
    TRACE_SESSION,
    TRACKING_STORE,
    Assessment,
    PromptVersionRef,
    Span,
    Trace,
    state_of,
)
from mlflow_bundle.references import is_below
from mlflow_bundle.spans import SPAN_TYPE, content_of, type_in
from mlflow_bundle.spool import Selected
from mlflow_bundle.spooled import Spooled
from mlflow_bundle.sql.readers.base import Chosen, Ids, Items, Nulls, Reader, chunks, ids_of

_ARCHIVE = "traces.pb"
_ATTACHMENT = "mlflow-attachment://"
_SPANS_PER_QUERY = 500
_MEMORY_BYTES = 8 * 1024 * 1024
"""Of the spans of one batch; several batches wait at once."""

_COLUMNS = (
    "request_id",
    "experiment_id",
    "timestamp_ms",
    "execution_time_ms",
    "status",
    "client_request_id",
    "request_preview",
    "response_preview",
    "trace_name",
    "session_id",
    *(column for columns in NUMBERS.values() for column in columns),
)


class TraceReader(Reader):
    """Reads traces."""

    kind = TRACE.name

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._has_columns = self._rows.has("trace_info", "trace_name", "session_id")
        self._with_attachments: set[str] = set()
        """Traces whose spans name attachments, until their tree was asked for."""
        columns = ("experiment_id", "artifact_location")
        roots = self._rows.select("experiments", columns)
        self._roots = {str(id): root or "" for id, root in roots}
        """Where experiments keep their artifacts."""

    def select(self, chosen: Chosen) -> Ids:
        selection = chosen.selection
        time = self._rows.column("trace_info", "timestamp_ms") if self._is_there else None
        conditions: list[ColumnElement[bool]] = []
        if time is not None and selection.since_ms is not None:
            conditions.append(time >= selection.since_ms)
        if time is not None and selection.until_ms is not None:
            conditions.append(time < selection.until_ms)
        return self._in_experiments("trace_info", "request_id", chosen, conditions)

    @property
    def _is_there(self) -> bool:
        return self._rows.has("trace_info")

    def read(self, wanted: Sequence[Selected]) -> Iterator[Trace]:
        ids = ids_of(wanted)
        tags = self._tags("trace_tags", "request_id", ids)
        metadata = self._tags("trace_request_metadata", "request_id", ids)
        assessments = self._assessments(ids)
        links = self._associations("trace", ids)
        for row in self._records("trace_info", "request_id", wanted, _COLUMNS):
            id = row["request_id"]
            nulls = Nulls()
            told = nulls.tags("metadata", metadata.get(id, ()))
            own_tags = nulls.tags("tags", tags.get(id, ()))
            if self._has_columns:
                own_tags.pop(TRACE_NAME, None)
                if row["trace_name"] is not None:
                    own_tags[TRACE_NAME] = row["trace_name"]
                told = _with_promoted(told, row)
            linked = links.get(id, [])
            yield Trace(
                trace_id=id,
                experiment_id=str(row["experiment_id"]),
                request_time=row["timestamp_ms"],
                execution_duration=row["execution_time_ms"],
                state=state_of(row["status"]),
                client_request_id=row["client_request_id"],
                request_preview=row["request_preview"],
                response_preview=row["response_preview"],
                tags=own_tags,
                metadata=told,
                assessments=assessments.get(id, []),
                run_ids=[
                    link.destination_id
                    for link in linked
                    if link.destination_type == "run"
                    and link.destination_id != told.get(SOURCE_RUN)
                ],
                prompts=list(_prompts(linked)),
                associations=linked or msgspec.UNSET,
                null_fields=nulls.names,
            )

    def read_items(self, wanted: Sequence[Selected]) -> Items:
        ids = ids_of(wanted)
        found = _Spans()
        archived = self._archived(ids)
        columns = ("trace_id", "parent_span_id", "start_time_unix_nano", "type", "content")
        for some in chunks(ids):
            for rows in self._rows.batches(
                "spans",
                columns,
                where={"trace_id": some},
                order=("trace_id", "start_time_unix_nano", "span_id"),
                size=_SPANS_PER_QUERY,
            ):
                for trace_id, parent, _, type, content in rows:
                    if content:  # an archived span has its content elsewhere
                        self._add(found, trace_id, _span(content, type), is_root=parent is None)
        for trace_id, location in archived.items():
            for content in self._archived_spans(trace_id, location):
                self._add(found, trace_id, Span(content=content), is_root=False)
        return lambda id, parent: found.of(id)

    def _add(self, found: _Spans, trace_id: str, span: Span, *, is_root: bool) -> None:
        if _ATTACHMENT in span.content:
            self._with_attachments.add(trace_id)
        found.add(trace_id, span, is_root=is_root)

    def tree(self, entity: Trace) -> ArtifactTree | None:
        location = entity.tags.get(ARTIFACT_LOCATION, "")
        has_attachments = entity.id in self._with_attachments
        self._with_attachments.discard(entity.id)
        if self._leads_elsewhere(entity, location):
            return _Elsewhere(location)
        tree = self._from.tree(location)
        if entity.spans_location not in (TRACKING_STORE, ARCHIVE_REPO) or has_attachments:
            return tree
        if urlsplit(location).scheme in ("", "file", "mlflow-artifacts", "http", "https"):
            return _PerhapsEmpty(tree)
        # Nothing need lie there: listing each of many directories is spared.
        return NoArtifacts(tree.mode)

    def _leads_elsewhere(self, entity: Trace, location: str) -> bool:
        """Whether a trace names a place on this machine that is not its experiment's.

        Whoever may tag a trace may say where it lies: not everything here is for them to read.
        """
        if not location or urlsplit(location).scheme not in ("", "file"):
            return False
        root = self._roots.get(entity.experiment_id, "")
        return ".." in location.split("/") or not is_below(location, root)

    def _archived(self, ids: Sequence[str]) -> dict[str, str]:
        """Where the spans of archived traces lie."""
        found = self._rows.grouped("trace_tags", "request_id", ids, ("key", "value"))
        locations = {}
        for id, pairs in found.items():
            tags: dict[str, str | None] = dict(pairs)
            if tags.get(SPANS_LOCATION) == ARCHIVE_REPO:
                locations[id] = str(tags.get(ARCHIVE_LOCATION) or "")
        return locations

    def _archived_spans(self, trace_id: str, location: str) -> list[str]:
        try:
            tree = self._from.open_tree(location)
            opened = tree.open(ArtifactFile(_ARCHIVE, None))
            with opened.stream as stream:
                return _decode_archive(stream.read())
        except ServerError as exc:
            if exc.status is None:
                raise
            reason = exc.message
        except KeyError:
            reason = "its spans were archived, and the artifacts are not read"
        except ValueError as exc:
            reason = f"{posixpath.join(location, _ARCHIVE)} is no archive of spans: {exc}"
        self._from.lose(TRACE.name, trace_id, reason, field="spans")
        return []

    def _assessments(self, ids: Sequence[str]) -> dict[str, list[Assessment]]:
        columns = (
            *("assessment_id", "name", "assessment_type", "value", "error"),
            *("created_timestamp", "last_updated_timestamp", "source_type", "source_id"),
            *("run_id", "span_id", "rationale", "overrides", "valid", "assessment_metadata"),
        )
        found = self._rows.grouped(
            "assessments",
            "trace_id",
            ids,
            columns,
            order=("created_timestamp",),
        )
        return {
            id: [self._assessment(id, dict(zip(columns, row, strict=True))) for row in rows]
            for id, rows in found.items()
        }

    def _assessment(self, trace_id: str, row: dict[str, Any]) -> Assessment:
        field = f"assessments.{row['name']}.metadata"
        metadata = self._decoded(trace_id, field, row["assessment_metadata"] or None, dict) or {}
        return Assessment(
            assessment_id=row["assessment_id"],
            name=row["name"],
            type=row["assessment_type"],
            value=row["value"],
            error=row["error"],
            created_timestamp=row["created_timestamp"],
            last_updated_timestamp=row["last_updated_timestamp"],
            source_type=row["source_type"] or "",
            source_id=row["source_id"],
            run_id=row["run_id"],
            span_id=row["span_id"],
            rationale=row["rationale"],
            overrides=row["overrides"],
            valid=bool(row["valid"]),
            metadata={
                key: value if isinstance(value, str) else json.dumps(value)
                for key, value in metadata.items()
            },
        )


class _Spans:
    """Spans of some traces, roots first, in memory up to a size and on disk past it."""

    def __init__(self) -> None:
        self._roots: dict[str, list[Span]] = {}
        self._others: dict[str, list[Span]] = {}
        self._spilled: dict[str, Spooled[Span]] = {}
        self._bytes = 0

    def add(self, trace_id: str, span: Span, *, is_root: bool) -> None:
        """Append a span; those of one trace come by their start."""
        self._bytes += len(span.content)
        if is_root:
            self._roots.setdefault(trace_id, []).append(span)
        elif self._bytes < _MEMORY_BYTES:
            self._others.setdefault(trace_id, []).append(span)
        else:
            if trace_id not in self._spilled:
                self._spilled[trace_id] = Spooled(Span)
            self._spilled[trace_id].add(span)

    def of(self, trace_id: str) -> Iterator[Span]:
        """Yield the spans of one trace."""
        yield from self._roots.get(trace_id, ())
        yield from self._others.get(trace_id, ())
        yield from self._spilled.get(trace_id, ())


class _Elsewhere(ArtifactTree):
    """Stands for files that are not read."""

    is_near = True

    def __init__(self, location: str) -> None:
        self._location = location

    def files(self) -> list[ArtifactFile]:
        raise SourceError(
            f"said to lie at {mask_uri(self._location)}, outside the artifacts of its experiment: "
            "not read",
            status=HTTPStatus.FORBIDDEN,
        )

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        raise KeyError(file.path)


class _PerhapsEmpty(ArtifactTree):
    """A tree of which nothing is missed when it cannot be listed."""

    def __init__(self, tree: ArtifactTree) -> None:
        self.mode = tree.mode
        self.is_near = tree.is_near
        self._tree = tree

    def files(self) -> list[ArtifactFile]:
        try:
            return self._tree.files()
        except ServerError as exc:
            if exc.status is None:
                raise
            return []

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        return self._tree.open(file)


def _span(content: str, type: str | None) -> Span:
    # What nearly all of them say is looked for as text: that spares the time of decoding them.
    if f'"{SPAN_TYPE}": "\\"{type}\\""' in content or (type is None and SPAN_TYPE not in content):
        return Span(content=content)
    try:
        is_told = type_in(content) == type
    except (ValueError, AttributeError):  # no span, which whoever reads it will say
        is_told = True
    return Span(content=content) if is_told else Span(content=content, type=type)


def _with_promoted(metadata: dict[str, str], row: dict[str, Any]) -> dict[str, str]:
    told = {k: v for k, v in metadata.items() if k != TRACE_SESSION and k not in NUMBERS}
    if row["session_id"] is not None:
        told[TRACE_SESSION] = row["session_id"]
    for key, columns in NUMBERS.items():
        parts = {column: row[column] for column in columns if row[column] is not None}
        if parts:
            told[key] = json.dumps(parts)
    return told


def _prompts(links: Iterable[Association]) -> Iterator[PromptVersionRef]:
    for link in links:
        if link.destination_type == "prompt_version":
            name, _, version = link.destination_id.rpartition("/")
            yield PromptVersionRef(name=name, version=version)


def _decode_archive(data: bytes) -> list[str]:
    """Return the spans of an archive as MLflow's database would hold them.

    Raises:
        ValueError: It is none.
    """
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    archive = TracesData()
    try:
        archive.ParseFromString(data)
    except DecodeError as exc:
        raise ValueError(str(exc)) from exc
    return [
        content_of(MessageToDict(span, preserving_proto_field_name=True))
        for resource in archive.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
