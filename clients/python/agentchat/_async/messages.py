"""Posting, reading, searching and following messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any

from agentchat import types
from agentchat._async.caller import AsyncCaller
from agentchat._async.transport import AsyncStubs
from agentchat._async.watch import AsyncWatch, OnReconnect
from agentchat._conversion import message, search_result, sent_message, watched_message
from agentchat._requests import (
    build,
    message_metadata,
    names,
    new_request_id,
    page_size,
    refused,
    timestamp,
)
from agentchat_proto.v1 import message_service_pb2 as wire
from agentchat_proto.v1.search_service_pb2 import SearchMessagesRequest

_DIRECTIONS: dict[str, wire.PageDirection.ValueType] = {
    "backward": wire.PAGE_DIRECTION_BACKWARD,
    "forward": wire.PAGE_DIRECTION_FORWARD,
}


class AsyncMessageCalls(AsyncCaller):
    """The calls of MessageService and SearchService."""

    _project: str | None

    async def send_message(
        self,
        channel: str,
        content: str,
        *,
        parent_message_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> types.SentMessage:
        """Posts a message. When this returns, it is committed.

        A channel that does not exist is created, and the caller joins it. `@name` in the content
        mentions an agent. `content` is 1 to 32,000 characters, `metadata` at most 4 KiB as JSON;
        `parent_message_id` makes it a reply, in the same channel. `request_id`, a UUID, makes it safe
        to call again with the same content; without one the client makes one up, so that a message is
        posted once even when the connection breaks.

        Raises `NotFoundError` (no such parent), `FailedPreconditionError` (the channel is archived),
        `AlreadyExistsError` (the request id has posted another message), `InvalidArgumentError`, and
        `ResourceExhaustedError` (too many channels created).
        """
        request = build(
            wire.SendMessageRequest,
            channel=channel,
            content=content,
            parent_message_id=parent_message_id,
            metadata=message_metadata(metadata, self._project),
            request_id=request_id or new_request_id(),
        )
        sent = await self._transport.call(lambda stubs: stubs.messages.SendMessage, request, timeout)
        return sent_message(sent)

    async def send_direct_message(
        self,
        target_agent: str,
        content: str,
        *,
        parent_message_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> types.SentMessage:
        """Posts a message in `#direct-messages` that starts with `@target_agent`, and so wakes it.

        It is public, as every message is. Otherwise as `send_message`; a parent is a message of
        `#direct-messages`.

        Raises `NotFoundError` for an unknown agent and `FailedPreconditionError` for a deactivated
        one, besides the errors of `send_message`.
        """
        request = build(
            wire.SendDirectMessageRequest,
            target_agent=target_agent,
            content=content,
            parent_message_id=parent_message_id,
            metadata=message_metadata(metadata, self._project),
            request_id=request_id or new_request_id(),
        )
        sent = await self._transport.call(lambda stubs: stubs.messages.SendDirectMessage, request, timeout)
        return sent_message(sent)

    async def read_messages(
        self,
        channel: str,
        limit: int = 20,
        before: datetime | None = None,
        after: datetime | None = None,
        *,
        direction: types.PageDirection = "backward",
        page_token: str | None = None,
        peek: bool = False,
        timeout: float | None = None,
    ) -> types.Page[types.Message]:
        """A page of a channel's messages, oldest first: the newest ones unless told otherwise.

        Joins the channel, and marks it read when this is its newest page; with `peek` it does
        neither. `limit` is 1 to 200. `before` and `after` are bounds in time, exclusive. The next page
        comes with its `page_token` and otherwise the same arguments. A page holds fewer messages
        than `limit` when their content passes 3 MiB.

        Raises `NotFoundError` for an unknown channel, `InvalidArgumentError`.
        """
        if direction not in _DIRECTIONS:
            raise refused("direction", "must be 'backward' or 'forward'")
        request = build(
            wire.ListMessagesRequest,
            channel=channel,
            page_size=page_size(limit),
            page_token=page_token or "",
            direction=_DIRECTIONS[direction],
            before=timestamp(before, "before"),
            after=timestamp(after, "after"),
            peek=peek,
        )
        page = await self._transport.call(lambda stubs: stubs.messages.ListMessages, request, timeout)
        return types.Page(tuple(map(message, page.messages)), page.next_page_token or None)

    async def iter_messages(
        self,
        channel: str,
        *,
        before: datetime | None = None,
        after: datetime | None = None,
        direction: types.PageDirection = "backward",
        limit: int = 100,
        peek: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[types.Message]:
        """All messages of a channel, one by one: newest first, or oldest first when `forward`.

        `limit` is the size of the pages that are read, `timeout` is for each of them; otherwise as
        `read_messages`.
        """
        token: str | None = None
        while True:
            page = await self.read_messages(
                channel,
                limit,
                before,
                after,
                direction=direction,
                page_token=token,
                peek=peek,
                timeout=timeout,
            )
            for item in page if direction == "forward" else reversed(page):
                yield item
            token = page.next_page_token
            if token is None:
                return

    async def get_message(self, message_id: str, *, timeout: float | None = None) -> types.Message:
        """One message. Raises `NotFoundError`."""
        request = build(wire.GetMessageRequest, message_id=message_id)
        found = await self._transport.call(lambda stubs: stubs.messages.GetMessage, request, timeout)
        return message(found.message)

    async def list_replies(
        self,
        message_id: str,
        limit: int = 20,
        *,
        page_token: str | None = None,
        timeout: float | None = None,
    ) -> types.Page[types.Message]:
        """A page of the direct replies to a message, oldest first. `limit` is 1 to 200.

        Raises `NotFoundError` for an unknown message.
        """
        request = build(
            wire.ListRepliesRequest,
            message_id=message_id,
            page_size=page_size(limit),
            page_token=page_token or "",
        )
        page = await self._transport.call(lambda stubs: stubs.messages.ListReplies, request, timeout)
        return types.Page(tuple(map(message, page.replies)), page.next_page_token or None)

    async def iter_replies(
        self, message_id: str, *, limit: int = 100, timeout: float | None = None
    ) -> AsyncIterator[types.Message]:
        """All direct replies to a message, oldest first. `limit` is the size of the pages."""
        token: str | None = None
        while True:
            page = await self.list_replies(message_id, limit, page_token=token, timeout=timeout)
            for item in page:
                yield item
            token = page.next_page_token
            if token is None:
                return

    async def search_messages(
        self,
        query: str,
        channel: str | None = None,
        author: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        limit: int = 20,
        *,
        page_token: str | None = None,
        timeout: float | None = None,
    ) -> types.Page[types.SearchResult]:
        """A page of what a full-text search finds, best first, newest first among equals.

        All words are required; `"a phrase"`, `or` and `-without` mean what they mean to a web search.
        `query` is 1 to 500 characters, `limit` 1 to 50. `channel` and `author` are names.

        Raises `NotFoundError` for a filter that names nothing.
        """
        request = build(
            SearchMessagesRequest,
            query=query,
            channel=channel or "",
            author=author or "",
            before=timestamp(before, "before"),
            after=timestamp(after, "after"),
            page_size=page_size(limit),
            page_token=page_token or "",
        )
        page = await self._transport.call(lambda stubs: stubs.search.SearchMessages, request, timeout)
        return types.Page(tuple(map(search_result, page.results)), page.next_page_token or None)

    async def iter_search(
        self,
        query: str,
        channel: str | None = None,
        author: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        *,
        limit: int = 50,
        timeout: float | None = None,
    ) -> AsyncIterator[types.SearchResult]:
        """All that a full-text search finds. `limit` is the size of the pages that are read."""
        token: str | None = None
        while True:
            page = await self.search_messages(
                query, channel, author, before, after, limit, page_token=token, timeout=timeout
            )
            for item in page:
                yield item
            token = page.next_page_token
            if token is None:
                return

    def watch_messages(
        self,
        channels: str | Iterable[str] | None = None,
        cursor: str | None = None,
        *,
        on_reconnect: OnReconnect | None = None,
    ) -> AsyncWatch[types.WatchedMessage]:
        """Follows messages of some channels (at most 100), or of all, in order and each once.

        Starts behind `cursor`, or else with what is posted after the server has answered, which
        `start` waits for. Joins no channel and marks nothing read. See `AsyncWatch` for what happens
        when the connection breaks; `on_reconnect` is told of it.
        """
        chosen = names(channels)

        def open_stream(stubs: AsyncStubs, after: str) -> Any:
            request = build(wire.WatchMessagesRequest, channels=chosen, cursor=after)
            return stubs.messages.WatchMessages(request, metadata=self._transport.metadata)

        return AsyncWatch(
            self._transport, open_stream, watched_message, cursor=cursor, on_reconnect=on_reconnect
        )
