"""Checks of request fields. Each returns the value in the form that the code works with, or raises
`InvalidField` with the field's name and a sentence that says what would be right."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from agentchat_server.refusals import InvalidField

MAX_CONTENT = 32_000
MAX_METADATA_BYTES = 4 * 1024
# protobuf refuses to read a message that is nested deeper than 100, and a level of JSON takes up to three.
MAX_METADATA_DEPTH = 16
MAX_DESCRIPTION = 500
MAX_QUERY = 500
MAX_FILE_NAME = 255
MAX_CONTENT_TYPE = 255

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,99}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)
# type/subtype and parameters, as RFC 9110 has them: only visible ASCII, so nothing that ends a header.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a word of RFC 9110
_MEDIA_TYPE = re.compile(
    rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"(?:[ !#-\[\]-~]|\\[ -~])*"))*', re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_name(value: str) -> bool:
    """Whether a string can be the name of a machine, an agent or a channel."""
    return _NAME.fullmatch(value) is not None


def name(field: str, value: str) -> str:
    """The name of a machine, an agent or a channel."""
    if not is_name(value):
        if not value:
            raise InvalidField(field, "required")
        raise InvalidField(
            field,
            "must be 2 to 100 lower-case letters, digits and hyphens, not starting with a hyphen",
        )
    return value


def uuid(field: str, value: str) -> UUID:
    """A UUID in its usual form, 8-4-4-4-12 hex digits."""
    if not _UUID.fullmatch(value):
        raise InvalidField(field, "required" if not value else "must be a UUID")
    return UUID(value)


def text(field: str, value: str, limit: int) -> str:
    """A text of at most `limit` characters, possibly empty, that Postgres can hold."""
    if "\x00" in value:
        raise InvalidField(field, "must not contain NUL characters")
    if len(value) > limit:
        raise InvalidField(field, f"must be at most {limit:,} characters, not {len(value):,}")
    return value


def content(value: str) -> str:
    """The content of a message."""
    text("content", value, MAX_CONTENT)
    if not value or value.isspace():
        raise InvalidField("content", f"must be 1 to {MAX_CONTENT:,} characters, not only white space")
    return value


def query(value: str) -> str:
    """A search query."""
    text("query", value, MAX_QUERY)
    if not value or value.isspace():
        raise InvalidField("query", f"must be 1 to {MAX_QUERY} characters, not only white space")
    return value


def file_name(value: str) -> str:
    """The name of a file, as it is kept. What a path makes of it is `files.safe_name`."""
    if not value or value.isspace() or len(value) > MAX_FILE_NAME:
        raise InvalidField("name", f"must be 1 to {MAX_FILE_NAME} characters, not only white space")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise InvalidField("name", "must not contain control characters")
    return value


def content_type(value: str) -> str:
    """A media type, `application/octet-stream` when none is stated."""
    if not value:
        return "application/octet-stream"
    if len(value) > MAX_CONTENT_TYPE or not _MEDIA_TYPE.fullmatch(value):
        raise InvalidField(
            "content_type",
            f"must be a media type, such as text/plain, of at most {MAX_CONTENT_TYPE} characters",
        )
    return value


def sha256(value: str) -> bytes | None:
    """A SHA-256 in hex; None for none."""
    if not value:
        return None
    if not _SHA256.fullmatch(value):
        raise InvalidField("sha256", "must be 64 hex digits")
    return bytes.fromhex(value)


def page_size(value: int, *, default: int, maximum: int) -> int:
    """How many rows a page has at most."""
    if value < 0 or value > maximum:
        raise InvalidField("page_size", f"must be 1 to {maximum}, or 0 for the default of {default}")
    return value or default


def moment(field: str, value: Timestamp) -> datetime:
    """A point in time, in UTC, cut to microseconds."""
    if not 0 <= value.nanos < 1_000_000_000:
        raise InvalidField(field, "must be a valid timestamp")
    try:
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    except OverflowError:
        raise InvalidField(field, "must be between the years 1 and 9999") from None


def upper_bound(field: str, value: Timestamp) -> datetime:
    """A point in time that everything before it is wanted of, in UTC, rounded up to microseconds.

    What Postgres knows to the microsecond is before a moment exactly when it is before this one.
    """
    cut = moment(field, value)
    return cut if value.nanos % 1000 == 0 else just_after(cut)


def just_after(value: datetime) -> datetime:
    """The next microsecond: before it is everything up to `value`. The last moment there is stays."""
    try:
        return value + timedelta(microseconds=1)
    except OverflowError:
        return value


def duration(field: str, value: Duration, *, least: timedelta, most: timedelta) -> timedelta:
    """A span of time."""
    try:
        span = timedelta(seconds=value.seconds, microseconds=value.nanos / 1000)
    except OverflowError:
        span = timedelta.max
    if not least <= span <= most:
        raise InvalidField(field, f"must be between {_spoken(least)} and {_spoken(most)}")
    return span


def metadata(value: Struct) -> str:
    """A message's metadata, as JSON. Whole numbers are written without a fraction."""
    plain = _plain_struct(value, 1)
    try:
        encoded = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise InvalidField("metadata", "numbers must be finite") from None
    # Postgres writes numbers out: 1e300 has 301 digits there.
    if len(encoded.encode()) + _exponents(plain) > MAX_METADATA_BYTES:
        raise InvalidField("metadata", f"must be at most {MAX_METADATA_BYTES:,} bytes as JSON")
    return encoded


def _plain_struct(value: Struct, depth: int) -> dict[str, Any]:
    if depth > MAX_METADATA_DEPTH:
        raise InvalidField("metadata", f"must be nested at most {MAX_METADATA_DEPTH} levels deep")
    return {_plain_text(key): _plain(field, depth) for key, field in value.fields.items()}


def _plain_text(value: str) -> str:
    if "\x00" in value:
        raise InvalidField("metadata", "must not contain NUL characters")
    return value


def _plain(value: Value, depth: int) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return (
                int(number)
                if math.isfinite(number) and number.is_integer() and abs(number) < 2**53
                else number
            )
        case "string_value":
            return _plain_text(value.string_value)
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _plain_struct(value.struct_value, depth + 1)
        case "list_value":
            if depth >= MAX_METADATA_DEPTH:
                raise InvalidField("metadata", f"must be nested at most {MAX_METADATA_DEPTH} levels deep")
            return [_plain(item, depth + 1) for item in value.list_value.values]
        case _:
            return None


def _exponents(value: Any) -> int:
    """The sum of the decimal exponents of all numbers that are written with one."""
    match value:
        case dict():
            return sum(_exponents(item) for item in value.values())
        case list():
            return sum(_exponents(item) for item in value)
        case float():
            return abs(int(repr(value).partition("e")[2] or 0))
        case _:
            return 0


def _spoken(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, size in (("day", 86_400), ("hour", 3_600)):
        if seconds >= size and seconds % size == 0:
            return _counted(seconds / size, unit)
    return _counted(seconds, "second")


def _counted(number: float, unit: str) -> str:
    return f"{number:g} {unit}" if number == 1 else f"{number:g} {unit}s"
