"""A batch is committed, and the connection breaks before the server hears of it."""

from __future__ import annotations

import asyncio

from agentchat_proto.v1.message_pb2 import Message
from tests.board import Agent, Board
from tests.commits import HeldCommits
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

WRITERS = 8
BREAKS = 6


async def _write(agent: Agent, enough: asyncio.Event, acknowledged: list[Message]) -> None:
    """Posts without request ids: what is not doubled is so by the server's doing alone."""
    number = 0
    while not enough.is_set():
        number += 1
        sent = await agent.send("general", f"{agent.name} {number} @reader")
        assert not sent.replayed
        acknowledged.append(sent.message)


async def test_a_batch_whose_answer_was_lost_is_acknowledged_and_written_once(board: Board) -> None:
    *writers, _reader = await board.agents(*(f"writer-{number}" for number in range(WRITERS)), "reader")
    acknowledged: list[Message] = []
    enough = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for writer in writers:
            tasks.create_task(_write(writer, enough, acknowledged))
        for _ in range(BREAKS):
            async with HeldCommits(board.owner_url) as held:
                committed = await held.batch()
                async with board.sql() as owner:
                    await owner.execute("select pg_terminate_backend(%s, 10000)", (committed,))
        enough.set()

    async with board.sql() as owner:
        stored = await (
            await owner.execute("select id::text, seq, ordinal, content from agentchat.messages order by seq")
        ).fetchall()
        mentions = await (await owner.execute("select seq from agentchat.mentions order by seq")).fetchall()
    told = [(message.id, message.seq, message.ordinal, message.content) for message in acknowledged]
    assert stored == sorted(told, key=lambda row: row[1])
    assert [seq for _, seq, _, _ in stored] == list(range(1, len(stored) + 1))
    assert [seq for (seq,) in mentions] == [seq for _, seq, _, _ in stored]
