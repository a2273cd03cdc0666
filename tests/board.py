"""A board for tests: the real server, and agents that call it through the generated stubs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
import psycopg
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2, status_pb2

from agentchat_db.embedded import EmbeddedPostgres
from agentchat_proto.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    agent_service_pb2_grpc,
    board_service_pb2_grpc,
    channel_service_pb2_grpc,
    file_pb2,
    file_service_pb2,
    file_service_pb2_grpc,
    mention_service_pb2,
    mention_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    search_service_pb2_grpc,
)
from agentchat_server.application import Application
from agentchat_server.identity import hash_key
from agentchat_server.keys import ADMIN_KEY, new_key
from agentchat_server.settings import ServerSettings

R = TypeVar("R")

# What tests do would be too much for the defaults; those of a limit set it.
UNLIMITED: dict[str, Any] = {
    "agent_read_limit": 0,
    "agent_write_limit": 0,
    "global_read_limit": 0,
    "global_write_limit": 0,
    "auth_failure_limit": 0,
    "agent_stream_limit": 10_000,
}

# No call of a test waits longer, in seconds.
DEADLINE = 20.0


@dataclass(frozen=True)
class Cluster:
    """A running Postgres."""

    version: str
    postgres: EmbeddedPostgres


class Failure(Exception):
    """A call failed: what it says, decoded."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(f"{error.code().name}: {error.details()}")
        self.code = error.code()
        self.message = error.details() or ""
        self.info = error_details_pb2.ErrorInfo()
        self.retry: error_details_pb2.RetryInfo | None = None
        self.fields: list[str] = []
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                assert isinstance(value, bytes)
                self._decode(status_pb2.Status.FromString(value))

    def _decode(self, status: status_pb2.Status) -> None:
        assert status.message == self.message
        for detail in status.details:
            bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(self.info):
                assert self.info.domain == "agentchat"
            elif detail.Unpack(bad_request):
                self.fields = [violation.field for violation in bad_request.field_violations]
            elif detail.Unpack(retry):
                self.retry = retry

    @property
    def reason(self) -> str:
        """The ErrorReason, without its prefix."""
        reason: str = self.info.reason
        return reason

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the reason."""
        return dict(self.info.metadata)


class Stubs:
    """All services, called with some metadata, every call with a deadline; failures are `Failure`."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        wrapped: Any = _Channel(channel, metadata)
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(wrapped)
        self.agents: Any = agent_service_pb2_grpc.AgentServiceStub(wrapped)
        self.boards: Any = board_service_pb2_grpc.BoardServiceStub(wrapped)
        self.channels: Any = channel_service_pb2_grpc.ChannelServiceStub(wrapped)
        self.files: Any = file_service_pb2_grpc.FileServiceStub(wrapped)
        self.mentions: Any = mention_service_pb2_grpc.MentionServiceStub(wrapped)
        self.messages: Any = message_service_pb2_grpc.MessageServiceStub(wrapped)
        self.search: Any = search_service_pb2_grpc.SearchServiceStub(wrapped)


class Agent(Stubs):
    """An agent of the board, with shorthands for what tests do most."""

    def __init__(self, channel: grpc.aio.Channel, key: str, name: str | None) -> None:
        metadata = (
            ("x-agent-api-key", key),
            *([("x-agent-name", name)] if name is not None else []),
        )
        super().__init__(channel, metadata)
        self.key = key
        self.name = name or ""

    async def send(
        self, channel: str, content: str, *, metadata: dict[str, Any] | None = None, **fields: Any
    ) -> message_service_pb2.SendMessageResponse:
        """Posts a message."""
        request = message_service_pb2.SendMessageRequest(channel=channel, content=content, **fields)
        if metadata is not None:
            request.metadata.CopyFrom(as_struct(metadata))
        response: message_service_pb2.SendMessageResponse = await self.messages.SendMessage(request)
        return response

    async def direct(
        self, target: str, content: str, **fields: Any
    ) -> message_service_pb2.SendDirectMessageResponse:
        """Posts a direct message."""
        response: message_service_pb2.SendDirectMessageResponse = await self.messages.SendDirectMessage(
            message_service_pb2.SendDirectMessageRequest(target_agent=target, content=content, **fields)
        )
        return response

    async def read(self, channel: str, **fields: Any) -> message_service_pb2.ListMessagesResponse:
        """Reads a page of a channel."""
        response: message_service_pb2.ListMessagesResponse = await self.messages.ListMessages(
            message_service_pb2.ListMessagesRequest(channel=channel, **fields)
        )
        return response

    async def upload(
        self,
        content: bytes,
        channel: str = "general",
        name: str = "notes.txt",
        *,
        timeout: float = DEADLINE,
        **fields: Any,
    ) -> file_service_pb2.UploadFileResponse:
        """Uploads a file in parts of 64 KiB."""
        response: file_service_pb2.UploadFileResponse = await self.files.UploadFile(
            iter(upload_parts(content, channel=channel, name=name, **fields)), timeout=timeout
        )
        return response

    async def download(self, path: str) -> tuple[file_pb2.File, bytes]:
        """Downloads a file."""
        return await self.download_by(file_service_pb2.DownloadFileRequest(path=path))

    async def download_by(self, request: file_service_pb2.DownloadFileRequest) -> tuple[file_pb2.File, bytes]:
        """Downloads a file by its path, or by a token."""
        try:
            async with asyncio.timeout(DEADLINE):
                first, *rest = [part async for part in self.files.DownloadFile(request)]
        except grpc.aio.AioRpcError as error:
            raise Failure(error) from error
        assert first.WhichOneof("part") == "file"
        assert all(part.WhichOneof("part") == "chunk" for part in rest)
        assert all(0 < len(part.chunk) <= 64 * 1024 for part in rest)
        return first.file, b"".join(part.chunk for part in rest)

    async def unread_mentions(self, **fields: Any) -> mention_service_pb2.ListMentionsResponse:
        """Lists unread mentions."""
        response: mention_service_pb2.ListMentionsResponse = await self.mentions.ListMentions(
            mention_service_pb2.ListMentionsRequest(unread_only=True, **fields)
        )
        return response

    def watch_messages(
        self, *channels: str, cursor: str = ""
    ) -> Watch[message_service_pb2.WatchMessagesResponse]:
        """Follows messages."""
        request = message_service_pb2.WatchMessagesRequest(channels=channels, cursor=cursor)
        return Watch(self.messages.WatchMessages(request))

    def watch_mentions(self, *, cursor: str = "") -> Watch[mention_service_pb2.WatchMentionsResponse]:
        """Follows mentions."""
        return Watch(self.mentions.WatchMentions(mention_service_pb2.WatchMentionsRequest(cursor=cursor)))


class Watch(Generic[R]):
    """An open stream. Ends with the block that it is entered in."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def __aenter__(self) -> Watch[R]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call.cancel()

    async def next(self) -> R:
        """The next response, whatever it is. Fails after the deadline."""
        async with asyncio.timeout(DEADLINE):
            try:
                response = await self._call.read()
                if response is grpc.aio.EOF:
                    # The stream ended; its status tells how.
                    raise AssertionError(f"the stream ended with {await self._call.code()}")
            except grpc.aio.AioRpcError as error:
                raise Failure(error) from error
        result: R = response
        return result

    async def next_event(self) -> R:
        """The next response that is no checkpoint."""
        while True:
            response = await self.next()
            if response.WhichOneof("event") != "checkpoint":  # type: ignore[attr-defined]
                return response

    async def until_live(self) -> R:
        """Reads up to the first checkpoint, which is returned: from now on the stream is live."""
        while True:
            response = await self.next()
            if response.WhichOneof("event") == "checkpoint":  # type: ignore[attr-defined]
                return response


class Board:
    """A served board."""

    def __init__(self, application: Application, target: str, owner_url: str, database_url: str) -> None:
        self.application = application
        self.target = target
        self.owner_url = owner_url
        self.database_url = database_url
        self.channel = grpc.aio.insecure_channel(target)
        self.admin_key = new_key(ADMIN_KEY)
        self.admin: Any = Stubs(self.channel, (("x-admin-key", self.admin_key),)).admin

    @classmethod
    @asynccontextmanager
    async def serve(cls, database_url: str, owner_url: str, **settings: Any) -> AsyncIterator[Board]:
        """Serves a board in this process, with settings of the server."""
        chosen = ServerSettings(**{"database_url": database_url, "port": 0, **UNLIMITED, **settings})
        application = Application(chosen)
        port = await application.start()
        served = cls(application, f"127.0.0.1:{port}", owner_url, database_url)
        try:
            async with await psycopg.AsyncConnection.connect(owner_url, autocommit=True) as connection:
                await connection.execute(
                    "select agentchat.create_admin_key_v1(%b)", (hash_key(served.admin_key),)
                )
            yield served
        finally:
            await served.channel.close()
            await application.stop()

    async def machine(self, name: str) -> str:
        """A key for a machine."""
        response = await self.admin.CreateMachineKey(admin_service_pb2.CreateMachineKeyRequest(machine=name))
        key: str = response.key
        return key

    def agent(self, key: str, name: str | None = None) -> Agent:
        """An agent that calls with a key and states a name. It exists from its first call on."""
        return Agent(self.channel, key, name)

    async def agents(self, *names: str) -> list[Agent]:
        """Registered agents on a machine of their own: all that most tests need."""
        key = await self.machine("testbed")
        agents = [self.agent(key, name) for name in names]
        for agent in agents:
            await agent.read("general")
        return agents

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection as the owner of the database, past all policies."""
        async with await psycopg.AsyncConnection.connect(self.owner_url, autocommit=True) as connection:
            yield connection


def upload_parts(
    content: bytes, part_size: int = 64 * 1024, **metadata: Any
) -> list[file_service_pb2.UploadFileRequest]:
    """The parts of an upload."""
    return [
        file_service_pb2.UploadFileRequest(metadata=file_service_pb2.FileMetadata(**metadata)),
        *(
            file_service_pb2.UploadFileRequest(chunk=content[start : start + part_size])
            for start in range(0, len(content), part_size)
        ),
    ]


def as_struct(value: dict[str, Any]) -> Struct:
    """A JSON object as the wire has it."""
    struct = Struct()
    struct.update(value)
    return struct


class _Channel:
    """A channel whose calls carry metadata and a deadline, and fail with `Failure`."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._unary(self._channel.unary_unary(*arguments, **options))

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._unary(self._channel.stream_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        multicallable = self._channel.unary_stream(*arguments, **options)
        return lambda request: multicallable(request, metadata=self._metadata)

    def _unary(self, multicallable: Any) -> Any:
        async def call(request: Any, timeout: float = DEADLINE) -> Any:
            try:
                return await multicallable(request, metadata=self._metadata, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                raise Failure(error) from error

        return call
