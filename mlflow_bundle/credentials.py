"""What we write holds no credential: user info and signatures are masked in URI-valued fields.

Params, other tags and artifacts are the user's data and travel unchanged.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

URI_TAGS = frozenset(
    {
        "mlflow.databricks.gitRepoUrl",
        "mlflow.gitRepoURL",
        "mlflow.project.env",
        "mlflow.source.git.repoURL",
        "mlflow.source.name",
    }
)
"""Tags of MLflow whose value is, or may be, a URI that carries credentials."""

_MASK = "***"
_SECRET_PARAMETERS = frozenset(
    {
        "access_token",
        "awsaccesskeyid",
        "password",
        "sig",
        "signature",
        "token",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-credential",
        "x-goog-signature",
    }
)


_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>\\\\]+")


def mask_uris_in(text: str) -> str:
    """Return ``text``, e.g. a dataset's source, with every URI in it masked."""
    return _URI.sub(lambda match: mask_uri(match[0]), text)


def mask_uri(uri: str) -> str:
    """Return ``uri`` without its password and signatures; any other text comes back unchanged.

    ``https://bob:secret@host/x?sig=abc`` becomes ``https://***@host/x?sig=***``.
    """
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    netloc = parts.netloc
    userinfo, at, host = netloc.rpartition("@")
    # s3://key@bucket is unusual, git@host is not secret: only a password or a lone token is.
    if at and (":" in userinfo or parts.scheme in {"http", "https"}):
        netloc = f"{_MASK}@{host}"
    query = parts.query
    pairs = parse_qsl(query, keep_blank_values=True)
    if any(name.lower() in _SECRET_PARAMETERS for name, _ in pairs):
        masked = [
            (name, _MASK if name.lower() in _SECRET_PARAMETERS else value) for name, value in pairs
        ]
        query = urlencode(masked, safe="*/:")
    if (netloc, query) == (parts.netloc, parts.query):
        return uri
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))
