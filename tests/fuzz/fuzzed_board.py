"""A board with something of everything on it, and a way to call it with any bytes.

Two machines with three agents, an agent with a key of its own and one that was deactivated; channels, one of
them archived; threads, long and odd messages; mentions unread, read, claimed and released; files. `knowledge`
has the names and ids of all that by kind, and page tokens, cursors and keys, real and nearly real ones.

What a call has changed is put back before the next one, save for messages, which stay: so one board serves
many examples, and each of them means what it meant before. `fingerprint` tells whether anything has changed,
by the versions that Postgres gives to rows: a write that changes nothing counts too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

import grpc
import grpc.aio
import psycopg
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agentchat_proto.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    channel_service_pb2,
    file_service_pb2,
    mention_service_pb2,
    message_service_pb2,
    search_service_pb2,
)
from agentchat_server.tokens import Cursor
from tests.board import DEADLINE, Agent, Board
from tests.file_stores import LocalFolder
from tests.fuzz.methods import Method
from tests.fuzz.wire import Knowledge

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"

MAX_FILE_BYTES = 256 * 1024
"""Less than by default, so that it takes no time to send more."""

# A stream that is silent for so long, in seconds, after its first response, has nothing to say for now.
_QUIET = 0.05
_MAX_RESPONSES = 5

# What grpc.aio's client says when a call ends while it sends: it then loses the status that the server gave.
_STATUS_LOST = "Internal error from Core"

# Every table whose rows a refused call must leave alone. Who was seen when, and who has called for the first
# time, is none of that.
_FINGERPRINT = """
select 'agents', md5(string_agg(row (id, name, machine, key_hash, description, capabilities, active,
                                     removed_at)::text, ',' order by id))
from agentchat.agents where name like any (%(agents)s)
union all
select 'machine_keys', md5(string_agg(row (id, machine, active, expires_at)::text, ',' order by id))
from agentchat.machine_keys
union all
select 'channel_memberships', md5(string_agg(row (m.ctid, m.xmin)::text, ',' order by m.ctid))
from agentchat.channel_memberships m join agentchat.agents a on a.id = m.agent_id
where a.name like any (%(agents)s)
union all
select 'log_position', md5(p::text) from agentchat.log_position p
"""
_ROW_VERSIONS = """
union all
select '{table}', count(*) || ':' || md5(string_agg(row (ctid, xmin)::text, ',' order by ctid))
from agentchat.{table}
"""
_FINGERPRINT += "".join(
    _ROW_VERSIONS.format(table=table) for table in ("messages", "mentions", "channels", "files")
)

_REMEMBERED = ("agents", "machine_keys", "channels", "channel_memberships", "mentions", "messages")
_REMEMBER = "create schema prepared;" + "".join(
    f"create table prepared.{table} as table agentchat.{table};" for table in _REMEMBERED
)
_RESTORE = """
update agentchat.agents a
set machine = p.machine, key_hash = p.key_hash, description = p.description, capabilities = p.capabilities,
    active = p.active, removed_at = p.removed_at
from prepared.agents p
where a.id = p.id;
update agentchat.machine_keys k
set active = p.active, expires_at = p.expires_at
from prepared.machine_keys p
where k.id = p.id;
update agentchat.channels c
set archived = coalesce(p.archived, false), description = coalesce(p.description, ''),
    created_by = p.created_by
from agentchat.channels every left join prepared.channels p on p.id = every.id
where c.id = every.id;
insert into agentchat.channel_memberships table prepared.channel_memberships
on conflict (agent_id, channel_id) do update set role = excluded.role, read_ordinal = excluded.read_ordinal;
delete from agentchat.mentions where id not in (select id from prepared.mentions);
insert into agentchat.mentions table prepared.mentions
on conflict (id) do update
set read_at = excluded.read_at, claim_token = excluded.claim_token, claimed_until = excluded.claimed_until,
    reply_message_id = excluded.reply_message_id;
update agentchat.messages
set request_id = null
where request_id is not null and id not in (select id from prepared.messages);
notify agentchat_identities;
"""


@dataclass
class Outcome:
    """How a call ended."""

    code: grpc.StatusCode
    message: str = ""
    trailing: tuple[tuple[str, str | bytes], ...] = ()
    responses: list[Message] = field(default_factory=list)
    seconds: float = 0.0


class FuzzedBoard:
    """The board. Get one from `prepared`."""

    def __init__(self, board: Board, files: LocalFolder, owner: psycopg.Connection[Any]) -> None:
        self.files = files
        self.target = board.target
        self.knowledge: dict[str, Sequence[str]] = {}
        # Of agents: the first may do most.
        self.callers: list[Metadata] = []
        self.admin: Metadata = (("x-admin-key", board.admin_key),)
        self._channel: Any = grpc.aio.insecure_channel(board.target)
        self._owner = owner

    @classmethod
    @asynccontextmanager
    async def prepared(
        cls, database_url: str, owner_url: str, files: LocalFolder
    ) -> AsyncIterator[FuzzedBoard]:
        """Serves a board and puts things on it."""
        settings: dict[str, Any] = {"files_url": files.url, "max_file_bytes": MAX_FILE_BYTES}
        with psycopg.connect(owner_url, autocommit=True) as owner:
            async with Board.serve(database_url, owner_url, **settings) as board:
                fuzzed = cls(board, files, owner)
                await _Preparation(board, fuzzed).make()
                owner.execute(_REMEMBER.encode())
                yield fuzzed
                await fuzzed._channel.close()

    def metadata_for(self, method: Method, caller: int) -> Metadata:
        """What a call of a method states: the key of an administrator, or of one of the agents."""
        return self.admin if method.for_admins else self.callers[caller % len(self.callers)]

    def fingerprint(self) -> dict[str, object]:
        """What refused calls leave as it is."""
        rows = self._owner.execute(_FINGERPRINT, {"agents": ["forge-%", "harbor-%", "herald"]}).fetchall()
        return {**dict(rows), "stored files": self.files.names()}

    def restore(self) -> None:
        """Puts back what calls have changed, except for the log."""
        self._owner.execute(_RESTORE.encode())

    async def call(self, method: Method, requests: Sequence[bytes], metadata: Metadata) -> Outcome:
        """Calls a method with bytes; again when the client did not see how the call ended."""
        while True:
            outcome = await self._call_once(method, requests, metadata)
            if outcome.message != _STATUS_LOST:
                return outcome

    async def _call_once(self, method: Method, requests: Sequence[bytes], metadata: Metadata) -> Outcome:
        """Calls a method.

        A stream is read until it ends, has sent a few responses, or is silent, and then cancelled: OK.
        """
        started = time.perf_counter()
        outcome = Outcome(grpc.StatusCode.OK)
        decode = method.response_class.FromString
        try:
            if method.server_streaming:
                await self._read(self._open(method, requests, metadata), outcome)
            elif method.client_streaming:
                call = self._channel.stream_unary(method.path, None, decode)(
                    _each(requests), metadata=metadata, timeout=DEADLINE
                )
                outcome.responses.append(await call)
            else:
                unary = self._channel.unary_unary(method.path, None, decode)
                outcome.responses.append(await unary(requests[0], metadata=metadata, timeout=DEADLINE))
        except grpc.aio.AioRpcError as error:
            outcome.code = error.code()
            outcome.message = error.details() or ""
            outcome.trailing = tuple(error.trailing_metadata() or ())
        outcome.seconds = time.perf_counter() - started
        return outcome

    async def give_up(self, method: Method, requests: Sequence[bytes], metadata: Metadata) -> None:
        """Calls a method of many requests, and cancels the call when they are sent."""
        call = self._channel.stream_unary(method.path, None, None)(metadata=metadata, timeout=DEADLINE)
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for request in requests:
                await call.write(request)
        call.cancel()
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await call

    def _open(self, method: Method, requests: Sequence[bytes], metadata: Metadata) -> Any:
        decode = method.response_class.FromString
        if method.client_streaming:
            both = self._channel.stream_stream(method.path, None, decode)
            return both(_each(requests), metadata=metadata, timeout=DEADLINE)
        stream = self._channel.unary_stream(method.path, None, decode)
        return stream(requests[0], metadata=metadata, timeout=DEADLINE)

    async def _read(self, call: Any, outcome: Outcome) -> None:
        try:
            while len(outcome.responses) < _MAX_RESPONSES:
                async with asyncio.timeout(_QUIET if outcome.responses else DEADLINE):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return
                outcome.responses.append(response)
        except TimeoutError:
            return
        finally:
            call.cancel()


async def _each(requests: Sequence[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


class _Preparation:
    """Puts things on an empty board, and notes what they are called."""

    def __init__(self, board: Board, fuzzed: FuzzedBoard) -> None:
        self._board = board
        self._fuzzed = fuzzed

    async def make(self) -> None:
        board = self._board
        forge, harbor = await board.machine("forge"), await board.machine("harbor")
        self.alpha = alpha = board.agent(forge, "forge-alpha")
        self.beta = beta = board.agent(forge, "forge-beta")
        gamma, retired = board.agent(harbor, "harbor-gamma"), board.agent(harbor, "harbor-retired")
        for agent in (alpha, beta, gamma, retired):
            await agent.read("general")
        herald_key = (
            await board.admin.CreateAgentKey(admin_service_pb2.CreateAgentKeyRequest(agent="herald"))
        ).key
        await board.admin.DeactivateAgent(admin_service_pb2.DeactivateAgentRequest(agent="harbor-retired"))
        self._fuzzed.callers = [
            (("x-agent-api-key", forge), ("x-agent-name", "forge-alpha")),
            (("x-agent-api-key", harbor), ("x-agent-name", "harbor-gamma")),
            (("x-agent-api-key", herald_key),),
        ]
        self._fuzzed.knowledge = {
            "agents": ("forge-beta", "harbor-gamma", "forge-alpha", "harbor-retired", "nobody-here"),
            "machines": ("forge", "harbor", "nowhere"),
            "keys": (forge, harbor, herald_key, board.admin_key),
            **await self._messages(gamma),
            **await self._mentions(gamma),
            **await self._files(),
            **await self._machine_keys(),
            **await self._places(),
        }

    async def _messages(self, gamma: Agent) -> Knowledge:
        alpha = self.alpha
        await gamma.send("tech-rust", "rocket science")
        await alpha.send("env-old", "what was")
        await alpha.channels.UpdateChannel(
            channel_service_pb2.UpdateChannelRequest(channel="env-old", archived=True)
        )
        request_ids = [str(uuid4()), str(uuid4())]
        root = (await alpha.send("project-apollo", "hello rocket", request_id=request_ids[0])).message
        replies = [
            (await gamma.send("project-apollo", f"rocket {n}", parent_message_id=root.id)).message
            for n in range(4)
        ]
        odd = ("🚀" * 32_000, "İ ß \u202e e\u0301", "'; drop table messages; --", "rocket " * 400)
        for content in odd:
            await gamma.send("project-apollo", content, metadata={"project": "apollo", "n": [1, 2.5, None]})
        return {
            "channels": ("project-apollo", "general", "tech-rust", "direct-messages", "env-old", "no-such"),
            "messages": (root.id, *(reply.id for reply in replies), str(uuid4())),
            "request_ids": (*request_ids, str(uuid4()), str(uuid4())),
        }

    async def _mentions(self, gamma: Agent) -> Knowledge:
        alpha, beta = self.alpha, self.beta
        for n in range(8):
            await gamma.send("project-apollo", f"@forge-alpha rocket task {n}")
        await gamma.send("project-apollo", "@forge-beta not for alpha")
        mine = [mention.id for mention in (await alpha.unread_mentions()).mentions]
        foreign = [mention.id for mention in (await beta.unread_mentions()).mentions]
        tokens = []
        for mention_id in (mine[0], mine[2], mine[3]):
            claim = mention_service_pb2.ClaimMentionRequest(mention_id=mention_id)
            claim.lease.FromSeconds(3600)
            tokens.append((await alpha.mentions.ClaimMention(claim)).claim_token)
        await alpha.mentions.ReleaseClaim(
            mention_service_pb2.ReleaseClaimRequest(mention_id=mine[3], claim_token=tokens[2])
        )
        await alpha.mentions.MarkMentionsRead(
            mention_service_pb2.MarkMentionsReadRequest(mention_ids=mine[4:5])
        )
        return {
            "mentions": (*mine[:6], *foreign, str(uuid4())),
            "claim_tokens": (*tokens, str(uuid4())),
        }

    async def _files(self) -> Knowledge:
        alpha = self.alpha
        request_id = str(uuid4())
        uploaded = [
            (await alpha.upload(b"x" * 1000, "project-apollo", "a.txt", request_id=request_id)).file.path,
            (await alpha.upload(b"", "project-apollo", "empty", unannounced=True)).file.path,
            (await alpha.upload(b"y" * 200_000, "project-apollo", "Ünïcode 🚀.bin")).file.path,
        ]
        signed = await alpha.files.CreateDownloadUrl(
            file_service_pb2.CreateDownloadUrlRequest(path=uploaded[0])
        )
        return {
            "paths": (*uploaded, "project-apollo/1700000000000-gone.txt"),
            "download_tokens": (signed.download_token,),
        }

    async def _machine_keys(self) -> Knowledge:
        await self._board.machine("forge")
        listed = await self._board.admin.ListMachineKeys(admin_service_pb2.ListMachineKeysRequest())
        return {"machine_keys": (*(key.id for key in listed.machine_keys), str(uuid4()))}

    async def _places(self) -> Knowledge:
        """Page tokens of all lists, and cursors."""
        alpha, channel = self.alpha, "project-apollo"
        root = (await alpha.read(channel, direction=message_service_pb2.PAGE_DIRECTION_FORWARD)).messages[0]
        before = Timestamp(seconds=4_102_444_800)
        pages = [
            await alpha.read(channel, page_size=1),
            await alpha.read(channel, page_size=1, before=before),
            await alpha.messages.ListReplies(
                message_service_pb2.ListRepliesRequest(message_id=root.id, page_size=1)
            ),
            await alpha.search.SearchMessages(
                search_service_pb2.SearchMessagesRequest(query="rocket", page_size=1)
            ),
            await alpha.agents.ListAgents(agent_service_pb2.ListAgentsRequest(page_size=1)),
            await alpha.channels.ListChannels(channel_service_pb2.ListChannelsRequest(page_size=1)),
            await alpha.unread_mentions(page_size=1),
            await alpha.mentions.ListMentions(mention_service_pb2.ListMentionsRequest(page_size=1)),
            await alpha.files.ListFiles(file_service_pb2.ListFilesRequest(channel=channel, page_size=1)),
            await self._board.admin.ListMachineKeys(admin_service_pb2.ListMachineKeysRequest(page_size=1)),
        ]
        async with alpha.watch_messages() as watch:
            now = (await watch.until_live()).cursor
        here = Cursor.decode(now)
        return {
            "page_tokens": tuple(page.next_page_token for page in pages),
            "cursors": (
                Cursor(here.log_id, 0).encode(),
                Cursor(here.log_id, here.seq - 3).encode(),
                now,
                Cursor(here.log_id, here.seq + 10**6).encode(),
                Cursor(here.log_id, 2**63 - 1).encode(),
                Cursor(uuid4(), 1).encode(),
            ),
        }
