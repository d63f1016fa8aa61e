"""The small server of the transfer tests, for the commands that need a server."""

from tests.transfer.conftest import (  # noqa: F401
    small,
    small_bundle,
    small_server,
    small_snapshot,
)
