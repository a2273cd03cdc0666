"""The log hub: one reader of the log for all streams of a worker.

A connection LISTENs. A notification only says that the log has grown; the hub then reads the new rows once
and hands them to the subscriptions they concern. The table is the truth: a slow poll covers a notification
that was lost, and after a lost connection the hub reads on from where it was.

What this worker wrote itself is not read again: `append` offers it, where it follows what came before.

Each stream has a `Subscription`, which holds what it has not taken yet. A ring of recent events spares
reconnecting streams the table.

The same connection hears that keys or agents changed, and calls `on_identities_changed`; and of claims, for
`on_claims_changed`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from uuid import UUID

import structlog

from agentchat_db import queries
from agentchat_db.database import Connection, Database, Statement, translated_errors
from agentchat_db.exceptions import DatabaseError
from agentchat_server import conversion
from agentchat_server.refusals import Refusal
from agentchat_server.settings import ServerSettings
from agentchat_server.subscription import LogEvent, Subscription
from agentchat_server.tokens import Cursor

_SQL = queries.load("log")
_READ_ROWS = 500
_READ_BYTES = 4 * 1024 * 1024
_log = structlog.get_logger(__name__)


class LogHub:
    """Follows the log and wakes subscriptions. `open` returns when it knows where the log ends."""

    def __init__(
        self,
        database: Database,
        settings: ServerSettings,
        *,
        on_identities_changed: Callable[[], None],
        on_claims_changed: Callable[[str], None],
    ) -> None:
        self._database = database
        self._settings = settings
        self._on_identities_changed = on_identities_changed
        # Called with what the notification says, or with nothing when some may have been lost.
        self._on_claims_changed = on_claims_changed
        self._ring: deque[LogEvent] = deque()
        self._ring_bytes = 0
        self._whole_log: set[Subscription] = set()
        self._by_channel: dict[UUID, set[Subscription]] = {}
        self._by_agent: dict[UUID, set[Subscription]] = {}
        self._follower: asyncio.Task[None] | None = None
        self.log_id = UUID(int=0)
        # seq of the newest message that the hub has read. Everything up to it was offered.
        self.head = 0
        # How many messages behind the head were announced, and when, in Unix time, there were none.
        self.behind = 0
        self.last_read_at = 0.0

    async def open(self) -> None:
        """Starts to follow the log from its present end."""
        connection = await self._connect()
        try:
            self.log_id, self.head = await self._position(connection)
        except BaseException:
            await connection.close()
            raise
        self._follower = asyncio.create_task(self._follow(connection))

    async def close(self) -> None:
        """Stops following."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    def subscribe(
        self, *, channel_ids: Collection[UUID] | None = None, agent_id: UUID | None = None
    ) -> Subscription:
        """A subscription to what comes after the present head. Hand it back to `unsubscribe`."""
        subscription = Subscription(
            backlog=self._settings.stream_backlog,
            since=self.head,
            channel_ids=None if channel_ids is None else frozenset(channel_ids),
            agent_id=agent_id,
        )
        for group in self._groups(subscription):
            group.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription."""
        for group in self._groups(subscription):
            group.discard(subscription)
        for channel_id in subscription.channel_ids or ():
            if not self._by_channel[channel_id]:
                del self._by_channel[channel_id]
        if subscription.agent_id is not None and not self._by_agent[subscription.agent_id]:
            del self._by_agent[subscription.agent_id]

    def followed_agents(self) -> list[UUID]:
        """The agents whose mentions are followed here."""
        return list(self._by_agent)

    def is_agent_followed(self, agent_id: UUID) -> bool:
        """Whether the mentions of an agent are followed here."""
        return agent_id in self._by_agent

    def wake(self, agent_id: UUID) -> None:
        """Wakes the subscriptions to the mentions of an agent."""
        for subscription in self._by_agent.get(agent_id, ()):
            subscription.wake()

    def recent(self, after: int, through: int) -> list[LogEvent] | None:
        """The events of a stretch of the log, None when the ring does not hold all of them."""
        if after >= through:
            return []
        if not self._ring or self._ring[0].seq > after + 1 or self._ring[-1].seq < through:
            return None
        first = self._ring[0].seq
        return [self._ring[seq - first] for seq in range(after + 1, through + 1)]

    def append(self, events: Iterable[LogEvent | None]) -> None:
        """Offers messages that this worker has just written, as far as they follow what was offered before.

        So its own streams need not wait for the notification and a look at the table. What comes behind a
        message of another worker, and all when nobody follows, is left to those. None stands for a
        message that only the table can tell of.
        """
        if not self._is_followed():
            return
        for event in events:
            if event is None or event.seq > self.head + 1:
                return
            if event.seq == self.head + 1:
                self._offer(event)

    def cursor(self, seq: int) -> str:
        """The cursor behind a message of this log."""
        return Cursor(self.log_id, seq).encode()

    async def catch_up(self) -> None:
        """Returns when the hub has read at least what is in the log now.

        So a stream that starts from now starts behind everything that was acknowledged before, and a cursor
        of another worker, which may have read on a moment earlier, is not ahead.
        """
        row = await self._database.fetch_row(Statement(_SQL["get_log_position"]))
        if row.log_id != self.log_id or self.head >= row.seq:
            return
        subscription = self.subscribe()
        try:
            async with asyncio.timeout(self._settings.statement_timeout):
                while self.head < row.seq:
                    await subscription.take(1.0)
        except TimeoutError:
            raise Refusal("DATABASE_TIMEOUT") from None
        finally:
            self.unsubscribe(subscription)

    def resume_after(self, cursor: str) -> int:
        """The seq that a cursor stands for. Call `catch_up` first.

        Raises:
            Refusal: CURSOR_INVALID; CURSOR_FOREIGN or CURSOR_AHEAD, with the present head.
        """
        decoded = Cursor.decode(cursor)
        if decoded.log_id != self.log_id:
            raise Refusal("CURSOR_FOREIGN", head=self.cursor(self.head))
        if decoded.seq > self.head:
            raise Refusal("CURSOR_AHEAD", head=self.cursor(self.head))
        return decoded.seq

    def _is_followed(self) -> bool:
        return bool(self._whole_log or self._by_channel or self._by_agent)

    def _groups(self, subscription: Subscription) -> list[set[Subscription]]:
        if subscription.agent_id is not None:
            return [self._by_agent.setdefault(subscription.agent_id, set())]
        if subscription.channel_ids is not None:
            return [self._by_channel.setdefault(channel_id, set()) for channel_id in subscription.channel_ids]
        return [self._whole_log]

    async def _connect(self) -> Connection:
        connection = await self._database.connect()
        try:
            with translated_errors():
                for channel in ("agentchat_log", "agentchat_identities", "agentchat_claims"):
                    await connection.execute(f"listen {channel}")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _position(self, connection: Connection) -> tuple[UUID, int]:
        """The log and its head as the database has them."""
        with translated_errors():
            cursor = await connection.execute(_SQL["get_log_position"])
            (row,) = await cursor.fetchall()
        return row.log_id, row.seq

    async def _follow(self, connection: Connection) -> None:
        """Reads on until cancelled, over any number of lost connections."""
        delay = 0.05
        while True:
            try:
                if connection.closed:
                    connection = await self._connect()
                    # What was announced meanwhile, nobody heard.
                    self._on_identities_changed()
                    self._on_claims_changed("")
                announced = 0
                while True:
                    await self._read_new(connection, announced)
                    self.behind, self.last_read_at = 0, time.time()
                    delay = 0.05
                    announced = await self._hear(connection)
                    self.behind = max(0, announced - self.head)
            except asyncio.CancelledError:
                await connection.close()
                raise
            except DatabaseError as error:
                _log.warning("hub lost its connection", error=str(error), retry_in=delay)
            except Exception:  # noqa: BLE001 - all streams of this worker depend on it
                _log.exception("hub failed", retry_in=delay)
            await connection.close()
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)

    async def _hear(self, connection: Connection) -> int:
        """Returns when the log has grown, with its new head, or when it is time to look, with 0."""
        while True:
            with translated_errors():
                heard = [
                    notification
                    async for notification in connection.notifies(
                        timeout=self._settings.hub_poll_interval, stop_after=1
                    )
                ]
            announced = 0
            for notification in heard:
                match notification.channel:
                    case "agentchat_log":
                        announced = max(announced, int(notification.payload))
                    case "agentchat_identities":
                        self._on_identities_changed()
                    case "agentchat_claims":
                        self._on_claims_changed(notification.payload)
            # Of a burst of batches, the first read may have covered them all.
            if not heard or announced > self.head:
                return announced
            if announced:
                self.last_read_at = time.time()

    async def _read_new(self, connection: Connection, announced: int) -> None:
        """Reads and offers everything behind the head. `announced` is a head that is known, or 0."""
        if not self._is_followed():
            # Nobody wants the rows, and there is nothing in the ring that a stream came for.
            self._ring.clear()
            self._ring_bytes = 0
            if announced > self.head:
                self.head = announced
                return
            position = await self._position(connection)
            if not self._is_followed():
                self.log_id, self.head = position
                return
            # A stream has come meanwhile, and expects everything behind the head that it saw.
        while True:
            with translated_errors():
                async with connection.pipeline():
                    messages = await connection.execute(
                        _SQL["read_log"],
                        {"after": self.head, "limit": _READ_ROWS, "max_bytes": _READ_BYTES},
                    )
                    mentions = await connection.execute(
                        _SQL["read_log_mentions"],
                        {"after": self.head, "through": self.head + _READ_ROWS},
                    )
                rows = await messages.fetchall()
                mention_rows = await mentions.fetchall()
            if not rows:
                return
            mentioned: dict[int, dict[UUID, str]] = {}
            for row in mention_rows:
                mentioned.setdefault(row.seq, {})[row.agent_id] = str(row.mention_id)
            for row in rows:
                # What this worker wrote meanwhile has been offered.
                if row.seq > self.head:
                    self._offer(
                        LogEvent(row.seq, row.channel_id, conversion.message(row), mentioned.get(row.seq, {}))
                    )

    def _offer(self, event: LogEvent) -> None:
        self.head = event.seq
        self._ring.append(event)
        self._ring_bytes += event.size
        while len(self._ring) > self._settings.ring_events or self._ring_bytes > self._settings.ring_bytes:
            self._ring_bytes -= self._ring.popleft().size
        for subscription in self._whole_log:
            subscription.offer(event)
        for subscription in self._by_channel.get(event.channel_id, ()):
            subscription.offer(event)
        for agent_id in event.mentions:
            for subscription in self._by_agent.get(agent_id, ()):
                subscription.offer(event)
