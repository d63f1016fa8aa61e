"""What a transfer tells about its progress, whoever listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one command. Every method may be called from any thread."""

    def start(
        self, description: str, total_objects: int | None = None, total_bytes: int | None = None
    ) -> None:
        """Begin a phase and end the one before it.

        Args:
            description: What the phase does, e.g. ``exporting runs``.
            total_objects: Entities to come, if known.
            total_bytes: Bytes to come, if known.
        """

    def advance(self, objects: int = 0, bytes: int = 0) -> None:
        """Count what has been done since the last call."""

    def message(self, text: str) -> None:
        """Show one line that stays."""

    def close(self) -> None:
        """End the last phase. May be called twice; nothing is shown afterwards."""


class SilentProgress:
    """Shows nothing."""

    def start(
        self, description: str, total_objects: int | None = None, total_bytes: int | None = None
    ) -> None:
        return

    def advance(self, objects: int = 0, bytes: int = 0) -> None:
        return

    def message(self, text: str) -> None:
        return

    def close(self) -> None:
        return
