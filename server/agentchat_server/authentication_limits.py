"""How often a peer may state keys and names that are refused, and how many are looked up at once.

A key that nobody knows costs a query, and so it costs whoever guesses: a peer that was refused N times within
a minute is refused before the database is asked, until the time for another try has come. What it states that
was good before is still looked up, so agents behind the same address go on; an agent that this worker has
not seen yet has to wait with the others, which is the price of counting by address.

Counted are refusals of what was stated. A call without a key, or with one that cannot be any, costs no query
and is refused for free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, nullcontext

from agentchat_db.exceptions import DatabaseRefusal
from agentchat_server.rate_limits import RateLimiter
from agentchat_server.refusals import Refusal
from agentchat_server.settings import ServerSettings

ADMIN_FAILURES = frozenset({"ADMIN_KEY_INVALID"})
"""The reasons for which an admin key is refused; whatever else an admin call fails with is another matter."""

AGENT_FAILURES = frozenset(
    {
        "API_KEY_INVALID",
        "AGENT_NAME_TAKEN",
        "AGENT_NAME_RESERVED",
        "AGENT_KEY_MISMATCH",
        "AGENT_DEACTIVATED",
        "AGENT_LIMIT_REACHED",
    }
)
"""The reasons for which a key and a name are refused."""

_MAX_KNOWN = 10_000


class AuthenticationLimits:
    """The failures of peers, and the look-ups under way, of one worker."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: RateLimiter | None = None
        if per_minute := settings.auth_failure_limit:
            self._failures = RateLimiter(per_minute / settings.workers, burst=per_minute)
        # Look-ups leave half of the connections to the calls of those who are known.
        self._slots = asyncio.Semaphore(max(1, settings.pool_size // 2))
        # What was good when it was last looked up, the oldest first.
        self._known: dict[Hashable, None] = {}

    @asynccontextmanager
    async def attempt(self, peer: str, identity: Hashable, failures: frozenset[str]) -> AsyncIterator[None]:
        """A block that looks up what a peer states: counts a refusal for one of the reasons `failures`.

        What was good before skips the line and the limit.

        Raises:
            Refusal: RATE_LIMITED, before the block is entered.
        """
        known = identity in self._known
        async with nullcontext() if known else self._slots:
            if not known:
                # Only now: those who waited in line with others of their peer learn how these fared.
                self._raise_if_exhausted(peer)
            try:
                yield
            except (Refusal, DatabaseRefusal) as refusal:
                if refusal.reason in failures:
                    self._count_failure(peer, identity)
                raise
            self._remember(identity)

    def _raise_if_exhausted(self, peer: str) -> None:
        if self._failures is not None and (wait := self._failures.wait(peer, self._clock())) > 0:
            raise Refusal("RATE_LIMITED", retry_after=wait, scope="authentication")

    def _count_failure(self, peer: str, identity: Hashable) -> None:
        self._known.pop(identity, None)
        if self._failures is not None:
            self._failures.take(peer, self._clock())

    def _remember(self, identity: Hashable) -> None:
        self._known.pop(identity, None)
        self._known[identity] = None
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]
