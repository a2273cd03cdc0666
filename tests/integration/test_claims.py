"""Claims: one of several processes works on a mention, and one reply comes of it."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from agentchat import AsyncAgentChatClient, Claim, SentMessage
from agentchat_proto.v1 import admin_service_pb2
from agentchat_proto.v1 import mention_service_pb2 as pb
from tests.board import DEADLINE, Agent, Board, Failure, Watch, as_struct
from tests.conftest import on_both_postgres
from tests.workers import two_workers

pytestmark = on_both_postgres

UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"
NAMESPACE = uuid.UUID("2632cae7-8d83-4a50-8d51-15c5303386a5")
# Seconds that a redelivery may take, on a busy machine.
PATIENCE = 2.0


async def mention_of(author: Agent, name: str, text: str = "please", **fields: Any) -> str:
    """Mentions an agent; returns the message's id."""
    sent = await author.send("general", f"@{name} {text}", **fields)
    message_id: str = sent.message.id
    return message_id


async def unread_ids(agent: Agent) -> list[str]:
    return [mention.id for mention in (await agent.unread_mentions(page_size=100)).mentions]


async def claim(agent: Agent, mention_id: str, seconds: float | None = None) -> pb.ClaimMentionResponse:
    request = pb.ClaimMentionRequest(mention_id=mention_id)
    if seconds is not None:
        request.lease.CopyFrom(lease(seconds))
    response: pb.ClaimMentionResponse = await agent.mentions.ClaimMention(request)
    return response


async def renew(
    agent: Agent, mention_id: str, token: str, seconds: float | None = None
) -> pb.RenewClaimResponse:
    request = pb.RenewClaimRequest(mention_id=mention_id, claim_token=token)
    if seconds is not None:
        request.lease.CopyFrom(lease(seconds))
    response: pb.RenewClaimResponse = await agent.mentions.RenewClaim(request)
    return response


async def release(agent: Agent, mention_id: str, token: str) -> None:
    await agent.mentions.ReleaseClaim(pb.ReleaseClaimRequest(mention_id=mention_id, claim_token=token))


async def complete(
    agent: Agent, mention_id: str, token: str, content: str = "done", **fields: Any
) -> pb.CompleteClaimResponse:
    response: pb.CompleteClaimResponse = await agent.mentions.CompleteClaim(
        pb.CompleteClaimRequest(mention_id=mention_id, claim_token=token, content=content, **fields)
    )
    return response


def lease(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round((seconds - int(seconds)) * 1e9))


async def refused(call: Any) -> tuple[StatusCode, str, dict[str, str]]:
    with pytest.raises(Failure) as failure:
        await call
    return failure.value.code, failure.value.reason, failure.value.metadata


def lost(mention_id: str) -> tuple[StatusCode, str, dict[str, str]]:
    return StatusCode.FAILED_PRECONDITION, "CLAIM_LOST", {"mention_id": mention_id}


async def end_claims(board: Board) -> None:
    """Lets all leases pass, without anybody being told."""
    async with board.sql() as owner:
        await owner.execute(
            "update agentchat.mentions set claimed_until = clock_timestamp()"
            " where claimed_until > clock_timestamp()"
        )


async def expire_in(board: Board, mention_id: str, seconds: float) -> None:
    """Gives the claim on a mention a lease that is shorter than a caller may choose."""
    async with board.sql() as owner:
        await owner.execute(
            "with cut as ("
            " update agentchat.mentions set claimed_until = clock_timestamp() + %(lease)s where id = %(id)s"
            " returning mentioned_agent_id)"
            " select agentchat.claims_changed(mentioned_agent_id, %(lease)s) from cut",
            {"lease": timedelta(seconds=seconds), "id": mention_id},
        )


async def replies(board: Board, message_id: str) -> list[Any]:
    """What was replied to a message: content, hops and request id."""
    async with board.sql() as owner:
        cursor = await owner.execute(
            "select content, hops, request_id from agentchat.messages where parent_message_id = %s",
            (message_id,),
        )
        return await cursor.fetchall()


async def next_again(watch: Watch[pb.WatchMentionsResponse]) -> pb.WatchMentionsResponse:
    """The next mention, which must have been redelivered."""
    event = await watch.next_event()
    assert event.mention_received.redelivered, event
    assert not event.mention_received.mention.HasField("claimed_until")
    return event


@pytest.fixture
async def boards(database_url: str, owner_url: str) -> AsyncIterator[tuple[Board, Board]]:
    """Two servers of one board, which are told of everything: the remedy for being told nothing is off."""
    async with (
        Board.serve(database_url, owner_url, hub_poll_interval=3600.0) as one,
        Board.serve(database_url, owner_url, hub_poll_interval=3600.0) as other,
    ):
        yield one, other


async def test_a_claim_has_a_token_of_its_own_and_a_minute_unless_told_otherwise(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for seconds, expected in [(None, 60.0), (5, 5.0), (3600, 3600.0), (7.25, 7.25)]:
        await mention_of(ada, "bob")
        (mention_id,) = await unread_ids(bob)
        before = time.time()
        claimed = await claim(bob, mention_id, seconds)
        remaining = claimed.mention.claimed_until.ToNanoseconds() / 1e9 - before
        assert expected - 0.1 <= remaining <= expected + PATIENCE
        assert claimed.mention.content == "@bob please"
        assert str(uuid.UUID(claimed.claim_token)) == claimed.claim_token
        assert list((await bob.unread_mentions()).mentions) == [claimed.mention]
        await complete(bob, mention_id, claimed.claim_token)


async def test_of_many_who_claim_at_once_one_wins(boards: tuple[Board, Board]) -> None:
    ada, bob = await boards[0].agents("ada", "bob")
    elsewhere = boards[1].agent(bob.key, "bob")
    await mention_of(ada, "bob")
    (mention_id,) = await unread_ids(bob)
    results = await asyncio.gather(
        *(claim(agent, mention_id) for agent in (bob, elsewhere) for _ in range(10)), return_exceptions=True
    )
    (winner,) = [result for result in results if isinstance(result, pb.ClaimMentionResponse)]
    losers = [result for result in results if isinstance(result, Failure)]
    assert len(losers) == 19
    assert {(loser.code, loser.reason) for loser in losers} == {
        (StatusCode.FAILED_PRECONDITION, "MENTION_CLAIMED")
    }
    await complete(elsewhere, mention_id, winner.claim_token)
    assert await refused(claim(bob, mention_id)) == (
        StatusCode.FAILED_PRECONDITION,
        "MENTION_READ",
        {"mention_id": mention_id},
    )


async def test_leases_out_of_range_and_ids_that_are_none_are_refused(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await mention_of(ada, "bob")
    (mention_id,) = await unread_ids(bob)
    token = (await claim(bob, mention_id)).claim_token
    for seconds in (0, -60, 4.999, 3600.001, 10**12):
        for call in (claim(bob, mention_id, seconds), renew(bob, mention_id, token, seconds)):
            with pytest.raises(Failure) as failure:
                await call
            assert failure.value.fields == ["lease"]
            assert "between 5 seconds and 1 hour" in failure.value.message
    wrong: list[tuple[str, Any]] = [
        ("mention_id", claim(bob, "nonsense")),
        ("mention_id", claim(bob, "")),
        ("mention_id", renew(bob, "", token)),
        ("mention_id", release(bob, "x" * 10_000, token)),
        ("mention_id", complete(bob, "\x00", token)),
        ("claim_token", renew(bob, mention_id, "")),
        ("claim_token", release(bob, mention_id, "nonsense")),
        ("claim_token", complete(bob, mention_id, token[:-1])),
        ("content", complete(bob, mention_id, token, " ")),
        ("content", complete(bob, mention_id, token, "x" * 32_001)),
        ("metadata", complete(bob, mention_id, token, metadata=as_struct({"x": "y" * 5000}))),
    ]
    for field, wrong_call in wrong:
        with pytest.raises(Failure) as failure:
            await wrong_call
        assert failure.value.fields == [field]
    # None of it has touched the claim.
    await complete(bob, mention_id, token)


async def test_forged_tokens_and_foreign_mentions_are_refused(board: Board) -> None:
    ada, bob, eve = await board.agents("ada", "bob", "eve")
    message_id = await mention_of(ada, "bob")
    (mention_id,) = await unread_ids(bob)
    forged = str(uuid.uuid4())
    for call in (renew, release, complete):
        # Nobody has claimed it yet.
        assert await refused(call(bob, mention_id, forged)) == lost(mention_id)
    token = (await claim(bob, mention_id)).claim_token
    for call in (renew, release, complete):
        assert await refused(call(bob, mention_id, forged)) == lost(mention_id)
        for agent, its_id in [(eve, mention_id), (ada, mention_id), (bob, UNKNOWN_ID)]:
            assert await refused(call(agent, its_id, token)) == (
                StatusCode.NOT_FOUND,
                "MENTION_NOT_FOUND",
                {"mention_id": its_id},
            )
    assert (await refused(claim(eve, mention_id)))[1] == "MENTION_NOT_FOUND"
    assert await replies(board, message_id) == []
    await renew(bob, mention_id, token)


async def test_an_expired_claim_wakes_the_watchers_of_every_worker(boards: tuple[Board, Board]) -> None:
    ada, bob = await boards[0].agents("ada", "bob")
    elsewhere = boards[1].agent(bob.key, "bob")
    first_message, *_ = [await mention_of(ada, "bob", name) for name in ("left", "renewed", "cut short")]
    left, renewed, cut_short = await unread_ids(bob)
    async with bob.watch_mentions() as here, elsewhere.watch_mentions() as there:
        cursors = {(await watch.until_live()).cursor for watch in (here, there)}
        started = time.monotonic()
        token = (await claim(bob, left, 7.5)).claim_token
        kept = (await claim(elsewhere, renewed, 7)).claim_token
        shortened = (await claim(bob, cut_short, 3600)).claim_token
        await renew(bob, renewed, kept, 60)
        await renew(elsewhere, cut_short, shortened, 5)
        for mention_id, seconds in ((cut_short, 5), (left, 7.5)):
            for watch in (here, there):
                event = await next_again(watch)
                assert event.mention_received.mention.id == mention_id
                assert {event.cursor} == cursors
                assert seconds <= time.monotonic() - started < seconds + PATIENCE
        # Nobody has taken it over, and still the claim is gone.
        for call in (renew, release, complete):
            assert await refused(call(bob, left, token)) == lost(left)
        second = await claim(elsewhere, left)
        assert second.claim_token != token
        for call in (renew, release, complete):
            assert await refused(call(bob, left, token)) == lost(left)
        await complete(elsewhere, left, second.claim_token, "by the second")
        assert await refused(complete(bob, left, token, "by the first")) == lost(left)
        assert [content for content, *_ in await replies(boards[0], first_message)] == ["by the second"]
        await renew(bob, renewed, kept)
        # Neither the renewed nor the completed one is sent.
        await mention_of(ada, "bob", "new")
        for watch in (here, there):
            event = await watch.next_event()
            assert event.mention_received.mention.content == "@bob new"
            assert not event.mention_received.redelivered


async def test_a_claim_that_was_renewed_does_not_hide_the_next_one_to_expire(
    boards: tuple[Board, Board],
) -> None:
    ada, bob = await boards[0].agents("ada", "bob")
    for name in ("renewed", "left"):
        await mention_of(ada, "bob", name)
    renewed, left = await unread_ids(bob)
    async with bob.watch_mentions() as watch:
        await watch.until_live()
        token = (await claim(bob, renewed)).claim_token
        await claim(bob, left)
        await expire_in(boards[0], renewed, 0.5)
        await renew(bob, renewed, token)
        await expire_in(boards[0], left, 1.0)
        async with asyncio.timeout(1 + PATIENCE):
            assert (await next_again(watch)).mention_received.mention.id == left


async def test_a_released_mention_is_sent_again_at_once_and_each_time(boards: tuple[Board, Board]) -> None:
    ada, bob = await boards[0].agents("ada", "bob")
    elsewhere = boards[1].agent(bob.key, "bob")
    await mention_of(ada, "bob", "one")
    await mention_of(ada, "bob", "two")
    one, two = await unread_ids(bob)
    async with bob.watch_mentions() as here, elsewhere.watch_mentions() as there:
        for watch in (here, there):
            await watch.until_live()
        for mention_id in (one, two, one):
            token = (await claim(bob, mention_id)).claim_token
            released = time.monotonic()
            await release(elsewhere, mention_id, token)
            assert await refused(release(bob, mention_id, token)) == lost(mention_id)
            for watch in (here, there):
                assert (await next_again(watch)).mention_received.mention.id == mention_id
            assert time.monotonic() - released < PATIENCE


async def test_a_process_that_crashed_and_resumes_at_its_cursor_gets_its_mention_again(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for name in ("expired", "released", "untouched", "read"):
        await mention_of(ada, "bob", name)
    expired, released, _, read = await unread_ids(bob)
    async with bob.watch_mentions() as watch:
        cursor = (await watch.until_live()).cursor
    for mention_id in (expired, read):
        await claim(bob, mention_id)
    await release(bob, released, (await claim(bob, released)).claim_token)
    await end_claims(board)
    await bob.mentions.MarkMentionsRead(pb.MarkMentionsReadRequest(mention_ids=[read]))
    await mention_of(ada, "bob", "new")

    async with bob.watch_mentions(cursor=cursor) as watch:
        for mention_id in (released, expired):
            event = await next_again(watch)
            assert (event.mention_received.mention.id, event.cursor) == (mention_id, cursor)
        event = await watch.next_event()
        assert event.mention_received.mention.content == "@bob new"
        assert not event.mention_received.redelivered
        assert event.cursor != cursor
        # Once, although it looks at the same claims again when another ends.
        await watch.until_live()
        await release(bob, expired, (await claim(bob, expired)).claim_token)
        assert (await next_again(watch)).mention_received.mention.id == expired
        await mention_of(ada, "bob", "last")
        assert (await watch.next_event()).mention_received.mention.content == "@bob last"

    async with bob.watch_mentions() as watch:
        events = [(await watch.next_event()).mention_received for _ in range(5)]
        assert [(event.mention.content, event.redelivered) for event in events] == [
            ("@bob expired", True),
            ("@bob released", True),
            ("@bob untouched", False),
            ("@bob new", False),
            ("@bob last", False),
        ]
        await watch.until_live()
        # What the backlog told of is not told again either.
        await release(bob, released, (await claim(bob, released)).claim_token)
        assert (await next_again(watch)).mention_received.mention.id == released
        await mention_of(ada, "bob", "really last")
        assert (await watch.next_event()).mention_received.mention.content == "@bob really last"


async def test_a_claimed_mention_is_in_the_backlog_and_comes_again_when_its_claim_ends(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await mention_of(ada, "bob")
    (mention_id,) = await unread_ids(bob)
    claimed = await claim(bob, mention_id)
    async with bob.watch_mentions() as watch:
        event = (await watch.next_event()).mention_received
        assert (event.mention, event.redelivered) == (claimed.mention, False)
        await release(bob, mention_id, claimed.claim_token)
        assert (await next_again(watch)).mention_received.mention.id == mention_id


@pytest.mark.parametrize("with_cursor", [False, True])
async def test_a_slow_stream_is_sent_every_abandoned_mention_once(
    database_url: str, owner_url: str, with_cursor: bool
) -> None:
    async with Board.serve(database_url, owner_url, stream_backlog=5) as board:
        ada, bob = await board.agents("ada", "bob")
        await asyncio.gather(*(mention_of(ada, "bob", f"{'x' * 20_000} {n}") for n in range(250)))
        async with bob.watch_mentions() as watch:
            ids = [(await watch.next_event()).mention_received.mention.id for _ in range(250)]
            cursor = (await watch.until_live()).cursor
        await asyncio.gather(*(claim(bob, mention_id) for mention_id in ids))
        await end_claims(board)
        async with bob.watch_mentions(cursor=cursor if with_cursor else "") as watch:
            again = [(await next_again(watch)).mention_received.mention.id for _ in range(250)]
            await watch.until_live()
            assert sorted(again) == sorted(ids)
            # All at once, while new ones come.
            tokens = await asyncio.gather(*(claim(bob, mention_id) for mention_id in ids[:40]))
            await asyncio.gather(
                *(
                    release(bob, mention_id, token.claim_token)
                    for mention_id, token in zip(ids[:40], tokens, strict=True)
                ),
                *(mention_of(ada, "bob", f"{'y' * 20_000} {n}") for n in range(40)),
            )
            events = [(await watch.next_event()).mention_received for _ in range(80)]
            assert sorted(e.mention.id for e in events if e.redelivered) == sorted(ids[:40])
            assert len({e.mention.id for e in events if not e.redelivered} - set(ids)) == 40


@pytest.mark.parametrize("remedy", ["reconnecting", "looking"])
async def test_a_claim_that_ends_without_a_notification_is_noticed(
    database_url: str, owner_url: str, remedy: str
) -> None:
    interval = 3600.0 if remedy == "reconnecting" else 0.2
    async with Board.serve(database_url, owner_url, hub_poll_interval=interval) as board:
        ada, bob = await board.agents("ada", "bob")
        await mention_of(ada, "bob")
        (mention_id,) = await unread_ids(bob)
        await claim(bob, mention_id)
        async with bob.watch_mentions() as watch:
            await watch.until_live()
            await end_claims(board)
            if remedy == "reconnecting":
                async with board.sql() as owner:
                    await owner.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where datname = current_database() and pid <> pg_backend_pid()"
                    )
            assert (await next_again(watch)).mention_received.mention.id == mention_id


@pytest.mark.parametrize("end", ["release", "expiry"])
async def test_a_claim_that_ends_while_a_stream_connects_is_not_missed(
    boards: tuple[Board, Board], end: str
) -> None:
    ada, bob = await boards[0].agents("ada", "bob")
    elsewhere = boards[1].agent(bob.key, "bob")
    await mention_of(ada, "bob")
    (mention_id,) = await unread_ids(bob)
    async with bob.watch_mentions() as watch:
        cursor = (await watch.until_live()).cursor

    async def let_go(token: str, delay: float) -> None:
        if end == "release":
            await asyncio.sleep(delay)
            await release(bob, mention_id, token)
        else:
            await expire_in(boards[0], mention_id, delay)

    for number in range(40):
        token = (await claim(bob, mention_id)).claim_token
        ending = asyncio.create_task(let_go(token, number / 2000))
        async with (bob, elsewhere)[number % 2].watch_mentions(cursor=cursor) as watch:
            async with asyncio.timeout(PATIENCE):
                assert (await next_again(watch)).mention_received.mention.id == mention_id
        await ending


async def test_completing_posts_the_reply_and_marks_the_mention_read(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    asked = await ada.send("project-x", "@bob how far is it?")
    (mention_id,) = await unread_ids(bob)
    token = (await claim(bob, mention_id)).claim_token
    async with ada.watch_messages() as watch:
        await watch.until_live()
        done = await complete(
            bob, mention_id, token, "@ada 42 km, ask @nobody", metadata=as_struct({"project": "maps"})
        )
        seen = (await watch.next_event()).message_posted
    reply = done.message
    assert seen.message == reply
    assert (reply.channel_name, reply.content, reply.author_name) == (
        "project-x",
        "@ada 42 km, ask @nobody",
        "bob",
    )
    assert (reply.parent_message_id, reply.hops) == (asked.message.id, 1)
    assert dict(reply.metadata) == {"project": "maps"}
    assert [agent.name for agent in done.mentioned] == ["ada"]
    assert list(done.unknown_mentions) == ["nobody"]
    assert not done.replayed
    assert await replies(board, asked.message.id) == [
        (reply.content, 1, uuid.uuid5(NAMESPACE, mention_id)),
    ]
    assert await unread_ids(bob) == []
    (read,) = (await bob.mentions.ListMentions(pb.ListMentionsRequest())).mentions
    assert read.HasField("read_at")
    assert not read.HasField("claimed_until")

    # Agents that answer each other count their hops.
    for hops, (agent, other) in enumerate([(ada, bob), (bob, ada)], start=2):
        (mention_id,) = await unread_ids(agent)
        claimed = await claim(agent, mention_id)
        assert claimed.mention.hops == hops - 1
        answer = await complete(agent, mention_id, claimed.claim_token, f"@{other.name} thanks")
        assert answer.message.hops == hops
    assert (await bob.send("project-x", "typed", parent_message_id=reply.id)).message.hops == 0


async def test_a_direct_message_is_answered_in_its_thread(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    asked = await ada.direct("bob", "are you there?")
    (mention_id,) = await unread_ids(bob)
    done = await complete(bob, mention_id, (await claim(bob, mention_id)).claim_token, "yes")
    assert (done.message.channel_name, done.message.parent_message_id) == (
        "direct-messages",
        asked.message.id,
    )


async def test_completing_many_times_at_once_posts_one_reply(boards: tuple[Board, Board]) -> None:
    ada, bob = await boards[0].agents("ada", "bob")
    elsewhere = boards[1].agent(bob.key, "bob")
    message_id = await mention_of(ada, "bob")
    (mention_id,) = await unread_ids(bob)
    token = (await claim(bob, mention_id)).claim_token
    results = await asyncio.gather(
        *(complete(agent, mention_id, token) for agent in (bob, elsewhere) for _ in range(10))
    )
    assert len({result.message.id for result in results}) == 1
    assert sorted(result.replayed for result in results) == [False] + [True] * 19
    # Also long after the lease, and after the server was started anew.
    async with boards[0].sql() as owner:
        await owner.execute("update agentchat.mentions set claimed_until = claimed_until - interval '1 hour'")
    async with Board.serve(boards[0].database_url, boards[0].owner_url) as restarted:
        again = await complete(restarted.agent(bob.key, "bob"), mention_id, token)
    assert (again.message, again.replayed) == (results[0].message, True)
    assert len(await replies(boards[0], message_id)) == 1
    for other in (
        complete(bob, mention_id, token, "something else"),
        complete(bob, mention_id, token, metadata=as_struct({"a": 1})),
    ):
        assert await refused(other) == (
            StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
            {"request_id": str(uuid.uuid5(NAMESPACE, mention_id))},
        )
    for call in (renew, release):
        assert await refused(call(bob, mention_id, token)) == lost(mention_id)
    assert await refused(complete(bob, mention_id, str(uuid.uuid4()))) == lost(mention_id)


async def test_a_reply_that_is_refused_leaves_the_claim_as_it_is(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    asked = await ada.send("project-x", "@bob please")
    (mention_id,) = await unread_ids(bob)
    claimed = await claim(bob, mention_id)
    channel = admin_service_pb2.ArchiveChannelRequest(channel="project-x")
    await board.admin.ArchiveChannel(channel)
    assert await refused(complete(bob, mention_id, claimed.claim_token)) == (
        StatusCode.FAILED_PRECONDITION,
        "CHANNEL_ARCHIVED",
        {"channel": "project-x"},
    )
    assert list((await bob.unread_mentions()).mentions) == [claimed.mention]
    assert await replies(board, asked.message.id) == []
    await board.admin.UnarchiveChannel(admin_service_pb2.UnarchiveChannelRequest(channel="project-x"))
    reply = (await complete(bob, mention_id, claimed.claim_token)).message
    await board.admin.ArchiveChannel(channel)
    # What was posted before the channel was archived is told all the same.
    assert (await complete(bob, mention_id, claimed.claim_token)).message == reply
    # The log has no gap.
    async with board.sql() as owner:
        cursor = await owner.execute("select seq from agentchat.messages order by seq")
        assert [seq for (seq,) in await cursor.fetchall()] == [1, 2]


async def test_marking_a_mention_read_ends_its_claim(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    message_id = await mention_of(ada, "bob")
    (mention_id,) = await unread_ids(bob)
    token = (await claim(bob, mention_id)).claim_token
    async with bob.watch_mentions() as watch:
        await watch.until_live()
        marked = await bob.mentions.MarkMentionsRead(pb.MarkMentionsReadRequest(mention_ids=[mention_id]))
        assert marked.marked_read_count == 1
        for call in (renew, release, complete):
            assert await refused(call(bob, mention_id, token)) == lost(mention_id)
        assert (await refused(claim(bob, mention_id)))[1] == "MENTION_READ"
        await end_claims(board)
        await mention_of(ada, "bob", "next")
        assert (await watch.next_event()).mention_received.mention.content == "@bob next"
    assert await replies(board, message_id) == []
    history = (await bob.mentions.ListMentions(pb.ListMentionsRequest())).mentions
    assert not any(mention.HasField("claimed_until") for mention in history)


async def test_a_request_id_that_the_agent_has_used_itself_breaks_nothing(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for content, reason in [("done", ""), ("something else", "REQUEST_ID_REUSED")]:
        message_id = await mention_of(ada, "bob")
        (mention_id,) = await unread_ids(bob)
        token = (await claim(bob, mention_id)).claim_token
        request_id = str(uuid.uuid5(NAMESPACE, mention_id))
        sent = await bob.send("general", content, request_id=request_id, parent_message_id=message_id)
        if not reason:
            # The agent has replied already, by itself.
            done = await complete(bob, mention_id, token)
            assert (done.message.id, done.replayed) == (sent.message.id, True)
            assert await unread_ids(bob) == []
        else:
            assert (await refused(complete(bob, mention_id, token)))[1] == reason
            await renew(bob, mention_id, token)
            await bob.mentions.MarkMentionsRead(pb.MarkMentionsReadRequest(mention_ids=[mention_id]))
        assert len(await replies(board, message_id)) == 1
    # The other way round: a completed reply is what its request id stands for.
    message_id = await mention_of(ada, "bob")
    (mention_id,) = await unread_ids(bob)
    done = await complete(bob, mention_id, (await claim(bob, mention_id)).claim_token)
    sent = await bob.send(
        "general",
        "done",
        request_id=str(uuid.uuid5(NAMESPACE, mention_id)),
        parent_message_id=message_id,
    )
    assert (sent.message.id, sent.replayed) == (done.message.id, True)


async def test_cancelled_calls_leave_one_reply_or_none(boards: tuple[Board, Board]) -> None:
    ada, bob = await boards[0].agents("ada", "bob")
    elsewhere = boards[1].agent(bob.key, "bob")
    for number in range(25):
        message_id = await mention_of(ada, "bob", str(number))
        (mention_id,) = await unread_ids(bob)
        token = (await claim(bob, mention_id)).claim_token
        for attempt in range(3):
            call = asyncio.create_task(complete((bob, elsewhere)[attempt % 2], mention_id, token))
            await asyncio.sleep(number / 4000)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        # One reply and read, or neither; then both.
        done = await complete(bob, mention_id, token)
        assert [content for content, *_ in await replies(boards[0], message_id)] == [done.message.content]
        assert await unread_ids(bob) == []


async def test_a_worker_killed_while_claims_are_completed_leaves_one_reply_for_each(
    database_url: str, owner_url: str
) -> None:
    dice = random.Random(11)
    async with two_workers(database_url, owner_url) as workers:
        ada, bob = await workers.agents("ada", "bob")
        asked = [await mention_of(ada, "bob", str(number)) for number in range(24)]
        clients = [
            AsyncAgentChatClient(workers.target, bob.key, "bob", timeout=DEADLINE, project="killed")
            for _ in range(4)
        ]
        claims = [await clients[0].claim_mention(mention_id) for mention_id in await unread_ids(bob)]

        async def complete_patiently(number: int, claim: Claim) -> SentMessage:
            client = clients[number % len(clients)]
            await asyncio.sleep(dice.random())
            if dice.random() < 0.5:
                # A process that gives up, or crashes, and knows nothing of what became of its call.
                attempt = asyncio.create_task(client.complete_claim(claim, f"answer {number}"))
                await asyncio.sleep(dice.random() / 50)
                attempt.cancel()
                await asyncio.gather(attempt, return_exceptions=True)
            return await client.complete_claim(claim, f"answer {number}")

        completing = [
            asyncio.create_task(complete_patiently(number, claim)) for number, claim in enumerate(claims)
        ]
        async with asyncio.timeout(DEADLINE * 2):
            for number in range(3):
                await asyncio.sleep(0.2 + dice.random() / 5)
                await workers.kill(number % 2)
            done = await asyncio.gather(*completing)
        for client in clients:
            await client.close()
        assert await unread_ids(bob) == []
    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        cursor = await owner.execute(
            "select parent_message_id::text, id::text, content, hops from agentchat.messages"
            " where parent_message_id is not null order by seq"
        )
        found = {
            parent: (reply_id, content, hops) for parent, reply_id, content, hops in await cursor.fetchall()
        }
        assert cursor.rowcount == len(asked)
    assert found == {
        message_id: (sent.message.id, f"answer {number}", 1)
        for number, (message_id, sent) in enumerate(zip(asked, done, strict=True))
    }
