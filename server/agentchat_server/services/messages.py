"""MessageService."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from uuid import UUID

from google.protobuf.struct_pb2 import Struct

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_proto.v1 import message_service_pb2 as pb
from agentchat_proto.v1 import message_service_pb2_grpc
from agentchat_server import conversion, fields
from agentchat_server.identity import Caller, current_caller
from agentchat_server.interceptors import Context
from agentchat_server.posting import post_message
from agentchat_server.refusals import InvalidField, Refusal
from agentchat_server.services.channels import DIRECT_MESSAGES, get_channel, join_channel
from agentchat_server.subscription import LogEvent
from agentchat_server.tokens import PageTokens
from agentchat_server.watching import Watcher
from agentchat_server.writer import MessageWriter

# A page ends at this many bytes of content, which leaves room below gRPC's limit of 4 MiB a message.
PAGE_BYTES = 3 * 1024 * 1024

_SQL = queries.load("messages")
_CHANNELS_SQL = queries.load("channels")
_LOG_SQL = queries.load("log")
_MAX_WATCHED_CHANNELS = 100
_CATCH_UP_ROWS = 200


class MessageService(message_service_pb2_grpc.MessageServiceServicer):
    """Posting, reading and following messages."""

    def __init__(self, database: Database, writer: MessageWriter, watcher: Watcher) -> None:
        self._database = database
        self._writer = writer
        self._watcher = watcher

    async def SendMessage(self, request: pb.SendMessageRequest, context: Context) -> pb.SendMessageResponse:
        """Posts a message."""
        posted = await post_message(
            self._writer,
            current_caller(),
            channel=fields.name("channel", request.channel),
            content=fields.content(request.content),
            metadata=_metadata(request),
            parent=_uuid(request, "parent_message_id"),
            request_id=_uuid(request, "request_id"),
        )
        return pb.SendMessageResponse(
            message=posted.message,
            mentioned=posted.mentioned,
            unknown_mentions=posted.unknown_mentions,
            replayed=posted.replayed,
        )

    async def SendDirectMessage(
        self, request: pb.SendDirectMessageRequest, context: Context
    ) -> pb.SendDirectMessageResponse:
        """Posts to #direct-messages, with the target's mention in front."""
        caller = current_caller()
        target = fields.name("target_agent", request.target_agent.removeprefix("@").lower())
        if target == caller.name:
            raise InvalidField("target_agent", "must be another agent than the caller")
        posted = await post_message(
            self._writer,
            caller,
            channel=DIRECT_MESSAGES,
            content=_addressed(target, fields.content(request.content)),
            metadata=_metadata(request),
            parent=_uuid(request, "parent_message_id"),
            request_id=_uuid(request, "request_id"),
            target=target,
        )
        return pb.SendDirectMessageResponse(
            message=posted.message,
            mentioned=posted.mentioned,
            unknown_mentions=posted.unknown_mentions,
            replayed=posted.replayed,
        )

    async def ListMessages(
        self, request: pb.ListMessagesRequest, context: Context
    ) -> pb.ListMessagesResponse:
        """Returns a page of a channel."""
        if request.direction not in pb.PageDirection.values():
            raise InvalidField("direction", "must be one of the known directions")
        forward = request.direction == pb.PAGE_DIRECTION_FORWARD
        limit = fields.page_size(request.page_size, default=20, maximum=200)
        before = fields.upper_bound("before", request.before) if request.HasField("before") else None
        after = fields.moment("after", request.after) if request.HasField("after") else None

        channel = await get_channel(self._database, request.channel)
        tokens = PageTokens("messages", "q", channel.id, forward, before, after)
        position = tokens.decode(request.page_token)

        # The page is what lies between two ordinals, both exclusive.
        first = 0 if after is None else await self._messages_before(channel.id, fields.just_after(after))
        last = channel.message_count + 1
        if before is not None:
            last = min(last, 1 + await self._messages_before(channel.id, before))
        if position is not None:
            first, last = (int(position[0]), last) if forward else (first, min(last, int(position[0])))

        rows = await self._database.fetch_all(
            Statement(
                _SQL["list_messages_forward" if forward else "list_messages_backward"],
                {
                    "channel_id": channel.id,
                    "after": first,
                    "before": last,
                    "limit": limit,
                    "max_bytes": PAGE_BYTES,
                },
            )
        )
        next_page_token = ""
        # Ordinals have no gaps, so whether there is more is arithmetic.
        if rows and (rows[-1].ordinal + 1 < last if forward else rows[-1].ordinal - 1 > first):
            next_page_token = tokens.encode(rows[-1].ordinal)
        if not forward:
            rows.reverse()

        if not request.peek:
            newest = not (forward or position or before or after)
            await self._note_read(channel, rows[-1].ordinal if newest and rows else None)
        return pb.ListMessagesResponse(
            messages=[conversion.message(row) for row in rows], next_page_token=next_page_token
        )

    async def GetMessage(self, request: pb.GetMessageRequest, context: Context) -> pb.GetMessageResponse:
        """Returns one message."""
        message_id = fields.uuid("message_id", request.message_id)
        row = await self._database.fetch_one(Statement(_SQL["get_message"], {"message_id": message_id}))
        if row is None:
            raise Refusal("MESSAGE_NOT_FOUND", message_id=str(message_id))
        return pb.GetMessageResponse(message=conversion.message(row))

    async def ListReplies(self, request: pb.ListRepliesRequest, context: Context) -> pb.ListRepliesResponse:
        """Returns a page of the replies to a message."""
        message_id = fields.uuid("message_id", request.message_id)
        limit = fields.page_size(request.page_size, default=20, maximum=200)
        tokens = PageTokens("replies", "q", message_id)
        (after,) = tokens.decode(request.page_token) or (0,)
        parents, rows = await self._database.run(
            Statement(_SQL["get_message"], {"message_id": message_id}),
            Statement(
                _SQL["list_replies"],
                {
                    "message_id": message_id,
                    "after": after,
                    "limit": limit + 1,
                    "max_bytes": PAGE_BYTES,
                },
            ),
            as_agent=current_caller().agent_id,
        )
        if not parents:
            raise Refusal("MESSAGE_NOT_FOUND", message_id=str(message_id))
        page = rows[:limit]
        return pb.ListRepliesResponse(
            replies=[conversion.message(row) for row in page],
            next_page_token=tokens.encode(page[-1].seq) if page and page[0].found > len(page) else "",
        )

    async def WatchMessages(
        self, request: pb.WatchMessagesRequest, context: Context
    ) -> AsyncIterator[pb.WatchMessagesResponse]:
        """Follows the log."""
        caller = current_caller()
        hub = self._watcher.hub
        channel_ids = await self._watched_channels(list(request.channels))
        await hub.catch_up()
        after = hub.resume_after(request.cursor) if request.cursor else hub.head

        async def read(start: int, through: int) -> AsyncIterator[tuple[int, pb.MessagePosted]]:
            recent = hub.recent(start, through)
            if recent is not None:
                for event in recent:
                    if channel_ids is None or event.channel_id in channel_ids:
                        yield event.seq, convert(event)
                return
            while rows := await self._read_watched(caller, channel_ids, start, through):
                for row in rows:
                    yield row.seq, _posted_row(row)
                start = rows[-1].seq

        def convert(event: LogEvent) -> pb.MessagePosted:
            return pb.MessagePosted(message=event.message, mention_id=event.mentions.get(caller.agent_id))

        async for watched in self._watcher.watch(
            caller, hub.subscribe(channel_ids=channel_ids), after=after, read=read, convert=convert
        ):
            if watched.item is None:
                yield pb.WatchMessagesResponse(checkpoint=pb.Checkpoint(), cursor=watched.cursor)
            else:
                yield pb.WatchMessagesResponse(message_posted=watched.item, cursor=watched.cursor)

    async def _messages_before(self, channel_id: UUID, moment: object) -> int:
        row = await self._database.fetch_row(
            Statement(_SQL["messages_before"], {"channel_id": channel_id, "moment": moment})
        )
        count: int = row.count_
        return count

    async def _note_read(self, channel: Row, read_ordinal: int | None) -> None:
        """Joins the caller to the channel; with an ordinal, marks the channel read up to it."""
        if channel.role is not None and (read_ordinal is None or read_ordinal <= channel.read_ordinal):
            return
        await self._database.run(
            join_channel(channel.id, read_ordinal=read_ordinal), as_agent=current_caller().agent_id
        )

    async def _watched_channels(self, names: list[str]) -> frozenset[UUID] | None:
        if not names:
            return None
        if len(names) > _MAX_WATCHED_CHANNELS:
            raise InvalidField(
                "channels", f"must be at most {_MAX_WATCHED_CHANNELS}; name none to follow all"
            )
        for name in names:
            fields.name("channels", name)
        rows = await self._database.fetch_all(Statement(_CHANNELS_SQL["find_channels"], {"channels": names}))
        found = {row.name: row.id for row in rows}
        for name in names:
            if name not in found:
                raise Refusal("CHANNEL_NOT_FOUND", channel=name)
        return frozenset(found.values())

    async def _read_watched(
        self, caller: Caller, channel_ids: frozenset[UUID] | None, after: int, through: int
    ) -> list[Row]:
        return await self._database.fetch_all(
            Statement(
                _LOG_SQL["read_watched_log"],
                {
                    "after": after,
                    "through": through,
                    "channel_ids": None if channel_ids is None else list(channel_ids),
                    "agent_id": caller.agent_id,
                    "limit": _CATCH_UP_ROWS,
                    "max_bytes": PAGE_BYTES,
                },
            ),
            as_agent=caller.agent_id,
        )


def _metadata(request: pb.SendMessageRequest | pb.SendDirectMessageRequest) -> Struct | None:
    return request.metadata if request.HasField("metadata") else None


def _uuid(request: pb.SendMessageRequest | pb.SendDirectMessageRequest, field: str) -> UUID | None:
    return fields.uuid(field, getattr(request, field)) if request.HasField(field) else None  # type: ignore[arg-type]


def _addressed(target: str, content: str) -> str:
    """The content, with the target's mention in front unless it is there."""
    if re.match(rf"@{target}(?![a-z0-9_-]*[a-z0-9])", content, re.ASCII | re.IGNORECASE):
        return content
    return f"@{target} {content}"


def _posted_row(row: Row) -> pb.MessagePosted:
    mention_id = None if row.mention_id is None else str(row.mention_id)
    return pb.MessagePosted(message=conversion.message(row), mention_id=mention_id)
