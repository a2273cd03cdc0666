"""send_batch called directly, as a worker calls it: what holds although no client can ask for it.

The API checks the caller before a message is queued, and gives every message an id of its own. What happens
when a right ends while a message is queued, or when a batch whose answer was lost is sent again, is seen
here.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from agentchat_db import queries
from agentchat_server.identity import hash_key
from tests.board import Board
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

SEND_BATCH = queries.load("messages")["send_batch"]


@dataclass
class Batches:
    """A writer's connection, and the agent in whose name it writes."""

    connection: psycopg.AsyncConnection[Any]
    board: Board
    key: str
    author: UUID

    async def send(self, *posts: Post) -> list[Any]:
        """Sends a batch; the rows that come back."""
        rows = len(posts)
        cursor = await self.connection.execute(
            SEND_BATCH,
            {
                "ids": [post.id for post in posts],
                "key_hashes": [hash_key(self.key)] * rows,
                "authors": [self.author] * rows,
                "channels": [post.channel for post in posts],
                "contents": [post.content for post in posts],
                "metadata": [None] * rows,
                "parents": [post.parent for post in posts],
                "request_ids": [post.request_id for post in posts],
                "targets": [None] * rows,
                "hops": [0] * rows,
            },
            binary=True,
        )
        return await cursor.fetchall()

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        async with self.board.sql() as connection:
            cursor = await connection.execute(f"select count(*) from agentchat.{table}".encode())
            (count,) = await cursor.fetchone() or (0,)
        return int(count)


@dataclass
class Post:
    """What varies between the messages of these tests."""

    content: str = "hello"
    channel: str = "general"
    parent: UUID | None = None
    request_id: UUID | None = None
    id: UUID = field(default_factory=uuid.uuid4)


@pytest.fixture
async def batches(board: Board, database_url: str) -> AsyncIterator[Batches]:
    key = await board.machine("testbed")
    ada = board.agent(key, "ada")
    author = (await ada.send("global", "first")).message.author_agent_id
    async with await psycopg.AsyncConnection.connect(
        database_url, autocommit=True, row_factory=namedtuple_row
    ) as connection:
        await connection.execute("set role agentchat_app")
        yield Batches(connection, board, key, UUID(author))


async def test_a_batch_that_is_sent_again_writes_nothing_and_answers_the_same(batches: Batches) -> None:
    posts = [Post("one"), Post("two @nobody", channel="project-x"), Post("three", request_id=uuid.uuid4())]
    first = await batches.send(*posts)
    assert [row.outcome for row in first] == ["SENT"] * 3
    messages = await batches.count("messages")
    assert await batches.send(*posts) == first
    # Also when only a part of it had been written, together with something new.
    mixed = await batches.send(posts[2], Post("four"), posts[0])
    assert (mixed[0], mixed[2]) == (first[2], first[0])
    assert mixed[1].seq == first[2].seq + 1
    assert await batches.count("messages") == messages + 1


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ("update agentchat.machine_keys set active = false", "API_KEY_INVALID"),
        ("update agentchat.machine_keys set expires_at = clock_timestamp()", "API_KEY_INVALID"),
        ("update agentchat.agents set removed_at = clock_timestamp()", "API_KEY_INVALID"),
        ("update agentchat.agents set active = false", "AGENT_DEACTIVATED"),
    ],
)
async def test_an_author_who_lost_the_right_while_queued_writes_nothing(
    batches: Batches, change: str, outcome: str
) -> None:
    messages = await batches.count("messages")
    async with batches.board.sql() as connection:
        await connection.execute(change.encode())
    rows = await batches.send(Post(), Post(channel="project-new"))
    assert [(row.outcome, row.message_id) for row in rows] == [(outcome, None)] * 2
    assert await batches.count("messages") == messages
    assert await batches.count("channels") == 5


async def test_a_request_id_repeated_within_a_batch_posts_once(batches: Batches) -> None:
    request_id = uuid.uuid4()
    channels = await batches.count("channels")
    rows = await batches.send(
        Post("same", request_id=request_id),
        Post("same", request_id=request_id),
        Post("other", request_id=request_id),
        Post("same", channel="project-other", request_id=request_id),
    )
    assert [row.outcome for row in rows] == ["SENT", "REPLAYED", "REQUEST_ID_REUSED", "REQUEST_ID_REUSED"]
    assert rows[1].message_id == rows[0].message_id
    # The channel that only a refused message named was not made.
    assert await batches.count("channels") == channels


async def test_a_repeated_request_id_is_refused_with_the_message_that_made_no_channel(
    batches: Batches,
) -> None:
    await batches.send(*(Post(channel=f"project-{number}") for number in range(20)))
    request_id = uuid.uuid4()
    rows = await batches.send(
        Post(channel="project-one-too-many", request_id=request_id),
        Post(channel="project-one-too-many", request_id=request_id),
        Post("fine"),
    )
    assert [row.outcome for row in rows] == ["CHANNEL_LIMIT_REACHED", "CHANNEL_LIMIT_REACHED", "SENT"]


async def test_a_request_id_with_another_parent_is_refused(batches: Batches) -> None:
    (parent,) = await batches.send(Post("parent"))
    request_id = uuid.uuid4()
    await batches.send(Post(request_id=request_id))
    (row,) = await batches.send(Post(request_id=request_id, parent=parent.message_id))
    assert row.outcome == "REQUEST_ID_REUSED"
