"""Boards to measure: an embedded Postgres, databases on it, and a server with its workers.

Everything is in a temporary folder and of the kind that users get: Postgres with the settings of `agentchat
up`, workers started by the supervisor with the server's default settings, save those named in `SETTINGS`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row

from agentchat_db import administration, migrations, queries
from agentchat_db.embedded import EmbeddedPostgres
from agentchat_server.identity import hash_key
from agentchat_server.settings import ServerSettings
from agentchat_server.supervisor import Supervisor
from agentchat_server.writer import new_uuid
from bench import processes
from bench.failures import MeasurementError

T = TypeVar("T")

# The settings of every server that is measured. Limits that refuse load are switched off here, and named
# in the note, which the output repeats.
SETTINGS = ServerSettings(
    database_url="",
    port=0,
    agent_read_limit=0,
    agent_write_limit=0,
    global_read_limit=0,
    global_write_limit=0,
)
SETTINGS_NOTE = "default settings, but rate limits off"

# A machine has at most so many agents.
AGENTS_PER_MACHINE = 200

_TEMPLATE = "board_template"
_PATIENCE = 60.0
_CALLER_SQL = queries.load("caller")
_MESSAGES_SQL = queries.load("messages")


@dataclass(frozen=True)
class Agent:
    """A registered agent and the key that speaks for it."""

    id: UUID
    name: str
    key: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What its calls carry."""
        return (("x-agent-api-key", self.key), ("x-agent-name", self.name))


@dataclass(frozen=True)
class Message:
    """A message to fill a board with."""

    author: Agent
    channel: str
    content: str


class Database:
    """An empty board's database. `url` connects as the owner of all, `app_url` as the server's role."""

    def __init__(self, postgres: EmbeddedPostgres, name: str, files: Path) -> None:
        self.postgres_pid = postgres.pid or 0
        self.files_url = files.as_uri()
        self.url = postgres.dsn(dbname=name)
        self.app_url = postgres.dsn(user="agentchat_app", dbname=name)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection as the owner, in autocommit; rows have attributes."""
        return psycopg.connect(self.url, autocommit=True, row_factory=namedtuple_row)

    def register(self, names: Iterable[str]) -> list[Agent]:
        """Makes agents, and as many machines and keys for them as they need."""
        names, agents = list(names), []
        with self.connect() as connection:
            admin_key = administration.new_admin_key(connection)
            for start in range(0, len(names), AGENTS_PER_MACHINE):
                machine = f"machine-of-{names[start]}"
                key = administration.create_machine_key(connection, admin_key, machine)
                for name in names[start : start + AGENTS_PER_MACHINE]:
                    parameters = {"key_hash": hash_key(key), "name": name}
                    row = connection.execute(_CALLER_SQL["authenticate"], parameters).fetchone()
                    if row is None or row.agent_id is None:
                        raise MeasurementError(f"the agent {name} could not be registered: {row}")
                    agents.append(Agent(row.agent_id, name, key))
            connection.execute("vacuum analyze agentchat.agents, agentchat.channel_memberships")
        return agents

    def fill(self, messages: Iterable[Message], *, batch: int = 500) -> None:
        """Posts messages by the server's own statement, so that the board is as if agents had posted them."""
        waiting: list[Message] = []
        with self.connect() as connection:

            def send() -> None:
                nothing = [None] * len(waiting)
                parameters = {
                    "ids": [new_uuid() for _ in waiting],
                    "key_hashes": [hash_key(message.author.key) for message in waiting],
                    "authors": [message.author.id for message in waiting],
                    "channels": [message.channel for message in waiting],
                    "contents": [message.content for message in waiting],
                    "metadata": nothing,
                    "parents": nothing,
                    "request_ids": nothing,
                    "targets": nothing,
                    "hops": [0] * len(waiting),
                }
                for row in connection.execute(_MESSAGES_SQL["send_batch"], parameters, binary=True):
                    if row.outcome != "SENT":
                        raise MeasurementError(f"filling the board failed: {row.outcome}")
                waiting.clear()

            for message in messages:
                waiting.append(message)
                if len(waiting) >= batch:
                    send()
            if waiting:
                send()
            connection.execute("vacuum analyze")


class Postgres:
    """A running Postgres that makes databases."""

    def __init__(self, embedded: EmbeddedPostgres, folder: Path) -> None:
        self._embedded = embedded
        self._folder = folder
        embedded.ensure_database(_TEMPLATE)
        migrations.apply(embedded.dsn(dbname=_TEMPLATE))

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[Postgres]:
        """Runs a Postgres in a new folder below one, which is removed in the end."""
        with (
            tempfile.TemporaryDirectory(prefix="agentchat-bench-", dir=folder) as data,
            EmbeddedPostgres(Path(data)) as embedded,
        ):
            yield cls(embedded, Path(data))

    @property
    def pid(self) -> int:
        """The process whose children do Postgres' work."""
        return self._embedded.pid or 0

    def database(self, name: str) -> Database:
        """Makes a database with an empty board."""
        with psycopg.connect(self._embedded.dsn(), autocommit=True) as connection:
            statement = sql.SQL("create database {} template {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(_TEMPLATE)))
        return Database(self._embedded, name, self._folder / f"{name}-files")

    def checkpoint(self) -> None:
        """Writes out what is dirty, so that a measurement does not pay for the one before it."""
        with psycopg.connect(self._embedded.dsn(), autocommit=True) as connection:
            connection.execute("checkpoint")


class Server:
    """A served board. The supervisor has an event loop in a thread of its own, which has nothing to do."""

    def __init__(self, database: Database, supervisor: Supervisor) -> None:
        self.database = database
        self.target = f"{supervisor.host}:{supervisor.port}"
        self._supervisor = supervisor

    @classmethod
    @contextmanager
    def running(cls, database: Database, *, workers: int = 1) -> Iterator[Server]:
        """Serves a database's board with a number of workers."""
        settings = dataclasses.replace(SETTINGS, workers=workers, files_url=database.files_url)
        supervisor = Supervisor(settings)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="supervisor", daemon=True)
        thread.start()

        def wait_for(work: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(work, loop).result(_PATIENCE)

        try:
            with _logs_of_children():
                wait_for(supervisor.start(database.app_url))
            try:
                yield cls(database, supervisor)
            finally:
                wait_for(supervisor.stop())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_PATIENCE)
            loop.close()

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers."""
        return self._supervisor.worker_pids

    def connections(self) -> list[int]:
        """How many connections each worker has."""
        return [processes.connections(pid, self._supervisor.port) for pid in self.worker_pids]


@contextmanager
def _logs_of_children() -> Iterator[None]:
    """Lets processes that are started in the block log into a file, shown when the block fails.

    They log every stream that opens, as they would in service.
    """
    with tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
