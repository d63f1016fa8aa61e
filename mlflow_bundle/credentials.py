"""What we write holds no credential: user info and signatures are masked in URI-valued fields.

Where MLflow keeps configuration as JSON (MCP servers, secrets of the gateway), values that are
named as a credential are masked too. Params, other tags and artifacts are the user's data and
travel unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

RecordT = TypeVar("RecordT", bound=msgspec.Struct)

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

MASK = "***"
_SECRET_PARAMETERS = frozenset(
    {
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "awsaccesskeyid",
        "client_secret",
        "code",
        "key",
        "password",
        "secret",
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

_SECRET_PATH = re.compile(
    r"hooks\.slack\.com/services/|discord(?:app)?\.com/api/webhooks/|\.webhook\.office\.com/webhook"
)
"""Services whose webhook URLs end with what only their owner may know."""

_SECRET_NAME = re.compile(
    r"(?:authorization|cookie|api_?key|access_?key|secret_?key|private_?key|token|secret"
    r"|passw(?:or)?d|passphrase|credentials?|bearer|jwt)$",
    re.IGNORECASE,
)
"""A field of this name, written in any case, holds a credential."""

_SECRET_VARIABLE = re.compile(r"(?:[A-Z0-9]+_)*(?:KEY|TOKEN|SECRET|PASSWORD|PAT)")
"""An environment variable of this name holds a credential."""

_SECRET_FLAG = re.compile(r"(--[\w-]*(?:key|token|secret|password)=)(\S+)", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+)([^\s\"',]+)", re.IGNORECASE
)
_HEADER = re.compile(
    r"(\b(?:authorization|cookie|(?:[a-z]+-)+(?:key|token|secret|password|auth))[\"']?\s*:\s*[\"']?)"
    r"((?=\S*\d)[^\s\"',]+)",
    re.IGNORECASE,
)
"""A header inside a text; what follows the name in prose has no digit."""
_WHOLE_HEADER = re.compile(r"([A-Za-z][\w-]*)(\s*:\s*)(\S+(?:\s+\S+)?)")
"""A text that is a header, as a word of a command line; longer ones are prose."""
_ASSIGNMENT = re.compile(
    r"(?:(?<![\w.?&#-])|(?<=^-e)|(?<=\s-e))([A-Za-z_]\w*)(=[\"']?)(<[^<>]*>|[^\s\"']+)"
)
"""``API_TOKEN=abc``, as arguments give environment variables."""
_BEARER = re.compile(r"(\bbearer\s+)((?=\S*\d)[\w.~+/=-]{8,})", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\$?\{[^{}]*\}|\$\w+|<[^<>]*>|\b(?:bearer|basic|token|none|null)\b|\*+|[\s;,]", re.IGNORECASE
)
"""What of a value says where a credential belongs, and is none: ``Bearer {api_key}``."""

_VALUE_FIELDS = ("value", "default", "choices", "variables")
"""Where an object with a ``name`` keeps its value (MCP's ``server.json``)."""

_DESCRIBING = re.compile(
    r"description|enum|format|is[A-Z]\w+|name|pattern|placeholder|required|scopes?|title|\$\w+"
    r"|\w*(?:[Tt]ype|[Uu]r[il])"
)
"""Fields of an object under a credential's name that tell what it is (JSON Schema, MCP, OAuth)."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>\\\\]+")


_DATABASE_LOGIN = re.compile(
    r"((?:postgres(?:ql)?|mysql|mariadb|mssql|oracle|sqlite)(?:\+\w+)?://)"
    r"[^:/@]*:[^@]*@(?:[^@/?#]*@)*",
    re.IGNORECASE,
)
"""SQLAlchemy takes passwords that hold any character but ``@``, and people that one too."""


def mask_uris_in(text: str) -> str:
    """Return ``text``, e.g. a dataset's source, with every URI in it masked."""
    return _URI.sub(lambda match: mask_uri(match[0]), text)


def mask_uri(uri: str) -> str:
    """Return ``uri`` without its password and signatures; any other text comes back unchanged.

    ``https://bob:secret@host/x?sig=abc`` becomes ``https://***@host/x?sig=***``.
    """
    if "://" not in uri:
        return uri
    if (match := _DATABASE_LOGIN.match(uri)) is not None:
        uri = f"{match[1]}{MASK}@{uri[match.end() :]}"
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    scheme, _, rest = uri.partition("://")
    if "@" not in parts.netloc and "@" in rest and not _may_be_port(parts):
        # ``http://bob:se/cret@host``: what looks like a port begins a password with a slash in it,
        # or with another character that ends what is before it.
        return mask_uri(f"{scheme}://{MASK}:{MASK}@{rest.rpartition('@')[2]}")
    netloc = parts.netloc
    userinfo, at, host = netloc.rpartition("@")
    # s3://key@bucket is unusual, git@host is not secret: only a password or a lone token is.
    if at and (":" in userinfo or parts.scheme in {"http", "https"}):
        netloc = f"{MASK}@{host}"
    path = parts.path
    if _SECRET_PATH.search(f"{host}{path}"):
        path = f"{path.rstrip('/').rpartition('/')[0]}/{MASK}"
    masked = parts._replace(
        netloc=netloc,
        path=path,
        query=_mask_parameters(parts.query),
        # Where OAuth's implicit flow answers: ``#access_token=abc``.
        fragment=_mask_parameters(parts.fragment),
    )
    return uri if masked == parts else urlunsplit(masked)


def _may_be_port(parts: SplitResult) -> bool:
    try:
        _ = parts.port
    except ValueError:
        return False
    return True


def _mask_parameters(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    if not any(name.lower() in _SECRET_PARAMETERS for name, _ in pairs):
        return query
    masked = [
        (name, MASK if name.lower() in _SECRET_PARAMETERS else value) for name, value in pairs
    ]
    return urlencode(masked, safe="*/:")


def mask_json(text: str) -> str:
    """Return JSON ``text`` without the credentials in it; unchanged where there are none.

    Masked are values named as a credential (``api_key``, ``Authorization``, ``{"name":
    "GITHUB_TOKEN", "value": …}``), lists and objects of that name included, those that say so
    (``isSecret``), values of command line flags, environment variables and headers inside texts,
    and what :func:`mask_uri` masks. A value that only says where a credential belongs
    (``Bearer {api_key}``), and what describes one, stays.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return _mask_text(text)
    masked = _mask_value(value)
    return text if masked == value else json.dumps(masked, ensure_ascii=False)


def _mask_value(value: Any) -> Any:
    if isinstance(value, str):
        return _mask_text(value)
    if isinstance(value, list):
        return [_mask_after_flag(value, i) for i in range(len(value))]
    if isinstance(value, dict):
        return {key: _mask_field(key, field, value) for key, field in value.items()}
    return value


def _mask_after_flag(values: list[Any], index: int) -> Any:
    """Mask a word of a command line that follows ``--token``."""
    before = values[index - 1] if index else None
    if isinstance(before, str) and before.startswith("--") and _is_secret_name(before):
        return _mask_secret(values[index])
    return _mask_value(values[index])


def _mask_field(key: str, field: Any, owner: dict[str, Any]) -> Any:
    names = (owner.get("name"), owner.get("valueHint"))
    if key in _VALUE_FIELDS and (
        owner.get("isSecret") is True
        or any(isinstance(name, str) and _is_secret_name(name) for name in names)
    ):
        return _mask_secret(field)
    return _mask_secret(field) if _is_secret_name(key) else _mask_value(field)


def _is_secret_name(name: str) -> bool:
    plain = name.replace("-", "_")
    return bool(_SECRET_NAME.search(plain) or _SECRET_VARIABLE.fullmatch(plain))


def _mask_secret(value: Any) -> Any:
    """Mask every text of a value that is a credential, or holds some."""
    if isinstance(value, str):
        return _masked_credential(value)
    if isinstance(value, list):
        return [_mask_secret(entry) for entry in value]
    if isinstance(value, dict):
        return {
            key: _mask_value(field) if _DESCRIBING.fullmatch(key) else _mask_secret(field)
            for key, field in value.items()
        }
    return value


def _masked_credential(text: str) -> str:
    return MASK if _PLACEHOLDER.sub("", text) else text


def _mask_text(text: str) -> str:
    text = mask_uris_in(text)
    for pattern in (_SECRET_FLAG, _AUTHORIZATION, _BEARER, _HEADER):
        text = pattern.sub(lambda match: match[1] + _masked_credential(match[2]), text)
    whole = _WHOLE_HEADER.fullmatch(text)
    if whole is not None:
        return _mask_named(whole)
    return _ASSIGNMENT.sub(_mask_named, text)


def _mask_named(match: re.Match[str]) -> str:
    """Mask what follows a name, where that is a credential's."""
    if not _is_secret_name(match[1]):
        return match[0]
    return match[1] + match[2] + _masked_credential(match[3])


def mask_record(record: RecordT, adjust: Callable[[str], None]) -> RecordT:
    """Return a record of `kinds`, or an item of one, without credentials.

    Args:
        record: Its class says in ``uri_fields`` which fields are URIs, in ``text_fields`` which are
            texts with URIs in them, and in ``json_fields`` which are JSON texts of configuration;
            records inside lists are masked as well.
        adjust: Told of each field that was masked.
    """
    changes: dict[str, Any] = {}
    for names, mask in (
        (getattr(record, "uri_fields", ()), mask_uri),
        (getattr(record, "text_fields", ()), mask_uris_in),
        (getattr(record, "json_fields", ()), mask_json),
    ):
        for name in names:
            value = getattr(record, name)
            if value and (masked := mask(value)) != value:
                changes[name] = masked
                adjust(f"{name} (credentials masked)")
    for name in record.__struct_fields__:
        values = getattr(record, name)
        if isinstance(values, list) and values and isinstance(values[0], msgspec.Struct):
            masked_values = [
                mask_record(value, lambda field, name=name: adjust(f"{name}.{field}"))  # type: ignore[misc]
                for value in values
            ]
            if masked_values != values:
                changes[name] = masked_values
    return msgspec.structs.replace(record, **changes) if changes else record
