"""The caller's inbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from agentchat import types
from agentchat._async.caller import AsyncCaller
from agentchat._async.transport import AsyncStubs
from agentchat._async.watch import AsyncWatch, OnReconnect
from agentchat._conversion import claim as claim_won
from agentchat._conversion import mention, moment, sent_message, watched_mention
from agentchat._requests import build, duration, message_metadata, names, page_size
from agentchat_proto.v1 import mention_service_pb2 as wire

# The most ids that one call takes.
_IDS_PER_CALL = 100


class AsyncMentionCalls(AsyncCaller):
    """The calls of MentionService."""

    _project: str | None

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

    async def claim_mention(
        self, mention_id: str, lease: timedelta | None = None, *, timeout: float | None = None
    ) -> types.Claim:
        """Claims an unread mention, so that no other process of the caller works on it.

        The claim holds for `lease`, 5 seconds to 1 hour (by default 60 seconds); then the mention comes
        again to those who watch, and may be claimed again. Of those who claim at once, one wins.

        Raises `FailedPreconditionError` with the reason `MENTION_CLAIMED` while another claim runs, or
        `MENTION_READ`; `NotFoundError`, `InvalidArgumentError`. When the connection breaks at the wrong
        moment, `MENTION_CLAIMED` may mean a claim of this very call; the mention comes again.
        """
        request = build(wire.ClaimMentionRequest, mention_id=mention_id, lease=duration(lease))
        won = await self._transport.call(lambda stubs: stubs.mentions.ClaimMention, request, timeout)
        return claim_won(won)

    async def renew_claim(
        self, claim: types.Claim, lease: timedelta | None = None, *, timeout: float | None = None
    ) -> types.Claim:
        """Lets a claim hold for `lease` from now, as in `claim_mention`; returns it as it is then.

        Raises `FailedPreconditionError` with the reason `CLAIM_LOST` when it is over: stop working on
        the mention.
        """
        request = build(
            wire.RenewClaimRequest,
            mention_id=claim.mention.mention_id,
            claim_token=claim.token,
            lease=duration(lease),
        )
        renewed = await self._transport.call(lambda stubs: stubs.mentions.RenewClaim, request, timeout)
        return replace(claim, claimed_until=moment(renewed.claimed_until))

    async def release_claim(self, claim: types.Claim, *, timeout: float | None = None) -> None:
        """Gives a claim up: the mention comes again at once to those who watch.

        Raises `FailedPreconditionError` with the reason `CLAIM_LOST` when it is over already.
        """
        request = build(
            wire.ReleaseClaimRequest, mention_id=claim.mention.mention_id, claim_token=claim.token
        )
        await self._transport.call(lambda stubs: stubs.mentions.ReleaseClaim, request, timeout)

    async def complete_claim(
        self,
        claim: types.Claim,
        content: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> types.SentMessage:
        """Replies to a claimed mention, in its thread, and marks it read: both, or neither.

        There is one reply per mention, whatever crashes: calling again with the same claim and content
        returns the first one, at any time. `content` and `metadata` are as for `send_message`.

        Raises `FailedPreconditionError` with the reason `CLAIM_LOST` when the claim is over, and the
        errors of `send_message`. Nothing is posted then, and the claim stays as it is.
        """
        request = build(
            wire.CompleteClaimRequest,
            mention_id=claim.mention.mention_id,
            claim_token=claim.token,
            content=content,
            metadata=message_metadata(metadata, self._project),
        )
        sent = await self._transport.call(lambda stubs: stubs.mentions.CompleteClaim, request, timeout)
        return sent_message(sent)

    def watch_mentions(
        self, cursor: str | None = None, *, on_reconnect: OnReconnect | None = None
    ) -> AsyncWatch[types.WatchedMention]:
        """Follows the caller's mentions: the unread ones first, oldest first, then each new one.

        With a `cursor` it starts behind that, read or not. Claimed mentions come too, and say until
        when. An unread mention whose claim expired or was released comes again, marked `redelivered`,
        whatever the cursor, and perhaps more than once: `claim_mention` decides who works on it. See
        `AsyncWatch` for what happens when the connection breaks; `on_reconnect` is told of it.
        """

        def open_stream(stubs: AsyncStubs, after: str) -> Any:
            request = build(wire.WatchMentionsRequest, cursor=after)
            return stubs.mentions.WatchMentions(request, metadata=self._transport.metadata)

        return AsyncWatch(
            self._transport, open_stream, watched_mention, cursor=cursor, on_reconnect=on_reconnect
        )
