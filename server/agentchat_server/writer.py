"""The write coalescer: many calls, one statement.

Calls put their message into a queue and wait. A few writers, each with a connection of its own, take what
has queued while the batches before it were committing (no timer: an idle server writes at once) and hand
it to `send_batch`, which writes the batch in one transaction and tells the outcome of each message.

What makes this safe:
- A message has its id before the first attempt, and the insert is idempotent on it. When a connection is
  lost at commit, nobody knows whether the batch is in; sending it again finds out.
- A call that is cancelled before its message is taken is dropped. After that the message is written,
  whoever still listens.
- The queue is bounded in rows and bytes; what does not fit is refused with a delay to retry after.
- An error that is a message's own fault should not happen, since fields are checked before. If it does,
  the batch is split until the culprit stands alone, and only that fails.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from google.protobuf.struct_pb2 import Struct

from agentchat_db import queries
from agentchat_db.database import Connection, Database, Row, translated_errors
from agentchat_db.exceptions import DatabaseDefect, DatabaseTimeout, DatabaseUnavailable
from agentchat_server.identity import Caller
from agentchat_server.metrics import WorkerMetrics
from agentchat_server.refusals import Refusal
from agentchat_server.settings import ServerSettings

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from agentchat_server.tracing import Tracing

_SQL = queries.load("messages")
# For how many turns of the event loop, at most, a batch waits for another message.
_MOST_QUIET_TURNS = 8
_log = structlog.get_logger(__name__)


def new_uuid() -> UUID:
    """A UUID of version 7: it sorts by time, which keeps the index of the messages dense."""
    milliseconds = time.time_ns() // 1_000_000
    number = int.from_bytes(milliseconds.to_bytes(6, "big") + os.urandom(10), "big")
    number = number & ~(0xF << 76) | (0x7 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=number)


@dataclass(slots=True, eq=False)
class Post:
    """A message to write."""

    caller: Caller
    channel: str
    content: str
    metadata: Struct | None = None
    # The metadata as a JSON object.
    encoded_metadata: str | None = None
    parent: UUID | None = None
    request_id: UUID | None = None
    # The agent that must exist and be active: a direct message.
    target: str | None = None
    # The span of the call, when calls are traced.
    span: SpanContext | None = None
    id: UUID = field(default_factory=new_uuid)
    outcome: asyncio.Future[Row] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def size(self) -> int:
        """What the message adds to a batch, roughly, in bytes."""
        return 300 + len(self.content) + len(self.encoded_metadata or "")


class MessageWriter:
    """Writes messages in batches. Open it before use; `close` writes what is queued."""

    def __init__(
        self,
        database: Database,
        settings: ServerSettings,
        *,
        on_written: Callable[[Sequence[Post], Sequence[Row]], None],
        metrics: WorkerMetrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`on_written` is told of each batch that is committed, and of what became of its messages."""
        self._database = database
        self._on_written = on_written
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._queue: deque[Post] = deque()
        self._queued_bytes = 0
        self._idle: deque[asyncio.Future[None]] = deque()
        # How many batches are under way.
        self._writing = 0
        # How many messages the last batch had.
        self._last_batch = 1
        self._closing = False
        self._writers: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Starts the writers."""
        self._writers = [asyncio.create_task(self._write_batches()) for _ in range(self._settings.writers)]

    async def close(self) -> None:
        """Writes what is queued and stops. No message may be written after this begins."""
        self._closing = True
        self._wake_all()
        await asyncio.gather(*self._writers)

    @property
    def queued_messages(self) -> int:
        """How many messages wait for a batch."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """The size of the messages that wait for a batch, roughly."""
        return self._queued_bytes

    @property
    def batches_under_way(self) -> int:
        """How many batches are being written."""
        return self._writing

    async def write(self, post: Post) -> Row:
        """Writes a message; returns its row of `send_batch`, whatever the outcome in it.

        Raises:
            Refusal: WRITE_QUEUE_FULL, SERVER_STOPPING, DATABASE_UNAVAILABLE or INTERNAL.
        """
        if self._closing:
            raise Refusal("SERVER_STOPPING")
        if (
            len(self._queue) >= self._settings.queue_rows
            or self._queued_bytes + post.size > self._settings.queue_bytes
        ):
            raise Refusal("WRITE_QUEUE_FULL", retry_after=0.5)
        if self._tracing is not None:
            post.span = self._tracing.current()
        self._queue.append(post)
        self._queued_bytes += post.size
        # While a batch is under way, the next may grow, until it is worth to be under way beside it.
        if not self._writing or len(self._queue) >= self._settings.batch_rows:
            self._wake_one()
        return await post.outcome

    def _wake_one(self) -> None:
        while self._idle:
            sleeper = self._idle.popleft()
            if not sleeper.done():
                sleeper.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._idle:
            self._wake_one()

    async def _let_calls_join(self) -> None:
        """Lets the calls that the event loop has begun to serve put in their messages too.

        No timer: it ends when some turns of the loop have added none, one where messages come alone, more
        where the last batch had many: then as many callers are about to post again.
        """
        quiet, enough = 0, min(self._last_batch, _MOST_QUIET_TURNS)
        while quiet < enough and 0 < len(self._queue) < self._settings.batch_rows:
            waiting = len(self._queue)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._queue) == waiting else 0

    def _take_batch(self) -> list[Post]:
        batch: list[Post] = []
        size = 0
        while self._queue and len(batch) < self._settings.batch_rows:
            post = self._queue[0]
            if batch and size + post.size > self._settings.batch_bytes:
                break
            self._queue.popleft()
            self._queued_bytes -= post.size
            if not post.outcome.done():
                batch.append(post)
                size += post.size
        return batch

    async def _write_batches(self) -> None:
        connection = _KeptConnection(self._database)
        try:
            while True:
                await self._let_calls_join()
                batch = self._take_batch()
                if batch:
                    self._writing += 1
                    self._last_batch = len(batch)
                    await self._observe(connection, batch)
                    self._writing -= 1
                elif self._closing:
                    return
                else:
                    sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._idle.append(sleeper)
                    await sleeper
        finally:
            await connection.close()

    async def _observe(self, connection: _KeptConnection, batch: Sequence[Post]) -> None:
        """Settles a batch, counted and traced if that is on."""
        began = time.perf_counter()
        if self._tracing is None:
            await self._settle(connection, batch)
        else:
            with self._tracing.batch([post.span for post in batch], len(batch)):
                await self._settle(connection, batch)
        if self._metrics is not None:
            self._metrics.batch_messages.observe(len(batch))
            self._metrics.batch_duration.observe(time.perf_counter() - began)

    async def _settle(self, connection: _KeptConnection, batch: Sequence[Post]) -> None:
        """Writes a batch and gives every call its outcome. Never raises: a writer lives on."""
        try:
            rows = await self._send_until_known(connection, batch)
        except Refusal as refusal:
            _fail(batch, refusal)
        except DatabaseDefect as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._settle(connection, batch[:middle])
                await self._settle(connection, batch[middle:])
                return
            _log.error("message refused by the database", message_id=str(batch[0].id), error=str(error))
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 - a writer that dies takes all posts with it
            _log.exception("batch failed", rows=len(batch))
            _fail(batch, error)
        else:
            for post, row in zip(batch, rows, strict=True):
                if not post.outcome.done():
                    post.outcome.set_result(row)
            try:
                self._on_written(batch, rows)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("could not hand a batch on", rows=len(batch))

    async def _send_until_known(self, connection: _KeptConnection, batch: Sequence[Post]) -> list[Row]:
        deadline = time.monotonic() + self._settings.write_patience
        delay = 0.02
        failed_before = False
        while True:
            try:
                with translated_errors():
                    cursor = await (await connection.get()).execute(
                        _SQL["send_batch"], _parameters(batch), binary=True
                    )
                    return await cursor.fetchall()
            except (DatabaseUnavailable, DatabaseTimeout) as error:
                await connection.close()
                if time.monotonic() + delay > deadline:
                    reason = (
                        "DATABASE_TIMEOUT" if isinstance(error, DatabaseTimeout) else "DATABASE_UNAVAILABLE"
                    )
                    raise Refusal(reason) from error
                if not failed_before:
                    _log.warning(
                        "batch is sent again",
                        message_id=str(batch[0].id),
                        rows=len(batch),
                        patience=self._settings.write_patience,
                        error=str(error),
                    )
                    failed_before = True
                await asyncio.sleep(delay)
                delay = min(delay * 2, 0.5)


class _KeptConnection:
    """A connection that is made when it is needed, and again after it was closed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    async def get(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await self._database.connect()
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


def _parameters(batch: Sequence[Post]) -> dict[str, list[Any]]:
    return {
        "ids": [post.id for post in batch],
        "key_hashes": [post.caller.key_hash for post in batch],
        "authors": [post.caller.agent_id for post in batch],
        "channels": [post.channel for post in batch],
        "contents": [post.content for post in batch],
        "metadata": [post.encoded_metadata for post in batch],
        "parents": [post.parent for post in batch],
        "request_ids": [post.request_id for post in batch],
        "targets": [post.target for post in batch],
        "hops": [0] * len(batch),
    }


def _fail(batch: Sequence[Post], error: Exception) -> None:
    for post in batch:
        if not post.outcome.done():
            post.outcome.set_exception(error)
