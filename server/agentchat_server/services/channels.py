"""ChannelService."""

from __future__ import annotations

from uuid import UUID

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_proto.v1 import channel_pb2, channel_service_pb2_grpc
from agentchat_proto.v1 import channel_service_pb2 as pb
from agentchat_server import conversion, fields
from agentchat_server.identity import current_caller
from agentchat_server.interceptors import Context
from agentchat_server.refusals import InvalidField, Refusal
from agentchat_server.tokens import PageTokens

DIRECT_MESSAGES = "direct-messages"

_SQL = queries.load("channels")
_TYPE_NAMES = {number: name for name, number in conversion.CHANNEL_TYPES.items()}


class ChannelService(channel_service_pb2_grpc.ChannelServiceServicer):
    """The channels of the board and the caller's place in them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ListChannels(
        self, request: pb.ListChannelsRequest, context: Context
    ) -> pb.ListChannelsResponse:
        """Lists channels by name."""
        channel_type = None
        if request.type != channel_pb2.CHANNEL_TYPE_UNSPECIFIED:
            channel_type = _TYPE_NAMES.get(request.type)
            if channel_type is None:
                raise InvalidField("type", "must be one of the known channel types")
        limit = fields.page_size(request.page_size, default=100, maximum=200)
        tokens = PageTokens("channels", "s", channel_type, request.include_not_joined)
        (after,) = tokens.decode(request.page_token) or ("",)
        rows = await self._database.fetch_all(
            Statement(
                _SQL["list_channels"],
                {
                    "after": after,
                    "all": request.include_not_joined,
                    "type": channel_type,
                    "limit": limit + 1,
                },
            ),
            as_agent=current_caller().agent_id,
        )
        return pb.ListChannelsResponse(
            channels=[conversion.channel(row) for row in rows[:limit]],
            next_page_token=tokens.encode(rows[limit - 1].name) if len(rows) > limit else "",
        )

    async def GetChannel(self, request: pb.GetChannelRequest, context: Context) -> pb.GetChannelResponse:
        """Returns one channel."""
        row = await get_channel(self._database, request.channel)
        return pb.GetChannelResponse(channel=conversion.channel(row))

    async def JoinChannel(self, request: pb.JoinChannelRequest, context: Context) -> pb.JoinChannelResponse:
        """Joins a channel."""
        row = await get_channel(self._database, request.channel)
        if row.role is None:
            row = await self._change(row.id, join_channel(row.id))
        return pb.JoinChannelResponse(channel=conversion.channel(row))

    async def LeaveChannel(
        self, request: pb.LeaveChannelRequest, context: Context
    ) -> pb.LeaveChannelResponse:
        """Leaves a channel."""
        row = await get_channel(self._database, request.channel)
        if row.role is not None:
            row = await self._change(
                row.id,
                Statement(
                    _SQL["leave_channel"],
                    {"agent_id": current_caller().agent_id, "channel_id": row.id},
                ),
            )
        return pb.LeaveChannelResponse(channel=conversion.channel(row))

    async def UpdateChannel(
        self, request: pb.UpdateChannelRequest, context: Context
    ) -> pb.UpdateChannelResponse:
        """Describes or archives a channel."""
        description = None
        if request.HasField("description"):
            description = fields.text("description", request.description, fields.MAX_DESCRIPTION)
        archived = request.archived if request.HasField("archived") else None
        row = await get_channel(self._database, request.channel)
        if archived and row.name == DIRECT_MESSAGES:
            raise Refusal("CHANNEL_NOT_ARCHIVABLE", channel=row.name)
        agent_id = current_caller().agent_id
        updated, (changed,) = await self._database.run(
            Statement(
                _SQL["update_channel"],
                {"channel_id": row.id, "description": description, "archived": archived},
            ),
            Statement(_SQL["get_channel_by_id"], {"channel_id": row.id}),
            as_agent=agent_id,
        )
        if not updated:
            raise Refusal("CHANNEL_ADMIN_REQUIRED", channel=row.name)
        return pb.UpdateChannelResponse(channel=conversion.channel(changed))

    async def MarkChannelRead(
        self, request: pb.MarkChannelReadRequest, context: Context
    ) -> pb.MarkChannelReadResponse:
        """Marks a channel read."""
        through = request.through_ordinal if request.HasField("through_ordinal") else None
        if through is not None and through < 1:
            raise InvalidField("through_ordinal", "must be 1 or more")
        row = await get_channel(self._database, request.channel)
        row = await self._change(
            row.id,
            Statement(
                _SQL["mark_channel_read"],
                {"agent_id": current_caller().agent_id, "channel_id": row.id, "read_ordinal": through},
            ),
        )
        return pb.MarkChannelReadResponse(channel=conversion.channel(row))

    async def _change(self, channel_id: UUID, change: Statement) -> Row:
        """Changes the caller's membership; returns the channel as it then is."""
        _, (row,) = await self._database.run(
            change,
            Statement(_SQL["get_channel_by_id"], {"channel_id": channel_id}),
            as_agent=current_caller().agent_id,
        )
        return row


async def get_channel(database: Database, name: str) -> Row:
    """The channel with a name, as the caller sees it.

    Raises:
        Refusal: CHANNEL_NOT_FOUND, or FIELD_INVALID for a string that can be no name.
    """
    fields.name("channel", name)
    row = await database.fetch_one(
        Statement(_SQL["get_channel"], {"channel": name}), as_agent=current_caller().agent_id
    )
    if row is None:
        raise Refusal("CHANNEL_NOT_FOUND", channel=name)
    return row


def join_channel(channel_id: UUID, *, read_ordinal: int | None = None) -> Statement:
    """Joins the caller to a channel, with all of it read, and marks it read up to an ordinal."""
    return Statement(
        _SQL["join_channel"],
        {
            "agent_id": current_caller().agent_id,
            "channel_id": channel_id,
            "read_ordinal": read_ordinal,
        },
    )
