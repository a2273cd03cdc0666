"""When claims end: whose streams are to look for mentions that nobody works on any more.

A claim ends by release, which is announced by a notification, or by expiry, which nothing announces. So one
timer per worker knows when the next claim of the agents that have streams here ends. It learns of it from
the notification that each claim makes, and from streams that connect; when the time has come, it asks the
database in one query whose claims have ended, and when the next one does.

The database's clock decides: what is waited for is a number of seconds, what is asked about a stretch of its
time. Streams are only woken; each reads for itself what it is to send (`redelivery`). The timer also looks
every few seconds although it expects nothing, in case a notification was lost. No lease is shorter than
that, so no claim ends before the timer knows of it.
"""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime
from uuid import UUID

import structlog

from agentchat_db import queries
from agentchat_db.database import Database, Statement
from agentchat_db.exceptions import DatabaseError
from agentchat_server.hub import LogHub

_SQL = queries.load("claims")
_DAWN = datetime.min.replace(tzinfo=UTC)
# Claims that end within this time, in seconds, are looked for together.
_LEAST_WAIT = 0.1
_RETRY_DELAY = 0.5
_log = structlog.get_logger(__name__)


class ClaimTimer:
    """Wakes the subscriptions of an agent when a claim on one of its mentions has ended."""

    def __init__(self, database: Database, hub: LogHub, *, poll_interval: float) -> None:
        self._database = database
        self._hub = hub
        self._poll_interval = poll_interval
        # When to look next, on the monotonic clock.
        self._due = math.inf
        self._sooner = asyncio.Event()
        # Up to when, on the database's clock, ended claims have been found.
        self._looked_at = _DAWN
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Starts the timer."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stops the timer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def expect(self, seconds: float) -> None:
        """Notes that a claim of an agent that has a stream here ends after some seconds."""
        due = time.monotonic() + seconds
        if due < self._due:
            self._due = due
            self._sooner.set()

    def hear(self, notification: str) -> None:
        """Takes a notification of `claims_changed`. An empty one: some may have been lost."""
        if not notification:
            for agent_id in self._hub.followed_agents():
                self._hub.wake(agent_id)
            self.expect(0)
            return
        agent, seconds = notification.split()
        if float(seconds) == 0:
            self._hub.wake(UUID(agent))
        elif self._hub.is_agent_followed(UUID(agent)):
            self.expect(float(seconds))

    async def _run(self) -> None:
        while True:
            # Before the question, so that nothing which is expected while it is asked gets lost.
            self._due = time.monotonic() + self._poll_interval
            try:
                await self._look()
            except DatabaseError as error:
                _log.warning("could not look for ended claims", error=str(error))
                self.expect(_RETRY_DELAY)
            except Exception:  # noqa: BLE001 - it must go on, or abandoned mentions wait for ever
                _log.exception("looking for ended claims failed")
                self.expect(_RETRY_DELAY)
            await asyncio.sleep(_LEAST_WAIT)
            await self._until_due()

    async def _look(self) -> None:
        agent_ids = self._hub.followed_agents()
        if not agent_ids:
            return
        ends = await self._database.fetch_row(
            Statement(_SQL["get_claim_ends"], {"agent_ids": agent_ids, "after": self._looked_at})
        )
        self._looked_at = ends.moment
        # Nobody asked for those that came meanwhile, and the next question is about the time after this.
        newly_followed = set(self._hub.followed_agents()).difference(agent_ids)
        for agent_id in newly_followed.union(ends.ended_agent_ids):
            self._hub.wake(agent_id)
        if ends.next_in is not None:
            self.expect(ends.next_in)

    async def _until_due(self) -> None:
        while (remaining := self._due - time.monotonic()) > 0:
            self._sooner.clear()
            try:
                async with asyncio.timeout(remaining):
                    await self._sooner.wait()
            except TimeoutError:
                return
