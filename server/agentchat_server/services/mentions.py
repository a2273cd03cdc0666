"""MentionService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NoReturn

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_proto.v1 import mention_pb2, mention_service_pb2_grpc
from agentchat_proto.v1 import mention_service_pb2 as pb
from agentchat_server import conversion, fields
from agentchat_server.identity import Caller, current_caller
from agentchat_server.interceptors import Context
from agentchat_server.refusals import InvalidField, Refusal
from agentchat_server.services.messages import PAGE_BYTES
from agentchat_server.subscription import LogEvent
from agentchat_server.tokens import MAX_BIGINT, PageTokens
from agentchat_server.watching import Watcher

_SQL = queries.load("mentions")
_PLAN_FOR_PARAMETERS = Statement(queries.load("caller")["plan_for_parameters"])
_MAX_MARKED = 100
_CATCH_UP_ROWS = 100


class MentionService(mention_service_pb2_grpc.MentionServiceServicer):
    """The caller's inbox."""

    def __init__(self, database: Database, watcher: Watcher) -> None:
        self._database = database
        self._watcher = watcher

    async def ListMentions(
        self, request: pb.ListMentionsRequest, context: Context
    ) -> pb.ListMentionsResponse:
        """Lists mentions: the unread as a queue, all as a history."""
        agent_id = current_caller().agent_id
        limit = fields.page_size(request.page_size, default=20, maximum=100)
        tokens = PageTokens("mentions", "q", agent_id, request.unread_only)
        position = tokens.decode(request.page_token)
        bounds = {"agent_id": agent_id, "limit": limit + 1, "max_bytes": PAGE_BYTES}
        if request.unread_only:
            page = Statement(
                _SQL["list_unread_mentions"],
                {**bounds, "after": position[0] if position else 0, "through": MAX_BIGINT},
            )
        else:
            page = Statement(
                _SQL["list_mentions"], {**bounds, "before": position[0] if position else MAX_BIGINT}
            )
        _, rows, (unread,) = await self._database.run(
            _PLAN_FOR_PARAMETERS,
            page,
            Statement(_SQL["count_unread_mentions"], {"agent_id": agent_id}),
            as_agent=agent_id,
        )
        more = bool(rows) and rows[0].found > len(rows[:limit])
        rows = rows[:limit]
        return pb.ListMentionsResponse(
            mentions=[conversion.mention(row) for row in rows],
            next_page_token=tokens.encode(rows[-1].seq) if more else "",
            unread_count=unread.unread_count,
        )

    async def MarkMentionsRead(
        self, request: pb.MarkMentionsReadRequest, context: Context
    ) -> pb.MarkMentionsReadResponse:
        """Marks mentions read."""
        if not 1 <= len(request.mention_ids) <= _MAX_MARKED:
            raise InvalidField("mention_ids", f"must be 1 to {_MAX_MARKED} ids")
        mention_ids = [fields.uuid("mention_ids", mention_id) for mention_id in request.mention_ids]
        agent_id = current_caller().agent_id
        rows = await self._database.fetch_all(
            Statement(_SQL["mark_mentions_read"], {"agent_id": agent_id, "mention_ids": mention_ids}),
            as_agent=agent_id,
        )
        return pb.MarkMentionsReadResponse(marked_read_count=len(rows))

    async def WatchMentions(
        self, request: pb.WatchMentionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchMentionsResponse]:
        """Follows the inbox."""
        caller = current_caller()
        hub = self._watcher.hub
        await hub.catch_up()
        after = hub.resume_after(request.cursor) if request.cursor else 0

        async def read(start: int, through: int) -> AsyncIterator[tuple[int, mention_pb2.Mention]]:
            while rows := await self._read_unread(caller, start, through):
                for row in rows:
                    yield row.seq, conversion.mention(row)
                start = rows[-1].seq

        def convert(event: LogEvent) -> mention_pb2.Mention:
            return conversion.new_mention(event.mentions[caller.agent_id], event.message)

        async for watched in self._watcher.watch(
            caller, hub.subscribe(agent_id=caller.agent_id), after=after, read=read, convert=convert
        ):
            if watched.item is None:
                yield pb.WatchMentionsResponse(checkpoint=pb.MentionCheckpoint(), cursor=watched.cursor)
            else:
                received = pb.MentionReceived(mention=watched.item)
                yield pb.WatchMentionsResponse(mention_received=received, cursor=watched.cursor)

    async def ClaimMention(
        self, request: pb.ClaimMentionRequest, context: Context
    ) -> pb.ClaimMentionResponse:
        """Not served yet."""
        _not_served("ClaimMention")

    async def RenewClaim(self, request: pb.RenewClaimRequest, context: Context) -> pb.RenewClaimResponse:
        """Not served yet."""
        _not_served("RenewClaim")

    async def ReleaseClaim(
        self, request: pb.ReleaseClaimRequest, context: Context
    ) -> pb.ReleaseClaimResponse:
        """Not served yet."""
        _not_served("ReleaseClaim")

    async def CompleteClaim(
        self, request: pb.CompleteClaimRequest, context: Context
    ) -> pb.CompleteClaimResponse:
        """Not served yet."""
        _not_served("CompleteClaim")

    async def _read_unread(self, caller: Caller, after: int, through: int) -> list[Row]:
        if after >= through:
            return []
        return await self._database.fetch_all(
            Statement(
                _SQL["list_unread_mentions"],
                {
                    "agent_id": caller.agent_id,
                    "after": after,
                    "through": through,
                    "limit": _CATCH_UP_ROWS,
                    "max_bytes": PAGE_BYTES,
                },
            ),
            as_agent=caller.agent_id,
        )


def _not_served(method: str) -> NoReturn:
    raise Refusal("NOT_IMPLEMENTED", method=method)
