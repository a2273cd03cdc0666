"""The pool of connections that calls share."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from uuid import uuid4

from agentchat_db.database import Database, Statement

_ANSWER = Statement("select %(number)s::integer as number", {"number": 42})


async def test_a_call_that_was_cancelled_leaves_its_connection_in_order(database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    await database.open()
    try:
        for steps in range(8):
            task = asyncio.create_task(database.run(_ANSWER, _ANSWER, as_agent=uuid4()))
            for _ in range(steps):
                # A loop that was busy for so long makes psycopg yield where it would not otherwise, in the
                # middle of switching to pipeline mode.
                time.sleep(0.02)  # noqa: ASYNC251
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

            for number in range(3):
                statement = Statement(_ANSWER.sql, {"number": number})
                assert (await database.fetch_row(statement)).number == number
    finally:
        await database.close()
