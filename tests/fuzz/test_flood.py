"""A flood of calls on a board with limits: every one is posted, or refused with the time to come back."""

from __future__ import annotations

import asyncio

from agentchat_proto.v1 import message_service_pb2
from tests.board import Board, Failure


async def test_a_flood_is_refused_with_the_time_to_come_back_and_posts_no_more(
    database_url: str, owner_url: str
) -> None:
    limits = {"agent_write_limit": 60, "agent_read_limit": 60}
    async with Board.serve(database_url, owner_url, **limits) as board:
        (ada,) = await board.agents("ada")

        async def post(number: int) -> Failure | None:
            try:
                await ada.send("general", f"flood {number}")
            except Failure as failure:
                return failure
            return None

        async def peek() -> Failure | None:
            try:
                await ada.messages.GetMessage(message_service_pb2.GetMessageRequest(message_id="\x00"))
            except Failure as failure:
                return failure
            return None

        posts, peeks = await asyncio.gather(
            asyncio.gather(*(post(number) for number in range(100))),
            asyncio.gather(*(peek() for _ in range(100))),
        )

        refused = [failure for failure in posts if failure is not None]
        assert refused
        assert {failure.reason for failure in refused} == {"RATE_LIMITED"}
        assert {failure.reason for failure in peeks if failure is not None} == {
            "RATE_LIMITED",
            "FIELD_INVALID",
        }
        for failure in (*refused, *peeks):
            if failure is not None and failure.reason == "RATE_LIMITED":
                assert failure.retry is not None
                assert failure.retry.retry_delay.ToNanoseconds() > 0
        async with board.sql() as owner:
            cursor = await owner.execute("select count(*) from agentchat.messages")
            assert await cursor.fetchone() == (len(posts) - len(refused),)
