"""Reads traces: of deleted experiments too, with their spans wherever the server keeps them.

Spans in the tracking store and archived ones come in batches. A batch that the server cannot give,
and what is missing in one (a trace that is still growing), is asked for trace by trace. Spans that
lie in a trace's artifacts (``traces.json``) travel as that file.

Batches keep the values of attributes and not their text: ``{"a":1}`` comes as ``{"a": 1}``, and of
a key that is repeated the last value. The answer for a single trace has the text, at 5 to 10 times
the cost where traces have one span (MLflow 3.17).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import msgspec

from mlflow_bundle.contracts import ArtifactTree
from mlflow_bundle.entities import PlainEntity
from mlflow_bundle.errors import ServerError
from mlflow_bundle.kinds.traces import (
    ARCHIVE_REPO,
    ARTIFACT_LOCATION,
    LINKED_PROMPTS,
    TRACE,
    TRACE_DATA,
    TRACKING_STORE,
    PromptVersionRef,
    Span,
    Trace,
)
from mlflow_bundle.rest.artifacts import ArtifactOwner, proxy_root
from mlflow_bundle.rest.readers.base import Chosen, Fetched, Reader, Reading
from mlflow_bundle.rest.readers.trace_links import TraceLinks
from mlflow_bundle.rest.readers.trace_search import EXPERIMENTS_PER_SEARCH, TraceSearch
from mlflow_bundle.rest.session import AJAX, API, API_3
from mlflow_bundle.rest.trace_records import RestSpans, RestTracesV2
from mlflow_bundle.spans import content_of, dumps

_EXPERIMENTS_PER_SEARCH_V2 = 20
_TRACES_PER_PAGE_V2 = 500
_ATTACHMENT = re.compile(r"mlflow-attachment://([^?/\"\\\s]+)")


class TraceReader(Reader):
    """Reads traces."""

    kind = TRACE
    first = (2, 14)
    in_files = "always"
    batch_size = 50

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading)
        self._links = TraceLinks(reading)
        self.attachments: dict[str, tuple[str, ...]] = {}
        """Attachments that spans name, by trace, until their tree was asked for."""

    def select(self, chosen: Chosen) -> Iterator[PlainEntity]:
        if not self._from.since(*self.first):
            return
        holders: set[str] = set()
        prompts: set[str] = set(chosen.prompt_versions)
        for trace in self._list([e.experiment_id for e in chosen.experiments]):
            holders.add(trace.experiment_id)
            prompts.update(_prompts_named(trace))
            yield trace
        if holders and self._from.since(3, 3):
            self._links.read(
                sorted(holders),
                (run.id for run in chosen.runs()),  # whatever their experiments are
                sorted(prompts) if self._from.since(3, 7) else (),
            )

    def _list(self, experiment_ids: list[str]) -> Iterator[Trace]:
        step = EXPERIMENTS_PER_SEARCH if self._from.since(3, 2) else _EXPERIMENTS_PER_SEARCH_V2
        for start in range(0, len(experiment_ids), step):
            yield from self._list_some(experiment_ids[start : start + step])

    def _list_some(self, experiment_ids: list[str]) -> Iterator[Trace]:
        """Yield the traces of some experiments; one that may not be read loses its own alone."""
        search = self._search if self._from.since(3, 2) else self._search_v2
        try:
            yield from search(experiment_ids)
        except ServerError as exc:
            if len(experiment_ids) == 1 or exc.status is None:
                self._lose_all(exc, experiment_ids[0])
                return
            for experiment_id in experiment_ids:
                yield from self._list_some([experiment_id])

    def _search(self, experiment_ids: list[str]) -> Iterator[Trace]:
        search = TraceSearch(self._from.session, what="traces", unreadable=self._lose_unknown)
        for page in search.pages(experiment_ids):
            for trace in page:
                yield trace.record()

    def _lose_unknown(self, experiment_id: str, number: int, error: ServerError) -> None:
        self._from.lose(
            Trace.kind,
            "unknown",
            f"the server cannot tell trace {number} of the experiment in order of time: "
            f"{error.message}",
            parent=experiment_id,
        )

    def _search_v2(self, experiment_ids: list[str]) -> Iterator[Trace]:
        query = {
            "experiment_ids": experiment_ids,
            "max_results": _TRACES_PER_PAGE_V2,
            "order_by": ["timestamp_ms ASC"],
        }
        for page in self._from.session.iter_pages(
            "GET", f"{API}traces", query, type=RestTracesV2, what="traces"
        ):
            for trace in page.traces:
                yield trace.record()

    def start(self, entities: list[PlainEntity]) -> Fetched:
        return _FetchedTraces(self, self._from, [e for e in entities if isinstance(e, Trace)])

    def with_links(self, trace: Trace) -> Trace:
        """Return a trace with what it is linked to."""
        names = (name.rpartition("/") for name in self._links.of(trace.id, "prompt"))
        return msgspec.structs.replace(
            trace,
            run_ids=self._links.of(trace.id, "run"),
            prompts=[PromptVersionRef(name=name, version=version) for name, _, version in names],
        )

    def tree(self, entity: PlainEntity) -> ArtifactTree | None:
        assert isinstance(entity, Trace)
        uri = entity.tags.get(ARTIFACT_LOCATION, "")
        files = self.attachments.pop(entity.id, ())
        if not _in_server(entity):
            files = (TRACE_DATA, *files)
        elif not files and proxy_root(uri) is None:
            # Only attachments lie there: listing each of many directories is spared.
            uri = ""
        return self._from.tree(uri, ArtifactOwner("trace", entity.id, files))


def _in_server(trace: Trace) -> bool:
    """Whether the server gives the spans, from its database or from the archive."""
    return trace.spans_location in (TRACKING_STORE, ARCHIVE_REPO)


def _prompts_named(trace: Trace) -> Iterator[str]:
    try:
        links = json.loads(trace.tags.get(LINKED_PROMPTS, "[]"))
    except ValueError:
        return
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and "name" in link and "version" in link:
            yield f"{link['name']}/{link['version']}"


class _FetchedTraces(Fetched):
    """Spans of some traces."""

    def __init__(self, reader: TraceReader, reading: Reading, traces: list[Trace]) -> None:
        self._reader = reader
        self._from = reading
        self._traces = traces
        self._spans: dict[str, list[str]] = {}
        self._failures: dict[str, str] = {}
        ids = [trace.id for trace in traces if _in_server(trace)]
        self._batch: Future[dict[str, list[str]]] | None = None
        if ids:
            self._batch = reading.pool.submit(self._read_batch, ids)
        self._wanted = ids

    def _read_batch(self, ids: list[str]) -> dict[str, list[str]]:
        try:
            answer = self._from.session.get(
                f"{API_3}traces/batchGet",
                params=[("trace_ids", id) for id in ids],
                what=f"spans of {len(ids)} traces",
                once=True,
            )
            return {
                trace["trace_info"]["trace_id"]: [
                    content_of(span) for span in trace.get("spans") or ()
                ]
                for trace in answer.get("traces") or ()
            }
        except ServerError as exc:
            if exc.status is None:
                raise
            # One trace that cannot be read spoils the whole batch.
            return {}

    def _read_one(self, id: str) -> list[str] | ServerError:
        try:
            answer: RestSpans = self._from.session.get(
                f"{AJAX}get-trace-artifact",
                params={"request_id": id},
                type=RestSpans,
                what=f"spans of trace {id}",
            )
        except ServerError as exc:
            if exc.status is None:
                raise
            return exc
        return [dumps(span) for span in answer.spans]

    def wait(self) -> None:
        if self._batch is not None:
            self._spans = self._batch.result()
        missing = [id for id in self._wanted if id not in self._spans]
        for id, spans in zip(missing, self._from.pool.map(self._read_one, missing), strict=True):
            if isinstance(spans, ServerError):
                self._failures[id] = spans.message
            else:
                self._spans[id] = spans
        for id, contents in self._spans.items():
            named = {name for text in contents for name in _ATTACHMENT.findall(text)}
            if named:
                self._reader.attachments[id] = tuple(f"attachments/{n}" for n in sorted(named))

    def entity(self, entity: PlainEntity) -> PlainEntity:
        assert isinstance(entity, Trace)
        return self._reader.with_links(entity)

    def items(self, id: str) -> Iterable[msgspec.Struct]:
        return [Span(content=content) for content in self._spans.get(id, ())]

    def failures(self, id: str) -> list[tuple[str, str]]:
        return [("spans", self._failures[id])] if id in self._failures else []
