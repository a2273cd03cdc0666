"""Calls to a server: one connection, deadlines, and trying again."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc

from agentchat._backoff import Backoff, retry_delay
from agentchat._channels import AsyncChannel, AsyncUnaryMethod, open_async_channel
from agentchat._concurrency import CallCancelledError, Metadata, async_invoke, async_sleep
from agentchat._failures import decode_failure, more_telling
from agentchat._requests import refused
from agentchat.address import ServerAddress
from agentchat.exceptions import AgentChatError, FailedPreconditionError
from agentchat_proto.v1.admin_service_pb2_grpc import AdminServiceStub
from agentchat_proto.v1.agent_service_pb2_grpc import AgentServiceStub
from agentchat_proto.v1.board_service_pb2_grpc import BoardServiceStub
from agentchat_proto.v1.channel_service_pb2_grpc import ChannelServiceStub
from agentchat_proto.v1.file_service_pb2_grpc import FileServiceStub
from agentchat_proto.v1.mention_service_pb2_grpc import MentionServiceStub
from agentchat_proto.v1.message_service_pb2_grpc import MessageServiceStub
from agentchat_proto.v1.search_service_pb2_grpc import SearchServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result", covariant=True)

_FIRST_RETRY_AFTER = 0.1
_LONGEST_RETRY_DELAY = 2.0


class AsyncStubs:
    """The services of one connection."""

    def __init__(self, channel: AsyncChannel) -> None:
        self.admin = AdminServiceStub(channel)
        self.agents = AgentServiceStub(channel)
        self.boards = BoardServiceStub(channel)
        self.channels = ChannelServiceStub(channel)
        self.files = FileServiceStub(channel)
        self.mentions = MentionServiceStub(channel)
        self.messages = MessageServiceStub(channel)
        self.search = SearchServiceStub(channel)


class AsyncAttempt(Protocol[Result]):
    """Does something that calls. Fails with what calls fail with, or an `AgentChatError` of its own."""

    async def __call__(self, stubs: AsyncStubs, remaining: float) -> Result:
        """Does it, within `remaining` seconds."""


class AsyncCloseable(Protocol):
    """What a transport closes when it is closed."""

    async def close(self) -> None:
        """Ends it."""


class AsyncTransport:
    """A connection to one server with one identity, opened by the first call."""

    def __init__(
        self,
        address: ServerAddress,
        metadata: Metadata,
        *,
        credentials: grpc.ChannelCredentials | None,
        timeout: float,
        max_attempts: int | None,
    ) -> None:
        for name, value in metadata:
            if not (value.isascii() and value.isprintable() and value == value.strip() and value):
                raise refused(name, "must be printable ASCII characters, and not empty")
        if max_attempts is not None and max_attempts < 1:
            raise refused("max_attempts", "must be 1 or more")
        self.address = address
        self.metadata = metadata
        self._credentials = credentials
        # Seconds, for calls that state none.
        self.timeout = timeout
        self._max_attempts = max_attempts
        self._channel: AsyncChannel | None = None
        self._stubs: AsyncStubs | None = None
        self._closed = False
        self._opening = threading.Lock()
        self._dependents: weakref.WeakSet[AsyncCloseable] = weakref.WeakSet()

    @property
    def stubs(self) -> AsyncStubs:
        """The services, called over the shared connection."""
        with self._opening:
            if self._stubs is None:
                self._channel = self.open_channel()
                self._stubs = AsyncStubs(self._channel)
            return self._stubs

    def open_channel(self) -> AsyncChannel:
        """A connection of its own, which whoever asks for it closes."""
        if self._closed:
            raise _closed_error()
        return open_async_channel(self.address, self._credentials)

    def close_with(self, dependent: AsyncCloseable) -> None:
        """Has something closed when the transport is."""
        with self._opening:
            self._dependents.add(dependent)

    async def call(
        self,
        method: Callable[[AsyncStubs], AsyncUnaryMethod[Request, Response]],
        request: Request,
        timeout: float | None,
        *,
        repeatable: bool = True,
    ) -> Response:
        """Calls, and tries again while the server cannot be reached and the deadline has not passed.

        `timeout` is in seconds and covers all tries; None means the client's. A call that is not
        `repeatable` is made once: what became of it cannot be known when the connection breaks.
        """

        async def attempt(stubs: AsyncStubs, remaining: float) -> Response:
            return await async_invoke(method(stubs), request, remaining, self.metadata)

        timeout = self.timeout if timeout is None else timeout
        return await self.repeat(attempt, timeout, repeatable=repeatable)

    async def repeat(
        self, attempt: AsyncAttempt[Response], timeout: float, *, repeatable: bool = True
    ) -> Response:
        """Does something that calls, and tries again as `call` does. `timeout` is in seconds."""
        deadline = time.monotonic() + timeout
        backoff = Backoff(_FIRST_RETRY_AFTER, _LONGEST_RETRY_DELAY)
        attempts = self._max_attempts if repeatable else 1
        told: AgentChatError | None = None
        while True:
            remaining = max(deadline - time.monotonic(), 0.001)
            try:
                return await attempt(self.stubs, remaining)
            except (grpc.RpcError, CallCancelledError, AgentChatError) as failure:
                if self._closed:
                    raise _closed_error() from failure
                error = self.decode(failure)
                told = more_telling(error, told)
                attempts = None if attempts is None else attempts - 1
                delay = retry_delay(error, backoff, deadline - time.monotonic())
                if attempts == 0 or delay is None:
                    if told is failure:
                        raise
                    raise told from failure
            await async_sleep(delay)

    def decode(self, failure: grpc.RpcError | CallCancelledError | AgentChatError) -> AgentChatError:
        """The exception for a failed call."""
        if isinstance(failure, AgentChatError):
            return failure
        if isinstance(failure, CallCancelledError):
            return AgentChatError(f"{self.address.target}: the call was cancelled", code="CANCELLED")
        return decode_failure(failure, self.address.target)

    async def close(self) -> None:
        """Ends the watches and the connection. Calls that are under way fail."""
        await self._close_dependents()
        self._closed = True
        # Those that were made in the meantime.
        await self._close_dependents()
        with self._opening:
            channel, self._channel = self._channel, None
            # Calls after this one ask for the stubs again, and are refused.
            self._stubs = None
        if channel is not None:
            await channel.close()

    async def _close_dependents(self) -> None:
        with self._opening:
            dependents = list(self._dependents)
        for dependent in dependents:
            await dependent.close()


def _closed_error() -> FailedPreconditionError:
    return FailedPreconditionError("this client is closed")
