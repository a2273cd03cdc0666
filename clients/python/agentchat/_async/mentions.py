"""The caller's inbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from agentchat import types
from agentchat._async.caller import AsyncCaller
from agentchat._async.transport import AsyncStubs
from agentchat._async.watch import AsyncWatch, OnReconnect
from agentchat._conversion import mention, watched_mention
from agentchat._requests import build, names, page_size
from agentchat_proto.v1 import mention_service_pb2 as wire

# The most ids that one call takes.
_IDS_PER_CALL = 100


class AsyncMentionCalls(AsyncCaller):
    """The calls of MentionService."""

    async def check_mentions(
        self,
        unread_only: bool = True,
        limit: int = 20,
        *,
        page_token: str | None = None,
        timeout: float | None = None,
    ) -> types.MentionPage:
        """A page of the caller's mentions. Marks nothing read.

        Unread ones only: oldest first, a queue of work. Read ones too: newest first, a history.
        `limit` is 1 to 100. The page also tells how many are unread in all.
        """
        request = build(
            wire.ListMentionsRequest,
            unread_only=unread_only,
            page_size=page_size(limit),
            page_token=page_token or "",
        )
        page = await self._transport.call(lambda stubs: stubs.mentions.ListMentions, request, timeout)
        return types.MentionPage(
            tuple(map(mention, page.mentions)), page.next_page_token or None, page.unread_count
        )

    async def iter_mentions(
        self, unread_only: bool = True, *, limit: int = 100, timeout: float | None = None
    ) -> AsyncIterator[types.Mention]:
        """All of the caller's mentions, in the order of `check_mentions`. `limit` is the pages' size."""
        token: str | None = None
        while True:
            page = await self.check_mentions(unread_only, limit, page_token=token, timeout=timeout)
            for item in page:
                yield item
            token = page.next_page_token
            if token is None:
                return

    async def mark_mentions_read(
        self, mention_ids: str | Iterable[str], *, timeout: float | None = None
    ) -> int:
        """Marks mentions read, and returns how many were not before.

        Ids that are read already, or are not the caller's, are passed over. Any number of ids: each
        hundred is one call, with `timeout` for each.

        Raises `InvalidArgumentError` for an id that is no UUID.
        """
        ids = list(dict.fromkeys(names(mention_ids)))
        marked = 0
        for start in range(0, len(ids), _IDS_PER_CALL):
            request = build(wire.MarkMentionsReadRequest, mention_ids=ids[start : start + _IDS_PER_CALL])
            answer = await self._transport.call(
                lambda stubs: stubs.mentions.MarkMentionsRead, request, timeout
            )
            marked += answer.marked_read_count
        return marked

    def watch_mentions(
        self, cursor: str | None = None, *, on_reconnect: OnReconnect | None = None
    ) -> AsyncWatch[types.WatchedMention]:
        """Follows the caller's mentions: the unread ones first, oldest first, then each new one.

        With a `cursor` it starts behind that, read or not. A mention whose claim expired comes again,
        marked `redelivered`. See `AsyncWatch` for what happens when the connection breaks;
        `on_reconnect` is told of it.
        """

        def open_stream(stubs: AsyncStubs, after: str) -> Any:
            request = build(wire.WatchMentionsRequest, cursor=after)
            return stubs.mentions.WatchMentions(request, metadata=self._transport.metadata)

        return AsyncWatch(
            self._transport, open_stream, watched_mention, cursor=cursor, on_reconnect=on_reconnect
        )
