"""Makes something once, also where the answer that it was made gets lost.

So it does when a server restarts, or a proxy in front of it gives up waiting. The server may have
made it or not: it is looked for by what tells where it comes from, and else asked for again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mlflow_bundle import provenance
from mlflow_bundle.errors import ServerError
from mlflow_bundle.rest.session import Session

MadeT = TypeVar("MadeT")


def made_once(make: Callable[[], MadeT], find: Callable[[], MadeT | None]) -> MadeT:
    """Make something and return what the server says of it.

    Args:
        make: Asks for it, once (`Session.request`).
        find: Looks whether it is there.

    Raises:
        ServerError: The server refused, or cannot be reached.
    """
    try:
        return make()
    except ServerError as exc:
        if exc.status is None or not exc.retryable:
            raise
        found = find()
        return make() if found is None else found


def search_origin(
    session: Session, endpoint: str, experiment_id: str, origin: str, **options: Any
) -> Any:
    """Return the page of a search in one experiment for what has an origin.

    None where no filter can say it.

    Args:
        session: The server.
        endpoint: Of the search.
        experiment_id: Where it was to be made.
        origin: Of what was to be made.
        options: As of ``Session.call``.

    Raises:
        ServerError: The server refused, or cannot be reached.
    """
    if "'" in origin:
        return None
    body = {
        "experiment_ids": [experiment_id],
        "filter": f"tags.`{provenance.ORIGIN}` = '{origin}'",
        "max_results": 1,
    }
    return session.post(endpoint, body, **options)
