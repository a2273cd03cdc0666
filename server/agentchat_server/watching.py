"""What WatchMessages and WatchMentions have in common: catch up from the table, then follow the hub.

    cursor ──read the table──▶ where the hub was when the stream subscribed ──events of the hub──▶ …

The hub offers everything behind that point, so the two halves meet without a gap or an overlap. A stream
that was too slow for the hub goes back to the first half from where it is.

A subscription that is woken has something to send once more, of what lies behind it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agentchat_server.hub import LogHub
from agentchat_server.identity import Caller
from agentchat_server.streams import StreamRegistry
from agentchat_server.subscription import LogEvent, Subscription

T = TypeVar("T")


@dataclass(frozen=True)
class Watched(Generic[T]):
    """Something to send, or, without an item, a checkpoint. `cursor` resumes behind it."""

    cursor: str
    item: T | None = None


@dataclass(frozen=True)
class Watcher:
    """Follows the log for streams."""

    hub: LogHub
    streams: StreamRegistry
    checkpoint_interval: float

    async def watch(
        self,
        caller: Caller,
        subscription: Subscription,
        *,
        after: int,
        read: Callable[[int, int], AsyncIterator[tuple[int, T]]],
        convert: Callable[[LogEvent], T],
        read_again: Callable[[int], AsyncIterator[T]] | None = None,
    ) -> AsyncIterator[Watched[T]]:
        """Yields what comes after a seq, and checkpoints: one when caught up, then when nothing comes.

        `read(after, through)` reads a stretch of the log from the table, `convert` makes the same of an
        event. `read_again(through)` reads what is to be sent again of the log up to a seq, first and
        whenever the subscription is woken; the cursor stays where it is. Ends only by an exception: a
        Refusal when the caller loses its right or the server stops.
        """
        hub = self.hub
        position, through = after, subscription.since

        async def again() -> AsyncIterator[Watched[T]]:
            if read_again is not None:
                async for item in read_again(position):
                    subscription.raise_if_ended()
                    yield Watched(hub.cursor(position), item)

        try:
            with self.streams.registered(subscription, caller):
                while True:
                    async for watched in again():
                        yield watched
                    async for seq, item in read(position, through):
                        subscription.raise_if_ended()
                        yield Watched(hub.cursor(seq), item)
                    position = through
                    yield Watched(hub.cursor(position))

                    while (events := await subscription.take(self.checkpoint_interval)) is not None:
                        woken = subscription.was_woken()
                        if not events:
                            # Nothing of this stream's came, so it is as far as the hub.
                            position = hub.head
                            if not woken:
                                yield Watched(hub.cursor(position))
                        for event in events:
                            position = event.seq
                            yield Watched(hub.cursor(position), convert(event))
                        if woken:
                            async for watched in again():
                                yield watched

                    through = hub.head
                    subscription.restart(through)
        finally:
            hub.unsubscribe(subscription)
