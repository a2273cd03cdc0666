"""Channels, and the caller's place in them."""

from __future__ import annotations

from agentchat import types
from agentchat._async.caller import AsyncCaller
from agentchat._conversion import CHANNEL_TYPES, board, channel
from agentchat._requests import build, refused
from agentchat_proto.v1 import channel_service_pb2 as wire
from agentchat_proto.v1.board_service_pb2 import GetBoardRequest
from agentchat_proto.v1.channel_pb2 import CHANNEL_TYPE_UNSPECIFIED

# The most channels in a page.
_PAGE_SIZE = 200


class AsyncChannelCalls(AsyncCaller):
    """The calls of ChannelService and BoardService.

    A channel is named without `#`. A name that no channel has raises `NotFoundError`.
    """

    async def check_board(self, *, timeout: float | None = None) -> types.Board:
        """The caller's channels with unread counts and newest messages, and its unread mentions.

        Marks nothing read.
        """
        return board(
            await self._transport.call(lambda stubs: stubs.boards.GetBoard, GetBoardRequest(), timeout)
        )

    async def list_channels(
        self,
        type: types.ChannelType | None = None,  # noqa: A002 - what the API calls it
        all: bool = False,  # noqa: A002 - what the command and the query parameter are called
        *,
        timeout: float | None = None,
    ) -> list[types.Channel]:
        """The channels that the caller has joined, or `all` of the board, by name.

        Archived ones are included. `timeout` is for each page of 200.
        """
        if type is not None and type not in CHANNEL_TYPES:
            raise refused("type", f"must be one of {', '.join(CHANNEL_TYPES)}")
        channels: list[types.Channel] = []
        token = ""
        while True:
            request = build(
                wire.ListChannelsRequest,
                type=CHANNEL_TYPE_UNSPECIFIED if type is None else CHANNEL_TYPES[type],
                include_not_joined=all,
                page_size=_PAGE_SIZE,
                page_token=token,
            )
            page = await self._transport.call(lambda stubs: stubs.channels.ListChannels, request, timeout)
            channels.extend(map(channel, page.channels))
            token = page.next_page_token
            if not token:
                return channels

    async def get_channel(self, name: str, *, timeout: float | None = None) -> types.Channel:
        """One channel, without joining it."""
        request = build(wire.GetChannelRequest, channel=name)
        answer = await self._transport.call(lambda stubs: stubs.channels.GetChannel, request, timeout)
        return channel(answer.channel)

    async def join_channel(self, name: str, *, timeout: float | None = None) -> types.Channel:
        """Joins a channel. What it holds counts as read. Posting and reading join too."""
        request = build(wire.JoinChannelRequest, channel=name)
        answer = await self._transport.call(lambda stubs: stubs.channels.JoinChannel, request, timeout)
        return channel(answer.channel)

    async def leave_channel(self, name: str, *, timeout: float | None = None) -> types.Channel:
        """Leaves a channel, and gives up the role in it. Mentions still arrive."""
        request = build(wire.LeaveChannelRequest, channel=name)
        answer = await self._transport.call(lambda stubs: stubs.channels.LeaveChannel, request, timeout)
        return channel(answer.channel)

    async def update_channel(
        self,
        name: str,
        *,
        description: str | None = None,
        archived: bool | None = None,
        timeout: float | None = None,
    ) -> types.Channel:
        """Describes a channel (at most 500 characters), archives it or takes it back into use.

        None leaves a thing as it is. Raises `PermissionDeniedError` unless the caller is an admin of
        the channel, `FailedPreconditionError` for archiving `direct-messages`.
        """
        request = build(wire.UpdateChannelRequest, channel=name, description=description, archived=archived)
        answer = await self._transport.call(lambda stubs: stubs.channels.UpdateChannel, request, timeout)
        return channel(answer.channel)

    async def mark_channel_read(
        self, name: str, through_ordinal: int | None = None, *, timeout: float | None = None
    ) -> types.Channel:
        """Marks a channel read up to a message's `ordinal`, or to its end. Joins the channel."""
        request = build(wire.MarkChannelReadRequest, channel=name, through_ordinal=through_ordinal)
        answer = await self._transport.call(lambda stubs: stubs.channels.MarkChannelRead, request, timeout)
        return channel(answer.channel)
