"""Commits that are caught between being safe on disk and being answered.

Postgres can wait, at a commit, until a standby has it too. With a standby that does not exist to wait for, a
transaction stops just when it is committed and nobody has heard of it. Whoever ends its connection there
makes the case that nobody can tell from outside: committed, and the answer lost.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

import psycopg

_PATIENCE = 60.0

# The connections that have committed and not yet said so.
_COMMITTED = """
    select pid, strpos(query, 'send_batch') > 0
    from pg_stat_activity
    where wait_event = 'SyncRep'
"""


class HeldCommits:
    """Holds up all commits of a Postgres before they are answered, from the block's start to its end.

    The Postgres may be killed within the block.
    """

    def __init__(self, superuser_url: str) -> None:
        self._url = superuser_url

    async def __aenter__(self) -> Self:
        await self._set_standby("'nobody'")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._set_standby("default")

    async def batch(self) -> int:
        """The process id of a connection that has committed a batch of messages. Lets other commits pass."""
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    cursor = await connection.execute(_COMMITTED)
                    for pid, is_batch in await cursor.fetchall():
                        if is_batch:
                            return int(pid)
                        # It may hold a lock that a batch waits for. Cancelled, the wait ends well.
                        await connection.execute("select pg_cancel_backend(%s)", (pid,))
                    await asyncio.sleep(0.01)

    async def _set_standby(self, name: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                    await connection.execute(f"alter system set synchronous_standby_names = {name}".encode())
                    await connection.execute("select pg_reload_conf()")
                    return
            except psycopg.OperationalError:
                # It is recovering from a kill.
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
