"""When to try again, and how long to wait before."""

from __future__ import annotations

import random

from agentchat.exceptions import AgentChatError, ResourceExhaustedError, UnavailableError

# A delay that the server asks for is waited for within a call when it is no longer than this; a
# caller that is to wait longer is told so instead.
_LONGEST_POLITE_WAIT = 2.0
# Codes that a broken connection gives, and that a server of ours gives only with a reason.
_CODES_OF_BROKEN_CONNECTIONS = frozenset({"CANCELLED", "DATA_LOSS", "INTERNAL", "UNKNOWN"})
_PASSING_CODES = frozenset({"ABORTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"})


class Backoff:
    """Delays that double from `first` to `longest` seconds, each shortened by chance by up to half.

    The chance keeps callers apart that failed at the same moment.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self) -> float:
        """The next delay in seconds."""
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        self._next = min(self._next * 2, self._longest)
        return delay

    def reset(self) -> None:
        """Starts over, after a success."""
        self._next = self._first


def retry_delay(error: AgentChatError, backoff: Backoff, remaining: float) -> float | None:
    """Seconds to wait before a call is tried again; None when it should fail now.

    `remaining` is what is left of the call's deadline, in seconds.
    """
    if isinstance(error, UnavailableError):
        delay = max(backoff.next(), error.retry_after or 0.0)
    elif isinstance(error, ResourceExhaustedError) and error.retry_after is not None:
        if error.retry_after > _LONGEST_POLITE_WAIT:
            return None
        delay = max(backoff.next(), error.retry_after)
    else:
        return None
    return delay if delay < remaining else None


def reconnect_delay(error: AgentChatError, backoff: Backoff) -> float | None:
    """Seconds to wait before a watch connects again; None when that would not help."""
    passing = error.code in _PASSING_CODES
    broken = error.code in _CODES_OF_BROKEN_CONNECTIONS and not error.reason
    limited = isinstance(error, ResourceExhaustedError) and error.retry_after is not None
    if not (passing or broken or limited):
        return None
    return max(backoff.next(), error.retry_after or 0.0)
