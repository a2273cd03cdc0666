"""MentionService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_proto.v1 import mention_service_pb2 as pb
from agentchat_proto.v1 import mention_service_pb2_grpc
from agentchat_server import conversion, fields
from agentchat_server.claims import ClaimTimer
from agentchat_server.identity import Caller, current_caller
from agentchat_server.interceptors import Context
from agentchat_server.redelivery import Redelivery
from agentchat_server.refusals import InvalidField
from agentchat_server.services.messages import PAGE_BYTES
from agentchat_server.subscription import LogEvent
from agentchat_server.tokens import MAX_BIGINT, PageTokens
from agentchat_server.watching import Watcher
from agentchat_server.writer import new_uuid

_SQL = queries.load("mentions")
_PLAN_FOR_PARAMETERS = Statement(queries.load("caller")["plan_for_parameters"])
_MAX_MARKED = 100
_CATCH_UP_ROWS = 100
_LEAST_LEASE = timedelta(seconds=5)
_DEFAULT_LEASE = timedelta(seconds=60)
_LONGEST_LEASE = timedelta(hours=1)
# The namespace of replies' request ids, as the contract tells it.
_REPLIES = UUID("2632cae7-8d83-4a50-8d51-15c5303386a5")


class MentionService(mention_service_pb2_grpc.MentionServiceServicer):
    """The caller's inbox."""

    def __init__(self, database: Database, watcher: Watcher, claim_timer: ClaimTimer) -> None:
        self._database = database
        self._watcher = watcher
        self._claim_timer = claim_timer

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

    async def ClaimMention(
        self, request: pb.ClaimMentionRequest, context: Context
    ) -> pb.ClaimMentionResponse:
        """Claims a mention."""
        agent_id = current_caller().agent_id
        mention_id = fields.uuid("mention_id", request.mention_id)
        claim_token = uuid4()
        claim = {
            "agent_id": agent_id,
            "mention_id": mention_id,
            "claim_token": claim_token,
            "lease": _lease(request),
        }
        _, (row,) = await self._database.run(
            Statement(_SQL["claim_mention"], claim),
            Statement(_SQL["get_mention"], {"agent_id": agent_id, "mention_id": mention_id}),
            as_agent=agent_id,
        )
        return pb.ClaimMentionResponse(mention=conversion.mention(row), claim_token=str(claim_token))

    async def RenewClaim(self, request: pb.RenewClaimRequest, context: Context) -> pb.RenewClaimResponse:
        """Sets anew when a claim ends."""
        claim = {**_stated_claim(request), "lease": _lease(request)}
        row = await self._database.fetch_row(Statement(_SQL["renew_claim"], claim))
        return pb.RenewClaimResponse(claimed_until=conversion.timestamp(row.claimed_until))

    async def ReleaseClaim(
        self, request: pb.ReleaseClaimRequest, context: Context
    ) -> pb.ReleaseClaimResponse:
        """Gives a claim up."""
        await self._database.run(Statement(_SQL["release_claim"], _stated_claim(request)))
        return pb.ReleaseClaimResponse()

    async def CompleteClaim(
        self, request: pb.CompleteClaimRequest, context: Context
    ) -> pb.CompleteClaimResponse:
        """Posts the reply to a claimed mention and marks it read."""
        caller = current_caller()
        claim = _stated_claim(request)
        mention_id: UUID = claim["mention_id"]
        reply = {
            "key_hash": caller.key_hash,
            "reply_id": new_uuid(),
            "request_id": reply_request_id(mention_id),
            "content": fields.content(request.content),
            "metadata": fields.metadata(request.metadata) if request.HasField("metadata") else None,
        }
        (completed,), (row,) = await self._database.run(
            Statement(_SQL["complete_claim"], {**claim, **reply}),
            Statement(_SQL["get_reply"], {"agent_id": caller.agent_id, "mention_id": mention_id}),
            as_agent=caller.agent_id,
        )
        return pb.CompleteClaimResponse(
            message=conversion.message(row),
            mentioned=conversion.mentioned_agents(completed.mentions),
            unknown_mentions=conversion.unknown_mentions(completed.mentions),
            replayed=completed.replayed,
        )

    async def WatchMentions(
        self, request: pb.WatchMentionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchMentionsResponse]:
        """Follows the inbox."""
        caller = current_caller()
        hub = self._watcher.hub
        await hub.catch_up()
        after = hub.resume_after(request.cursor) if request.cursor else 0

        redelivery = Redelivery(self._database, self._claim_timer, caller.agent_id, max_bytes=PAGE_BYTES)

        def received(row: Row) -> pb.MentionReceived:
            return pb.MentionReceived(mention=conversion.mention(row), redelivered=redelivery.note(row))

        async def read(start: int, through: int) -> AsyncIterator[tuple[int, pb.MentionReceived]]:
            while rows := await self._read_unread(caller, start, through):
                for row in rows:
                    yield row.seq, received(row)
                start = rows[-1].seq

        async def read_again(through: int) -> AsyncIterator[pb.MentionReceived]:
            async for row in redelivery.read(through):
                yield received(row)

        def convert(event: LogEvent) -> pb.MentionReceived:
            mention = conversion.new_mention(event.mentions[caller.agent_id], event.message)
            return pb.MentionReceived(mention=mention)

        async for watched in self._watcher.watch(
            caller,
            hub.subscribe(agent_id=caller.agent_id),
            after=after,
            read=read,
            convert=convert,
            read_again=read_again,
        ):
            if watched.item is None:
                yield pb.WatchMentionsResponse(checkpoint=pb.MentionCheckpoint(), cursor=watched.cursor)
            else:
                yield pb.WatchMentionsResponse(mention_received=watched.item, cursor=watched.cursor)

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


def reply_request_id(mention_id: UUID) -> UUID:
    """The request id of the reply that completes a claim on a mention: the same whoever completes it."""
    return uuid5(_REPLIES, str(mention_id))


def _stated_claim(
    request: pb.RenewClaimRequest | pb.ReleaseClaimRequest | pb.CompleteClaimRequest,
) -> dict[str, Any]:
    """The claim that a request is about, as parameters of its statement."""
    return {
        "agent_id": current_caller().agent_id,
        "mention_id": fields.uuid("mention_id", request.mention_id),
        "claim_token": fields.uuid("claim_token", request.claim_token),
    }


def _lease(request: pb.ClaimMentionRequest | pb.RenewClaimRequest) -> timedelta:
    if not request.HasField("lease"):
        return _DEFAULT_LEASE
    return fields.duration("lease", request.lease, least=_LEAST_LEASE, most=_LONGEST_LEASE)
