"""A worker's connections to Postgres.

Statements come from the `.sql` files of this package and run as the role `agentchat_app`, whatever role
the connection string logs in as. What is read or written on behalf of an agent states that agent to the
row-level security policies in the same transaction and the same round trip: psycopg's pipeline sends the
statements together, and Postgres runs a pipeline up to its end as one transaction.

The driver's errors end here: what leaves this module is one of `agentchat_db.exceptions`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString, TypeAlias
from uuid import UUID

import psycopg
import psycopg_pool
from psycopg.rows import namedtuple_row

from agentchat_db import queries
from agentchat_db.exceptions import DatabaseDefect, DatabaseRefusal, DatabaseTimeout, DatabaseUnavailable

# A row: an attribute for each column.
Row: TypeAlias = Any
Connection: TypeAlias = "psycopg.AsyncConnection[Row]"

_STATE_CALLER = queries.load("caller")["state_caller"]

# SQLSTATE with which the functions of the schema refuse; see the migration `administration`.
_REFUSAL = "AGCHT"

_SESSION_SETTINGS = """
    select set_config(setting.name, setting.value, false)
    from (values
        ('role', 'agentchat_app'),
        ('timezone', 'UTC'),
        ('jit', 'off'),
        ('statement_timeout', %(timeout)s),
        ('idle_in_transaction_session_timeout', %(timeout)s)
    ) as setting (name, value)
"""


@dataclass(frozen=True)
class PoolUse:
    """How many connections a pool has, how many of them serve a statement, and how many statements wait."""

    connections: int
    in_use: int
    waiting: int


@dataclass(frozen=True)
class Statement:
    """A named statement and its parameters."""

    sql: LiteralString
    parameters: dict[str, Any] = field(default_factory=dict)


class Database:
    """A pool of connections for short statements, and the maker of connections to keep.

    `statement_timeout` is in seconds: no statement runs, and no transaction idles, longer. `observe`, given
    names and text of the statements of a `run`, makes a block that is entered around it.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        statement_timeout: float = 15.0,
        observe: Callable[[str, str], AbstractContextManager[None]] | None = None,
    ) -> None:
        self._url = url
        self._observe = observe
        self._timeout = f"{round(statement_timeout * 1000)}ms"
        self._attempts = pool_size + 1
        self._pool = psycopg_pool.AsyncConnectionPool[Connection](
            url,
            kwargs={"autocommit": True, "row_factory": namedtuple_row, "prepare_threshold": 0},
            configure=self._configure,
            min_size=1,
            max_size=pool_size,
            timeout=4.0,
            # The first connection of a pool that has lost all is tried again soon, and without end.
            reconnect_timeout=float("inf"),
            open=False,
        )

    async def open(self, *, timeout: float = 30.0) -> None:
        """Connects.

        Raises:
            DatabaseUnavailable: when Postgres refuses, or there is no connection within `timeout` seconds.
        """
        # The pool would try on in silence; a connection of our own tells what is wrong.
        await (await self.connect()).close()
        with translated_errors():
            await self._pool.open(wait=True, timeout=timeout)

    async def close(self) -> None:
        """Closes the pool; connections that were made by `connect` are their owners' to close."""
        await self._pool.close()

    def pool_use(self) -> PoolUse:
        """How busy the pool is at the moment."""
        stats = self._pool.get_stats()
        connections = stats.get("pool_size", 0)
        return PoolUse(
            connections, connections - stats.get("pool_available", 0), stats.get("requests_waiting", 0)
        )

    async def connect(self) -> Connection:
        """Makes a connection outside the pool, in autocommit.

        Raises:
            DatabaseUnavailable: when Postgres cannot be reached.
        """
        with translated_errors():
            connection: Connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                row_factory=namedtuple_row,
                prepare_threshold=0,
                connect_timeout=4,
            )
            try:
                await self._configure(connection)
            except BaseException:
                await connection.close()
                raise
            return connection

    async def run(
        self, *statements: Statement, as_agent: UUID | None = None, idempotent: bool = True
    ) -> list[list[Row]]:
        """Runs statements in one transaction and one round trip; returns the rows of each.

        With `as_agent` the policies let them see and change what that agent may. A statement that is
        `idempotent` is sent again when its connection turns out to be dead, so that a restart of Postgres
        is not felt by every connection of the pool once.

        Raises:
            DatabaseRefusal, DatabaseUnavailable, DatabaseTimeout
        """
        if self._observe is None:
            return await self._run_until_connected(statements, as_agent, idempotent)
        names = ", ".join(queries.name_of(statement.sql) for statement in statements)
        with self._observe(names, ";\n".join(statement.sql for statement in statements)):
            return await self._run_until_connected(statements, as_agent, idempotent)

    async def fetch_all(
        self, statement: Statement, *, as_agent: UUID | None = None, idempotent: bool = True
    ) -> list[Row]:
        """Runs one statement as `run` does; returns its rows."""
        return (await self.run(statement, as_agent=as_agent, idempotent=idempotent))[0]

    async def fetch_one(
        self, statement: Statement, *, as_agent: UUID | None = None, idempotent: bool = True
    ) -> Row | None:
        """Runs one statement as `run` does; returns its first row, None when there is none."""
        rows = await self.fetch_all(statement, as_agent=as_agent, idempotent=idempotent)
        return rows[0] if rows else None

    async def fetch_row(
        self, statement: Statement, *, as_agent: UUID | None = None, idempotent: bool = True
    ) -> Row:
        """Runs a statement that always returns a row, as `run` does; returns its first row."""
        return (await self.fetch_all(statement, as_agent=as_agent, idempotent=idempotent))[0]

    async def _run_until_connected(
        self, statements: tuple[Statement, ...], as_agent: UUID | None, idempotent: bool
    ) -> list[list[Row]]:
        for attempt in range(self._attempts):
            try:
                with translated_errors():
                    async with self._pool.connection() as connection:
                        try:
                            return await _run(connection, statements, as_agent)
                        finally:
                            await _close_if_unusable(connection)
            except DatabaseUnavailable as error:
                if not (error.connection_lost and idempotent) or attempt == self._attempts - 1:
                    raise
        raise AssertionError("unreachable")

    async def _configure(self, connection: Connection) -> None:
        await connection.execute(_SESSION_SETTINGS, {"timeout": self._timeout})


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns the driver's errors into `agentchat_db.exceptions`."""
    try:
        yield
    except psycopg_pool.PoolTimeout as error:
        raise DatabaseUnavailable("no connection to Postgres within the time allowed") from error
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
        raise DatabaseTimeout(str(error)) from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(str(error), connection_lost=True) from error
    except psycopg.Error as error:
        if error.sqlstate == _REFUSAL:
            metadata = json.loads(error.diag.message_detail or "{}")
            raise DatabaseRefusal(error.diag.message_primary or "", metadata) from error
        raise DatabaseDefect(error.sqlstate, error.diag.message_primary) from None


async def _close_if_unusable(connection: Connection) -> None:
    """Closes a connection that is still in pipeline mode, so that the pool does not lend it again.

    psycopg leaves it so when a task is cancelled while it switches to the mode: the statements of whoever
    came next would be queued, and answered with nothing.
    """
    if connection.pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF:
        await connection.close()


async def _run(
    connection: Connection, statements: tuple[Statement, ...], as_agent: UUID | None
) -> list[list[Row]]:
    if as_agent is None and len(statements) == 1:
        cursor = await connection.execute(statements[0].sql, statements[0].parameters)
        return [await cursor.fetchall() if cursor.description else []]
    async with connection.pipeline():
        if as_agent is not None:
            await connection.execute(_STATE_CALLER, {"agent_id": as_agent})
        cursors = [await connection.execute(s.sql, s.parameters) for s in statements]
    return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]
