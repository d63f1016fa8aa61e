"""The ``.mlbundle`` file format: bytes only; no MLflow, no command line, no database.

A bundle is a tar archive in zstd frames that stock tools extract, with an index, checkpoints and
digests in frames that they pass over. ``spec/FORMAT.md`` describes every byte. The modules, from
the bytes up:

====================  ============================================================================
``limits``            the sizes we write and the limits a reader enforces
``paths``             member paths: order, safety, escaping
``member``            the record of one member
``frames``            zstd frames, skippable frames, trailer, seek table
``tar``               the one tar rendering of a member
``index``             group headers, nodes and the root as checked msgpack
``header``            the first frame
``content``           members out of frames, checked against the index
``writer``            members in, bundle out; with ``dedup`` and ``output``
``reader``            random access; with ``source``; ``verify`` reads everything
``stream``            one pass without seeking
``recovery``          what is whole in an unfinished or damaged file
====================  ============================================================================
"""

from __future__ import annotations

from mlflow_bundle.archive.content import VoidMemberError
from mlflow_bundle.archive.frames import FORMAT_NAME, FORMAT_VERSION
from mlflow_bundle.archive.limits import DEFAULT_LIMITS, Limits
from mlflow_bundle.archive.member import Member
from mlflow_bundle.archive.paths import (
    HEADER_PATH,
    escape_component,
    escape_path,
    hashed_component,
    order_key,
    unescape_component,
    unescape_path,
    validate_path,
)
from mlflow_bundle.archive.reader import ArchiveReader, VerifyResult
from mlflow_bundle.archive.recovery import RecoverResult, Scan, recover, scan_groups
from mlflow_bundle.archive.stream import StreamReader
from mlflow_bundle.archive.writer import ArchiveWriter, FinishedBundleError, ShortReadError

__all__ = [
    "DEFAULT_LIMITS",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "HEADER_PATH",
    "ArchiveReader",
    "ArchiveWriter",
    "FinishedBundleError",
    "Limits",
    "Member",
    "RecoverResult",
    "Scan",
    "ShortReadError",
    "StreamReader",
    "VerifyResult",
    "VoidMemberError",
    "escape_component",
    "escape_path",
    "hashed_component",
    "order_key",
    "recover",
    "scan_groups",
    "unescape_component",
    "unescape_path",
    "validate_path",
]
