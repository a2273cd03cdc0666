"""The events that wait for one stream.

The hub offers events, the stream takes them. A subscription holds a bounded number: when its stream cannot
keep up, it drops them all and says so, and the stream reads the table instead. So nothing is lost, and memory
stays bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from uuid import UUID

from agentchat_proto.v1 import message_pb2
from agentchat_server.refusals import Refusal


@dataclass(slots=True, frozen=True)
class LogEvent:
    """A message as it appeared in the log, and whom it mentions."""

    seq: int
    channel_id: UUID
    message: message_pb2.Message
    # Mention id by mentioned agent.
    mentions: dict[UUID, str]

    @property
    def size(self) -> int:
        """Roughly what the event holds in memory, in bytes: several times what it takes on the wire."""
        return 1000 + 4 * self.message.ByteSize()


@dataclass(eq=False)
class Subscription:
    """The events of one stream that it has not taken yet.

    It follows some channels (`channel_ids`), or the mentions of an agent (`agent_id`), or the whole log.
    Events behind `since` are in it or were dropped; events up to `since` are the stream's to read.
    """

    backlog: int
    since: int
    channel_ids: frozenset[UUID] | None = None
    agent_id: UUID | None = None
    _events: deque[LogEvent] = field(default_factory=deque)
    _overflowed: bool = False
    _woken: bool = False
    _ended: Refusal | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, event: LogEvent) -> None:
        """Adds an event, or notes that the stream is too slow for it."""
        if self._overflowed:
            return
        if len(self._events) >= self.backlog:
            self._overflowed = True
            self._events.clear()
        else:
            self._events.append(event)
        self._changed.set()

    def wake(self) -> None:
        """Lets `take` return at once, with whatever has come, and `was_woken` say so."""
        self._woken = True
        self._changed.set()

    def was_woken(self) -> bool:
        """Whether `wake` was called since this was last asked."""
        woken, self._woken = self._woken, False
        return woken

    def end(self, reason: Refusal) -> None:
        """Makes `take` raise, now and from now on."""
        self._ended = reason
        self._changed.set()

    async def take(self, timeout: float) -> list[LogEvent] | None:
        """The events that have come, waiting for some; none after `timeout` seconds.

        Returns None when events were dropped: then read the table up to the hub's head and `restart`.

        Raises:
            Refusal: the one that `end` was given.
        """
        if not self._changed.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                # Nothing may come between this check and the caller's look at the hub's head.
                if not self._changed.is_set():
                    return []
        self._changed.clear()
        self.raise_if_ended()
        if self._overflowed:
            return None
        events = list(self._events)
        self._events.clear()
        return events

    def raise_if_ended(self) -> None:
        """Raises what `end` was given, if it was called."""
        if self._ended is not None:
            self._changed.set()
            raise self._ended

    def restart(self, since: int) -> None:
        """Forgets what was dropped: from here on every event behind `since` is offered again."""
        self.since = since
        self._events.clear()
        self._overflowed = False
