"""The call that the present task serves: what its metadata says, and what log lines tell of it.

The outermost interceptor sets it. gRPC gives each call a task of its own, so that a context variable keeps
calls apart; it also reaches the tasks that a call starts.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any

REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Call:
    """A call under way.

    `agent` is the name of the caller, once it is known, `reason` that of the refusal it ends with, and
    `trace_id` that of its trace, when calls are traced.
    """

    __slots__ = ("_request_id", "agent", "metadata", "method", "reason", "trace_id")

    def __init__(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        self.method = method
        self.metadata: dict[str, str | bytes] = dict(metadata)
        self.agent: str | None = None
        self.reason: str | None = None
        self.trace_id: str | None = None
        self._request_id: str | None = None

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id` if it is a plain one, else one made here when it is first asked for."""
        if self._request_id is None:
            stated = self.text(REQUEST_ID_HEADER)
            known = stated is not None and _REQUEST_ID.fullmatch(stated)
            self._request_id = stated if stated is not None and known else secrets.token_hex(8)
        return self._request_id

    def text(self, header: str) -> str | None:
        """A header of the metadata, None when it is absent or binary."""
        value = self.metadata.get(header)
        return value if isinstance(value, str) else None


_call: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call that the present task serves."""
    return _call.get()


def set_current_call(call: Call) -> None:
    """Says which call the present task serves, for its rest."""
    _call.set(call)


def add_call(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: adds to a line which call it is about."""
    call = _call.get(None)
    if call is not None:
        event.setdefault("request_id", call.request_id)
        event.setdefault("method", call.method)
        if call.agent is not None:
            event.setdefault("agent", call.agent)
        if call.trace_id is not None:
            event.setdefault("trace_id", call.trace_id)
    return event
