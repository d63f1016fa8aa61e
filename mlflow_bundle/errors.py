"""Every exception raised on purpose, and the exit code each one means.

::

    BundleError                      base of everything we raise on purpose        exit 1
      FormatError                    the bytes are wrong; .path .offset            exit 4
        NotABundleError              no bundle at all
        UnsupportedVersionError      a bundle of a version or capability we lack
        TruncatedError               the end is missing
        CorruptFrameError            a frame, header or checksum is wrong
        DocumentError                a JSON document is wrong; .field_path
        UnsafePathError              a name that could leave the destination
        LimitError                   larger than the reader allows
        SignatureError               reserved for signed bundles
      SelectionError                 the request is wrong or matches nothing       exit 2
      ServerError                    a server refused or is away; .retryable       exit 1
        SourceError                  the server read from
        SinkError                    the server written to
          UnsupportedEntityError     the server's version cannot hold it
          ConflictError              the sink has something different there

The class says who is at fault and carries facts as attributes; ``hint`` is the next step for the
person who reads the message.
"""

from __future__ import annotations

MAKE_ROOM = "make room and give the same command again"
"""What helps where a disk is full."""


class BundleError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        message: One line that names the object at fault.
        hint: The next step, as a command or a sentence; empty when there is none.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class FormatError(BundleError):
    """The bytes of a bundle are wrong.

    Args:
        message: One line that says what is wrong.
        path: Member path or file name at fault, if known.
        offset: Byte offset from the start of the file, if known.
        hint: The next step.
    """

    exit_code = 4

    def __init__(
        self, message: str, *, path: str | None = None, offset: int | None = None, hint: str = ""
    ) -> None:
        where = f"{path}: " if path else ""
        at = f" (at byte {offset})" if offset is not None else ""
        super().__init__(f"{where}{message}{at}", hint=hint)
        self.path = path
        self.offset = offset


class NotABundleError(FormatError):
    """The file is no bundle at all."""


class UnsupportedVersionError(FormatError):
    """The bundle needs a format version or a capability that this reader lacks."""


class TruncatedError(FormatError):
    """The end of the bundle is missing."""


class CorruptFrameError(FormatError):
    """A frame, a header or a checksum is wrong."""


class DocumentError(FormatError):
    """A JSON document does not have the documented names and types.

    Args:
        message: What is wrong with the value.
        path: Member path of the document.
        field_path: Path of the field inside it, e.g. ``metrics["loss"][12].step``.
        hint: The next step.
    """

    def __init__(
        self, message: str, *, path: str | None = None, field_path: str = "", hint: str = ""
    ) -> None:
        super().__init__(
            f"{field_path}: {message}" if field_path else message, path=path, hint=hint
        )
        self.field_path = field_path


class UnsafePathError(FormatError):
    """A member name could leave the destination or cannot be held safely."""


class LimitError(FormatError):
    """Something is larger than the limits that this reader was given."""


class SignatureError(FormatError):
    """A signature is wrong; reserved for signed bundles."""


class SelectionError(BundleError):
    """The request is wrong or matches nothing."""

    exit_code = 2


class ServerError(BundleError):
    """A server refused a request or could not be reached.

    Args:
        message: One line that names the request or object.
        retryable: Whether the same request may succeed later.
        status: HTTP status code, or None when the server was not reached.
        error_code: MLflow's error code, e.g. ``RESOURCE_DOES_NOT_EXIST``.
        hint: The next step.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        status: int | None = None,
        error_code: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable
        self.status = status
        self.error_code = error_code


class SourceError(ServerError):
    """The server read from failed."""


class SinkError(ServerError):
    """The server written to failed."""


class UnsupportedEntityError(SinkError):
    """The server's version cannot hold this kind of entity."""


class ConflictError(SinkError):
    """The sink holds something different under the same name or id."""
