"""The log: one order for everything, on two workers, whatever happens to the calls."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from itertools import pairwise

import grpc
import grpc.aio
import psycopg
import pytest

from agentchat_proto.v1 import admin_service_pb2
from agentchat_proto.v1.message_service_pb2 import SendMessageRequest, WatchMessagesResponse
from tests.board import Agent, Board, Failure, Watch
from tests.conftest import on_both_postgres
from tests.workers import two_workers

pytestmark = on_both_postgres

WRITERS = 8
MESSAGES = 5_000
# Each writer's posts, of which every tenth is refused for one reason or another.
POSTS = MESSAGES // WRITERS


async def _write(agent: Agent, dice: random.Random, acknowledged: dict[str, str]) -> Counter[str]:
    """Posts; notes what was acknowledged, by message id; counts the refusals by reason."""
    refused: Counter[str] = Counter()
    for number in range(POSTS):
        content = f"{agent.name} {number}"
        request = SendMessageRequest(channel=dice.choice(("general", "project-a", "tech-b")), content=content)
        if number % 10 == 9:
            match dice.randrange(4):
                case 0:
                    request.channel = "project-archived"
                case 1:
                    request.parent_message_id = str(uuid.uuid4())
                case 2:
                    request.content = "x" * 32_001
                case _:
                    request.request_id = _reused_id(agent)
        elif number == 0:
            request.request_id = _reused_id(agent)
        try:
            sent = await agent.messages.SendMessage(request)
        except Failure as failure:
            refused[failure.reason] += 1
        else:
            acknowledged[sent.message.id] = content
    return refused


def _reused_id(agent: Agent) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, agent.name))


async def _resume(
    agent: Agent, dice: random.Random, seen: list[WatchMessagesResponse], stop: int, cursor: str
) -> int:
    """Follows the log up to a number of messages, reconnecting often; returns how often it connected."""
    connections = 1
    while len(seen) < stop:
        connections += 1
        budget = dice.randint(100, 1500)
        async with agent.watch_messages(cursor=cursor) as watch:
            while budget and len(seen) < stop:
                response = await watch.next()
                cursor = response.cursor
                if response.WhichOneof("event") == "message_posted":
                    seen.append(response)
                    budget -= 1
    return connections


async def test_the_log_has_no_gap_no_duplicate_and_loses_nothing(database_url: str, owner_url: str) -> None:
    async with two_workers(database_url, owner_url) as workers:
        writers = await workers.agents(*(f"writer-{number}" for number in range(WRITERS)))
        watchers = await workers.agents(*(f"watcher-{number}" for number in range(4)))
        await writers[0].send("project-archived", "before it was archived")
        await workers.admin.ArchiveChannel(
            admin_service_pb2.ArchiveChannelRequest(channel="project-archived")
        )
        expected = WRITERS * (POSTS - POSTS // 10)
        seen: list[list[WatchMessagesResponse]] = [[] for _ in watchers]
        live = [asyncio.Event() for _ in watchers]

        async def follow(index: int) -> int:
            async with watchers[index].watch_messages() as watch:
                cursor = (await watch.until_live()).cursor
            live[index].set()
            return await _resume(watchers[index], random.Random(index), seen[index], expected, cursor)

        acknowledged: dict[str, str] = {}
        async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(follow(index)) for index in range(len(watchers))]
            await asyncio.gather(*(event.wait() for event in live))
            writing = [
                tasks.create_task(_write(writer, random.Random(number), acknowledged))
                for number, writer in enumerate(writers)
            ]
        refused = sum((task.result() for task in writing), Counter())

    assert len(acknowledged) == expected
    assert sum(refused.values()) == WRITERS * (POSTS // 10)
    assert set(refused) == {"CHANNEL_ARCHIVED", "MESSAGE_NOT_FOUND", "FIELD_INVALID", "REQUEST_ID_REUSED"}
    assert all(task.result() > 1 for task in following)

    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        cursor = await owner.execute(
            "select seq, id::text, content, channel_id, ordinal, created_at"
            " from agentchat.messages order by seq"
        )
        rows = await cursor.fetchall()
        cursor = await owner.execute("select id, message_count from agentchat.channels")
        counts: dict[uuid.UUID, int] = dict(await cursor.fetchall())
        cursor = await owner.execute("select seq, last_created_at from agentchat.log_position")
        position = await cursor.fetchone()
    assert [row[0] for row in rows] == list(range(1, expected + 2))
    assert position == (rows[-1][0], rows[-1][5])
    assert {row[1]: row[2] for row in rows[1:]} == acknowledged
    assert all(earlier[5] < later[5] for earlier, later in pairwise(rows))
    ordinals: dict[uuid.UUID, list[int]] = {}
    for row in rows:
        ordinals.setdefault(row[3], []).append(row[4])
    for channel_id, found in ordinals.items():
        assert found == list(range(1, counts[channel_id] + 1))
    for events in seen:
        assert [event.message_posted.message.seq for event in events] == list(range(2, expected + 2))
        assert [event.message_posted.message.id for event in events] == [row[1] for row in rows[1:]]


async def test_cancelled_calls_neither_lose_nor_double_what_was_acknowledged(board: Board) -> None:
    (ada,) = await board.agents("ada")
    dice = random.Random(7)
    acknowledged: set[str] = set()

    async def send(number: int) -> None:
        sent = await ada.send("general", f"message {number}")
        acknowledged.add(sent.message.content)

    tasks = [asyncio.create_task(send(number)) for number in range(400)]
    for task in dice.sample(tasks, 150):
        await asyncio.sleep(dice.random() / 500)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await ada.send("general", "the last")  # whatever was taken before it is committed by now
    async with board.sql() as owner:
        cursor = await owner.execute("select content, ordinal from agentchat.messages order by seq")
        rows = await cursor.fetchall()
    contents = [content for content, _ in rows]
    assert len(contents) == len(set(contents))
    assert acknowledged <= set(contents)
    assert len(acknowledged) >= 250
    assert [ordinal for _, ordinal in rows] == list(range(1, len(rows) + 1))


async def test_a_slow_stream_loses_nothing(database_url: str, owner_url: str) -> None:
    async with Board.serve(database_url, owner_url, stream_backlog=5, ring_events=20) as board:
        ada, bob = await board.agents("ada", "bob")
        async with ada.watch_messages() as watch, bob.watch_mentions() as inbox:
            await watch.until_live()
            await inbox.until_live()
            await asyncio.gather(*(ada.send("general", f"@bob {'x' * 20_000} {n}") for n in range(200)))
            assert [(await watch.next_event()).message_posted.message.seq for _ in range(200)] == list(
                range(1, 201)
            )
            assert [(await inbox.next_event()).mention_received.mention.seq for _ in range(200)] == list(
                range(1, 201)
            )


async def test_a_watch_of_some_channels_sees_only_those_and_whether_it_is_mentioned(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("project-x", "old")
    async with bob.watch_messages("project-x", "general") as watch:
        start = (await watch.until_live()).cursor
        await ada.send("global", "elsewhere")
        await ada.send("project-x", "one")
        await ada.send("tech-y", "elsewhere")
        await ada.send("general", "two, @bob")
        one, two = await watch.next_event(), await watch.next_event()
    assert [event.message_posted.message.content for event in (one, two)] == ["one", "two, @bob"]
    assert not one.message_posted.HasField("mention_id")
    (mention,) = (await bob.unread_mentions()).mentions
    assert two.message_posted.mention_id == mention.id
    async with bob.watch_messages("project-x", "general", cursor=start) as watch:
        assert await watch.next_event() == one
        assert await watch.next_event() == two
    with pytest.raises(Failure) as failure:
        async with bob.watch_messages("project-nowhere") as watch:
            await watch.next()
    assert failure.value.reason == "CHANNEL_NOT_FOUND"


async def test_a_mention_watch_starts_with_the_unread_backlog_and_then_follows(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(3):
        await ada.send("general", f"@bob {number}")
    async with bob.watch_mentions() as watch:
        backlog = [await watch.next_event() for _ in range(3)]
        await watch.until_live()
        await ada.send("general", "not for bob")
        await ada.send("general", "@bob 3")
        live = await watch.next_event()
    contents = [event.mention_received.mention.content for event in (*backlog, live)]
    assert contents == ["@bob 0", "@bob 1", "@bob 2", "@bob 3"]
    listed = (await bob.unread_mentions()).mentions
    assert [event.mention_received.mention for event in (*backlog, live)] == list(listed)
    async with bob.watch_mentions(cursor=backlog[1].cursor) as watch:
        assert (await watch.next_event()).mention_received.mention.content == "@bob 2"


async def test_quiet_streams_send_checkpoints_that_move_on(database_url: str, owner_url: str) -> None:
    async with Board.serve(database_url, owner_url, checkpoint_interval=0.05) as board:
        ada, bob = await board.agents("ada", "bob")
        async with bob.watch_mentions() as watch:
            first = await watch.until_live()
            await ada.send("general", "nothing for bob")
            cursors = {first.cursor}
            while len(cursors) < 2:
                cursors.add((await watch.next()).cursor)


async def test_cursors_of_another_log_or_ahead_of_it_are_refused_with_the_head(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("general", "one")
    async with bob.watch_messages() as watch:
        cursor = (await watch.until_live()).cursor

    async def refused(bad: str) -> Failure:
        with pytest.raises(Failure) as failure:
            async with bob.watch_messages(cursor=bad) as watch:
                await watch.next()
        return failure.value

    for bad in ("nonsense", cursor[:-1], cursor + "AAAA", "ü", "A" * 5000):
        assert (await refused(bad)).reason == "CURSOR_INVALID"
    # The log was restored from a backup that does not have the message yet.
    async with board.sql() as owner:
        await owner.execute("delete from agentchat.messages")
        await owner.execute("update agentchat.log_position set seq = 0")
        await owner.execute("update agentchat.channels set message_count = 0, last_seq = 0")
    async with Board.serve(board.database_url, board.owner_url) as restored:
        bob = restored.agent(bob.key, "bob")
        failure = await refused(cursor)
        assert (failure.code, failure.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_AHEAD")
        async with bob.watch_messages(cursor=failure.metadata["head"]) as watch:
            await watch.until_live()
    async with board.sql() as owner:
        await owner.execute("update agentchat.log_position set log_id = gen_random_uuid()")
    async with Board.serve(board.database_url, board.owner_url) as other:
        bob = other.agent(bob.key, "bob")
        failure = await refused(cursor)
        assert (failure.code, failure.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_FOREIGN")


async def test_stopping_the_server_ends_streams_with_unavailable_and_flushes_posts(
    database_url: str, owner_url: str
) -> None:
    async with Board.serve(database_url, owner_url) as board:
        (ada,) = await board.agents("ada")
        async with ada.watch_messages() as watch:
            await watch.until_live()
            posts = [asyncio.create_task(ada.send("general", f"{n}")) for n in range(50)]
            await asyncio.sleep(0.01)
            stopping = asyncio.create_task(board.application.stop())
            with pytest.raises(Failure) as failure:
                await _read_to_the_end(watch)
            assert failure.value.code is grpc.StatusCode.UNAVAILABLE
            results = await asyncio.gather(*posts, return_exceptions=True)
            await stopping
        acknowledged = {r.message.id for r in results if not isinstance(r, BaseException)}
        async with board.sql() as owner:
            cursor = await owner.execute("select id::text from agentchat.messages")
            assert acknowledged <= {row[0] for row in await cursor.fetchall()}


async def _read_to_the_end(watch: Watch[WatchMessagesResponse]) -> None:
    while True:
        await watch.next()


async def test_lost_connections_to_postgres_are_survived(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    async with bob.watch_messages() as watch:
        await watch.until_live()
        sent = []
        for number in range(5):
            async with board.sql() as owner:
                await owner.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
            sent.append((await ada.send("general", f"after cut {number}")).message)
            assert (await ada.read("general")).messages[-1] == sent[-1]
        seen = [(await watch.next_event()).message_posted.message for _ in sent]
    assert seen == sent
