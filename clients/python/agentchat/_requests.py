"""Building requests: what cannot be sent is refused here, as the server would refuse it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from agentchat.exceptions import FieldViolation, InvalidArgumentError

P = ParamSpec("P")
R = TypeVar("R")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# What protobuf's int32 holds.
_MAX_PAGE_SIZE = 2**31 - 1
# How deep the server takes metadata. protobuf itself fails on a Struct of twice that.
_MAX_DEPTH = 16


def build(message_type: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Makes a request. Raises `InvalidArgumentError` for a value that its field cannot hold."""
    try:
        return message_type(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"cannot send this: {error}", reason="FIELD_INVALID") from error


def page_size(limit: int) -> int:
    """Checks how many things a page may hold: 1 or more; the server knows the most."""
    if not 1 <= limit <= _MAX_PAGE_SIZE:
        raise refused("limit", "must be 1 or more")
    return limit


def timestamp(moment: datetime | None, field: str) -> Timestamp | None:
    """A moment, exact to the microsecond; None stays absent. It needs a time zone."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise refused(field, "needs a time zone, as datetime.now(UTC) has one")
    seconds, microseconds = divmod((moment - _EPOCH) // _MICROSECOND, 1_000_000)
    return Timestamp(seconds=seconds, nanos=microseconds * 1000)


def duration(length: timedelta | None) -> Duration | None:
    """A length of time, exact to the microsecond; None stays absent."""
    if length is None:
        return None
    converted = Duration()
    converted.FromTimedelta(length)
    return converted


def struct(value: Mapping[str, Any] | None) -> Struct | None:
    """A JSON object; None stays absent.

    JSON as protobuf has it knows one kind of number: integers beyond 2^53 lose their last digits.
    """
    if value is None:
        return None
    _check_json(value, "metadata", 1)
    converted = Struct()
    try:
        converted.update(value)
    except (TypeError, ValueError) as error:
        raise refused("metadata", f"is no JSON: {error}") from error
    return converted


def message_metadata(metadata: Mapping[str, Any] | None, project: str | None) -> Struct | None:
    """Metadata of a message: they say the client's project unless they say another."""
    if project is not None:
        metadata = {"project": project, **(metadata or {})}
    return struct(metadata)


def new_request_id() -> str:
    """An id that makes a call safe to repeat."""
    return str(uuid.uuid4())


def names(value: str | Iterable[str] | None) -> list[str]:
    """A list of names; one alone may stand for a list of one."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def refused(field: str, problem: str) -> InvalidArgumentError:
    """The exception for an argument that breaks a rule."""
    return InvalidArgumentError(
        f"{field}: {problem}", reason="FIELD_INVALID", violations=[FieldViolation(field, problem)]
    )


def _check_json(value: object, path: str, depth: int) -> None:
    """Refuses what JSON does not know, before it becomes something else on the way."""
    if value is None or isinstance(value, bool | int | str):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise refused("metadata", f"{path} is {value}, which JSON does not know")
    elif isinstance(value, Mapping | list | tuple):
        if depth > _MAX_DEPTH:
            raise refused("metadata", f"must be nested at most {_MAX_DEPTH} levels deep")
        if isinstance(value, Mapping):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise refused("metadata", f"a key in {path} is no string")
                _check_json(item, f"{path}.{key}", depth + 1)
        else:
            for index, item in enumerate(value):
                _check_json(item, f"{path}[{index}]", depth + 1)
    else:
        raise refused("metadata", f"{path} is a {type(value).__name__}, which JSON does not know")
