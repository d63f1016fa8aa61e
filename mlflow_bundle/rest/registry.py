"""The registry of a server as records: a listing of models and one of prompts, in few pages."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from mlflow_bundle.entities import PROMPT_TAG, ModelVersion, Prompt, RegisteredModel
from mlflow_bundle.rest import records
from mlflow_bundle.rest.session import API, Session, since

_MODELS_PER_PAGE = 1000
_VERSIONS_PER_PAGE = 10_000


def list_registry(
    session: Session, version: tuple[int, ...], pool: Executor
) -> dict[str, RegisteredModel]:
    """Return every registered model and prompt by name, with all versions that are not deleted.

    Args:
        session: The server.
        version: Its version.
        pool: Runs the listings side by side.

    Raises:
        ServerError: The server refused.
    """
    filters: list[str | None] = [None]
    if since(version, 2, 21):
        # Listings leave prompts out unless they are asked for.
        filters.append(f"tag.`{PROMPT_TAG}` = 'true'")
    listed = list(pool.map(lambda filter: _search_models(session, filter), filters))
    versions: dict[str, dict[int, ModelVersion]] = {}
    for found in pool.map(lambda filter: _search_versions(session, filter), filters):
        for model_version in found:
            versions.setdefault(model_version.name, {})[model_version.version] = model_version
    models: dict[str, RegisteredModel] = {}
    for model in (model for found in listed for model in found):
        record = Prompt if model.tag_dict.get(PROMPT_TAG) == "true" else RegisteredModel
        numbers = versions.get(model.name, {})
        models[model.name] = record(
            name=model.name,
            description=model.description,
            tags=dict(sorted(model.tag_dict.items())),
            aliases={entry.alias: int(entry.version) for entry in model.aliases},
            creation_timestamp=records.to_int(model.creation_timestamp),
            last_updated_timestamp=records.to_int(model.last_updated_timestamp),
            versions=[numbers[number] for number in sorted(numbers)],
        )
    return models


def _search_models(session: Session, filter: str | None) -> list[records.RestRegisteredModel]:
    query: dict[str, Any] = {"max_results": _MODELS_PER_PAGE}
    if filter:
        query["filter"] = filter
    pages = session.iter_pages(
        "GET",
        f"{API}registered-models/search",
        query,
        type=records.RestRegisteredModels,
        what="registered models",
    )
    return [model for page in pages for model in page.registered_models]


def _search_versions(session: Session, filter: str | None) -> list[ModelVersion]:
    query: dict[str, Any] = {"max_results": _VERSIONS_PER_PAGE}
    if filter:
        query["filter"] = filter
    pages = session.iter_pages(
        "GET",
        f"{API}model-versions/search",
        query,
        type=records.RestModelVersions,
        what="model versions",
    )
    return [version.record() for page in pages for version in page.model_versions]
