"""What a client may send, and what makes two events the same error. Pure functions: no database, no network."""

import hashlib
import json
import math
import re
import uuid
from typing import Any, NoReturn

LEVELS = ("debug", "info", "warning", "error", "fatal")
MAX_TYPE = 200
MAX_MESSAGE = 8192

# What PostgreSQL's text cannot hold: NUL, and halves of surrogate pairs.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

VARIABLE_PARTS = re.compile(
    r"""
      [0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}    # a UUID
    | 0x[0-9a-f]+                                    # an address in memory
    | \b(?=[0-9a-f]*[0-9])[0-9a-f]{8,}\b             # a hash
    | \d+(?:[.,:]\d+)*                               # a number, a version, an IP address, a time
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


class BadEvent(ValueError):
    """The event cannot be taken; the message says why, in words for the client."""


def _refuse_constant(name: str) -> NoReturn:
    raise BadEvent(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadEvent(f"the number {text[:40]} is too large")
    return number


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value


def _text(payload: dict[str, Any], key: str, limit: int) -> str:
    value = payload.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadEvent(f"'{key}' must be a string")
    if len(value) > limit:
        raise BadEvent(f"'{key}' is longer than {limit} characters")
    return value.strip()


def _event_id(text: str) -> uuid.UUID:
    if not text:
        return uuid.uuid4()
    try:
        return uuid.UUID(text)
    except ValueError:
        raise BadEvent("'id' must be a UUID") from None


def parse_event(body: bytes) -> dict[str, Any]:
    """The fields of an event from a request's body; raises BadEvent."""
    try:
        payload = _storable(json.loads(body, parse_constant=_refuse_constant, parse_float=_finite))
    except BadEvent:
        raise
    except RecursionError:
        raise BadEvent("the body is nested too deeply") from None
    except ValueError as error:
        raise BadEvent(f"the body is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise BadEvent("the body must be a JSON object")

    message = _text(payload, "message", MAX_MESSAGE)
    if not message:
        raise BadEvent("'message' is missing")
    level = _text(payload, "level", 10) or "error"
    if level not in LEVELS:
        raise BadEvent(f"'level' must be one of {', '.join(LEVELS)}")
    extra = payload.get("extra") or {}
    if not isinstance(extra, dict):
        raise BadEvent("'extra' must be an object")
    explicit = payload.get("fingerprint") or []
    if isinstance(explicit, str):
        explicit = [explicit]
    if not (isinstance(explicit, list) and all(isinstance(part, str) for part in explicit)):
        raise BadEvent("'fingerprint' must be a string or a list of strings")
    error_type = _text(payload, "type", MAX_TYPE)
    return {
        "id": _event_id(_text(payload, "id", 64)),
        "type": error_type,
        "message": message,
        "level": level,
        "stacktrace": _text(payload, "stacktrace", 65536),
        "extra": extra,
        "fingerprint": fingerprint(error_type, message, explicit),
    }


def normalise(message: str) -> str:
    """The message's first line without what differs from one occurrence to the next."""
    return VARIABLE_PARTS.sub("<n>", message.splitlines()[0].strip() if message else "")


def fingerprint(error_type: str, message: str, explicit: list[str] | None = None) -> str:
    """The same for two events that are the same error: what the client says, else type and normalised message."""
    parts = ["explicit", *explicit] if explicit else ["derived", error_type, normalise(message)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
