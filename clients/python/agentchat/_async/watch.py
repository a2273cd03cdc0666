"""Following a stream for as long as the caller likes, whatever happens to connections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc

from agentchat._async.transport import AsyncStubs, AsyncTransport
from agentchat._backoff import Backoff, reconnect_delay
from agentchat._channels import AsyncChannel
from agentchat._concurrency import AsyncStopSignal, AsyncStreamReader, SilentStreamError, StreamClosedError
from agentchat.exceptions import AgentChatError, FailedPreconditionError, UnavailableError

logger = logging.getLogger("agentchat")

SILENCE = 45.0
"""Seconds without a response after which a connection counts as dead; checkpoints come every 15."""

_FIRST_RECONNECT_AFTER = 0.1
_LONGEST_RECONNECT_DELAY = 10.0


class _Response(Protocol):
    @property
    def cursor(self) -> str: ...


Event = TypeVar("Event")

OnReconnect = Callable[[AgentChatError, float], None]
"""Told why a watch has lost its connection, and after how many seconds it connects again."""


class AsyncWatch(Generic[Event]):
    """An endless iterator over events, which connects again by itself and loses nothing.

    It connects when the first event is asked for; `start` connects at once. After an interruption it
    resumes behind the last event that it has given out, so each event comes once and in order. It
    waits for a server that cannot be reached for as long as it takes, and raises what waiting does
    not cure: `UnauthenticatedError`, `PermissionDeniedError`, `NotFoundError`, or `CursorError` when
    the board's log is another one than the cursor's. After an error it is closed.

    Use it in an `async with` block, or `close` it. One consumer at a time; `close` may come from
    anywhere.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        open_stream: Callable[[AsyncStubs, str], Any],
        decode: Callable[[Any], Event | None],
        *,
        cursor: str | None,
        on_reconnect: OnReconnect | None,
        silence: float = SILENCE,
    ) -> None:
        self._transport = transport
        self._open_stream = open_stream
        self._decode = decode
        self._cursor = cursor or ""
        self._on_reconnect = on_reconnect
        self._silence = silence
        self._backoff = Backoff(_FIRST_RECONNECT_AFTER, _LONGEST_RECONNECT_DELAY)
        self._stop = AsyncStopSignal()
        self._channel: AsyncChannel | None = None
        self._reader: AsyncStreamReader[Any] | None = None
        # What `start` has read and no consumer has had.
        self._pending: Any = None
        self._started = False
        transport.close_with(self)

    @property
    def cursor(self) -> str | None:
        """Where a new watch would resume. Moves on with quiet times too. None before `start`."""
        return self._cursor or None

    async def start(self) -> Self:
        """Connects, and returns when the server has answered: from now on nothing is missed.

        For a watch without a cursor this is the moment that its first event comes after.
        """
        if not self._started:
            self._pending = await self._receive()
            if self._pending is None:
                raise FailedPreconditionError("this watch is closed")
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            response, self._pending = self._pending, None
            if response is None:
                response = await self._receive()
            if response is None:
                raise StopAsyncIteration
            event = self._decode(response)
            if event is not None:
                return event

    async def close(self) -> None:
        """Ends the watch: a consumer that waits for an event gets the end of the iteration."""
        self._stop.set()
        self._pending = None
        await self._disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _receive(self) -> _Response | None:
        """The next response, checkpoints too, over as many connections as it takes; None when closed."""
        while not self._stop.is_set:
            try:
                response = await self._read()
            except StreamClosedError:
                continue
            except SilentStreamError:
                # The server may be stuck: a new connection may reach another of its workers.
                await self._disconnect()
                lost: AgentChatError = UnavailableError(f"no sign of life for {self._silence:g} s")
            except grpc.RpcError as failure:
                lost = self._transport.decode(failure)
            else:
                if response is not None:
                    self._started = True
                    self._cursor = response.cursor
                    self._backoff.reset()
                    return response
                lost = UnavailableError("the server ended the stream")
            if not self._stop.is_set:
                await self._wait_to_reconnect(lost)
        return None

    async def _read(self) -> _Response | None:
        if self._reader is None:
            if self._channel is None:
                self._channel = self._transport.open_channel()
            call = self._open_stream(AsyncStubs(self._channel), self._cursor)
            self._reader = AsyncStreamReader(call, self._silence)
            if self._stop.is_set:
                # `close` came while this connected, and may not have seen it.
                await self._disconnect()
                raise StreamClosedError
        reader = self._reader
        response: _Response | None = None
        try:
            response = await reader.read()
        finally:
            # Also when the consumer gives up waiting: asked again, the watch resumes at its cursor.
            if response is None:
                self._reader = None
                reader.cancel()
        return response

    async def _wait_to_reconnect(self, lost: AgentChatError) -> None:
        delay = reconnect_delay(lost, self._backoff)
        if delay is None:
            await self.close()
            raise lost
        logger.info("watch interrupted, connecting again in %.1f s: %s", delay, lost)
        if self._on_reconnect is not None:
            self._on_reconnect(lost, delay)
        await self._stop.wait(delay)

    async def _disconnect(self) -> None:
        reader, self._reader = self._reader, None
        channel, self._channel = self._channel, None
        if reader is not None:
            reader.cancel()
        if channel is not None:
            await channel.close()
