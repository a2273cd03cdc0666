"""Removes what the file store holds and no file names: the leftovers of uploads that were killed.

Only what is older than any upload may take is looked at, so an upload under way loses nothing. Every worker
of every server sweeps by itself, at a random time in the interval: twice is harmless, and so is never for
a while.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from agentchat_db import queries
from agentchat_db.database import Database, Statement
from agentchat_db.exceptions import DatabaseError
from agentchat_server.file_store import FileStore, FileStoreUnavailable

_SQL = queries.load("files")
_log = structlog.get_logger(__name__)


class FileSweeper:
    """Sweeps a file store once in every `interval` seconds. Open it before use; `close` it once."""

    def __init__(self, database: Database, store: FileStore, *, interval: float, age: float) -> None:
        self._database = database
        self._store = store
        self._interval = interval
        self._age = age
        self._sweeping: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Starts to sweep."""
        self._sweeping = asyncio.create_task(self._sweep_repeatedly())

    async def close(self) -> None:
        """Stops."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def sweep(self) -> int:
        """Removes objects older than `age` seconds that no file names; returns how many."""
        removed = 0
        async for keys in self._store.list_old(self._age):
            rows = await self._database.fetch_all(Statement(_SQL["unnamed_keys"], {"store_keys": keys}))
            if rows:
                await self._store.delete(*(row.store_key for row in rows))
                removed += len(rows)
        await self._store.remove_torn(self._age)
        if removed:
            _log.info("orphaned files removed", count=removed)
        return removed

    async def _sweep_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * self._interval)  # noqa: S311 - spreads load
            try:
                await self.sweep()
            except (DatabaseError, FileStoreUnavailable) as error:
                _log.warning("could not sweep the file store", error=str(error))
            except Exception:  # noqa: BLE001 - the next time may go well
                _log.exception("sweeping the file store failed")
