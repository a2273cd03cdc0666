"""The open streams of a worker: they end when their caller loses its right, and when the server stops.

An agent may have a number of them open, and so may all agents together, since each takes memory.

A stream registers its subscription with its caller. When keys or agents change, when a key's time is over,
and every 20 seconds (which also keeps the callers online), all callers are checked in one query.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import structlog

from agentchat_db.database import Database
from agentchat_db.exceptions import DatabaseError
from agentchat_server.identity import Caller, check_callers
from agentchat_server.refusals import Refusal
from agentchat_server.subscription import Subscription

_CHECK_INTERVAL = 20.0
# Who finds the worker full may look again after this time, in seconds: streams come and go.
_RETRY_WHEN_FULL = 5.0
_log = structlog.get_logger(__name__)


class StreamRegistry:
    """Keeps the open streams and ends those whose callers are refused."""

    def __init__(self, database: Database, *, limit: int, limit_per_agent: int) -> None:
        self._database = database
        self._limit = limit
        self._limit_per_agent = limit_per_agent
        self._streams: dict[Subscription, Caller] = {}
        self._open_of: Counter[UUID] = Counter()
        self._due = asyncio.Event()
        self._checker: asyncio.Task[None] | None = None
        self._stopping = False

    def open(self) -> None:
        """Starts the checks."""
        self._checker = asyncio.create_task(self._check_repeatedly())

    async def close(self) -> None:
        """Stops the checks."""
        if self._checker is not None:
            self._checker.cancel()
            await asyncio.gather(self._checker, return_exceptions=True)

    @contextmanager
    def registered(self, subscription: Subscription, caller: Caller) -> Iterator[None]:
        """Lets the registry end a stream, until the block is left.

        Raises:
            Refusal: when the server stops, or there are as many streams as there may be.
        """
        if self._stopping:
            raise Refusal("SERVER_STOPPING")
        agent_id = caller.agent_id
        if self._open_of[agent_id] >= self._limit_per_agent:
            raise Refusal("STREAM_LIMIT_REACHED", limit=str(self._limit_per_agent))
        if len(self._streams) >= self._limit:
            raise Refusal("SERVER_STREAM_LIMIT_REACHED", retry_after=_RETRY_WHEN_FULL, limit=str(self._limit))
        self._streams[subscription] = caller
        self._open_of[agent_id] += 1
        if caller.expires_at is not None:
            self._due.set()
        try:
            yield
        finally:
            del self._streams[subscription]
            self._open_of[agent_id] -= 1
            if not self._open_of[agent_id]:
                del self._open_of[agent_id]

    def check_soon(self) -> None:
        """Has all callers checked now."""
        self._due.set()

    def end_all(self) -> None:
        """Ends all streams, and every one that is opened from now on, because the server stops."""
        self._stopping = True
        for subscription in list(self._streams):
            subscription.end(Refusal("SERVER_STOPPING"))

    async def _check_repeatedly(self) -> None:
        wait = _CHECK_INTERVAL
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            try:
                wait = await self._check()
            except DatabaseError as error:
                _log.warning("could not check the callers of streams", error=str(error))
                wait = 0.5
            except Exception:  # noqa: BLE001 - it must go on, or revocations stop to work
                _log.exception("checking the callers of streams failed")
                wait = 0.5

    async def _check(self) -> float:
        """Ends the streams of callers that are refused; returns after how many seconds to check again."""
        if not self._streams:
            return _CHECK_INTERVAL
        checks = await check_callers(self._database, self._streams.values())
        expiries: list[datetime] = []
        for subscription, caller in list(self._streams.items()):
            check = checks.get((caller.key_hash, caller.agent_id))
            if check is None:
                # Opened while the query ran, with a caller that was checked for it.
                expiries.extend([caller.expires_at] if caller.expires_at else [])
            elif check.refusal is not None:
                subscription.end(check.refusal)
            elif check.expires_at is not None:
                expiries.append(check.expires_at)
        if not expiries:
            return _CHECK_INTERVAL
        remaining = (min(expiries) - datetime.now(UTC)).total_seconds()
        return min(max(remaining, 0.05), _CHECK_INTERVAL)
