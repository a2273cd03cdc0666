"""The watchers of the kill proof: they follow messages or mentions, and write down what they receive.

Half of them use the SDK, which resumes by itself. The others call the stubs and resume by cursor: when the
connection breaks, and now and then without need.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from agentchat import AgentChatError, AsyncAgentChatClient
from agentchat.types import WatchedMention, WatchedMessage
from tests.board import DEADLINE, Agent, Failure
from tests.kills.history import Event, History, Watch
from tests.kills.writers import is_unknown

# Events after which a raw watcher connects again without need, at most.
_MOST_EVENTS = 400


class SdkWatcher:
    """Follows through the SDK. Mentions are also handed to `on_mention`."""

    def __init__(
        self,
        client: AsyncAgentChatClient,
        watch: Watch,
        history: History,
        on_mention: Callable[[WatchedMention], None] | None = None,
    ) -> None:
        self._watch = watch
        self._history = history
        self._on_mention = on_mention
        self._stream: Any
        if watch.follows == "messages":
            channels = None if watch.channel is None else [watch.channel]
            self._stream = client.watch_messages(channels, on_reconnect=self._reconnected)
        else:
            self._stream = client.watch_mentions(on_reconnect=self._reconnected)
        history.watches.append(watch)

    async def start(self) -> None:
        """Connects. What is posted from now on is received."""
        self._watch.connections = 1
        await self._stream.start()

    async def run(self) -> None:
        """Receives until cancelled."""
        try:
            async for received in self._stream:
                self._watch.events.append(self._event(received))
                if self._on_mention is not None:
                    self._on_mention(received)
        except AgentChatError as error:
            self._history.surprises.append(f"{self._watch.name} watched: {error!r}")
        finally:
            await self._stream.close()

    def _event(self, received: WatchedMessage | WatchedMention) -> Event:
        connection = self._watch.connections
        if isinstance(received, WatchedMessage):
            return Event(received.seq, received.id, received.content, received.cursor, connection)
        return Event(
            received.seq,
            received.message_id,
            received.content,
            received.cursor,
            connection,
            received.redelivered,
        )

    def _reconnected(self, error: AgentChatError, delay: float) -> None:
        self._watch.connections += 1


class RawWatcher:
    """Follows through the stubs, over as many connections as it takes."""

    def __init__(self, agent: Agent, watch: Watch, history: History, dice: random.Random) -> None:
        self._agent = agent
        self._watch = watch
        self._history = history
        self._dice = dice
        self._cursor = ""
        history.watches.append(watch)

    async def start(self) -> None:
        """Connects, to learn where the log is. What is posted from now on is received."""
        async with self._open() as stream:
            while (response := await stream.next()).WhichOneof("event") != "checkpoint":
                self._receive(response)
        self._cursor = response.cursor

    async def run(self) -> None:
        """Receives until cancelled."""
        while True:
            try:
                async with self._open() as stream:
                    for _ in range(self._dice.randint(1, _MOST_EVENTS)):
                        self._receive(await stream.next())
            except Failure as failure:
                if not is_unknown(failure.code.name, failure.reason):
                    self._history.surprises.append(f"{self._watch.name} watched: {failure!r}")
                    return
                await asyncio.sleep(self._dice.uniform(0.05, 0.3))
            except TimeoutError:
                # Checkpoints come more often than that.
                self._history.surprises.append(f"{self._watch.name} heard nothing for {DEADLINE:g} s")

    async def read_through(self, seq: int, cursor: str) -> None:
        """Receives what comes after a cursor, up to a seq that is in the log."""
        self._cursor = cursor
        try:
            async with self._open() as stream:
                while not self._watch.events or self._watch.events[-1].seq < seq:
                    self._receive(await stream.next())
        except (Failure, TimeoutError) as failure:
            self._history.surprises.append(f"{self._watch.name} watched: {failure!r}")

    def _open(self) -> Any:
        self._watch.connections += 1
        if self._watch.follows == "mentions":
            return self._agent.watch_mentions(cursor=self._cursor)
        channels = () if self._watch.channel is None else (self._watch.channel,)
        return self._agent.watch_messages(*channels, cursor=self._cursor)

    def _receive(self, response: Any) -> None:
        self._cursor = response.cursor
        connection = self._watch.connections
        match response.WhichOneof("event"):
            case "message_posted":
                message = response.message_posted.message
                event = Event(message.seq, message.id, message.content, response.cursor, connection)
            case "mention_received":
                mention, again = response.mention_received.mention, response.mention_received.redelivered
                event = Event(
                    mention.seq, mention.message_id, mention.content, response.cursor, connection, again
                )
            case _:
                return
        self._watch.events.append(event)


async def resume(agent: Agent, event: Event, through: int, history: History) -> None:
    """Follows the log once from an event on that somebody received earlier, up to a seq."""
    watch = Watch(f"whoever resumed behind {event.seq}", agent.name, "messages", event.seq, through)
    watcher = RawWatcher(agent, watch, history, random.Random())
    await watcher.read_through(through, event.cursor)
