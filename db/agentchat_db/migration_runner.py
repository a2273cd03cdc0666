"""Runs migrations with yoyo-migrations. Imported by `migrations` when there is something to run.

yoyo keeps the record: its tables say which migration was applied when, by whom and from where. Four things
are done otherwise than its own runner does them:

- A file is sent to Postgres as it is, in one simple query. yoyo would first take it apart with sqlparse,
  which guesses where statements end; Postgres knows. It also tells the line of a mistake.
- A migration and its record are written in one transaction. yoyo uses two on two connections, and a crash
  between them would have the migration run again.
- yoyo's lock table is not used: a crash would leave it locked. `migrations` holds an advisory lock.
- What yoyo would ask the machine for its log (the user's name, the full host name) is not to be had in some
  containers, or only after a time-out.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from yoyo import default_migration_table
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration as YoyoMigration
from yoyo.migrations import StepCollector

from agentchat_db.exceptions import MigrationError
from agentchat_db.migrations import Migration

SCHEMA = "agentchat_migrations"

# `agentchat serve` checks, with no other rights than the server's, that nothing is pending.
_LET_SERVER_READ = f"""
do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'agentchat_app')
       and not pg_catalog.has_schema_privilege('agentchat_app', '{SCHEMA}', 'usage') then
        grant usage on schema {SCHEMA} to agentchat_app;
        grant select on all tables in schema {SCHEMA} to agentchat_app;
    end if;
end
$$
"""


def run(dsn: str, migrations: Sequence[Migration]) -> None:
    """Applies migrations in the order given.

    Raises:
        MigrationError: with what Postgres said about the one that failed.
    """
    parameters = {**conninfo_to_dict(dsn), "schema": SCHEMA}
    uri = DatabaseURI("postgresql+psycopg", None, None, None, None, None, parameters)
    with _Backend(uri, default_migration_table) as backend:
        backend.execute(f"create schema if not exists {SCHEMA}")
        backend.ensure_internal_schema_updated()
        for migration in migrations:
            try:
                _run_one(backend, migration)
            except psycopg.errors.NoActiveSqlTransaction as error:
                reason = "it ends the transaction that it runs in, so part of it may have stayed"
                raise MigrationError(migration=migration.id, reason=reason) from error
            except psycopg.Error as error:
                reason = _explain(error, migration.sql)
                raise MigrationError(migration=migration.id, reason=reason) from error
        with backend.transaction():
            backend.execute(_LET_SERVER_READ)


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's tables in our schema, and our digest in the comment of its log."""

    log_migration_sql = (
        "insert into {0.log_table_quoted} (id, migration_hash, migration_id, operation, username,"
        " hostname, created_at_utc, comment) values (:id, :migration_hash, :migration_id, :operation,"
        " :username, :hostname, :created_at_utc, :comment)"
    )

    @contextmanager
    def lock(self, timeout: float = 10) -> Iterator[None]:
        """Does nothing: `migrations` holds a lock already."""
        yield

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        """The values of a row of the log."""
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration and migration.id,
            "migration_hash": migration and migration.hash,
            "username": self.connection.info.user,
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
            "comment": migration and migration.digest,
        }


class _WholeFile(YoyoMigration):  # type: ignore[misc]
    """A migration with one step: its whole file."""

    def __init__(self, migration: Migration) -> None:
        super().__init__(migration.id, f"{migration.id}.sql", source_dir=None)
        self.digest = migration.digest
        self._sql = migration.sql

    def load(self) -> None:
        """Makes the step."""
        if not self.loaded:
            collector = StepCollector(migration=self)
            collector.add_step(self._execute)
            self._depends: set[YoyoMigration] = set()
            self.steps = collector.create_steps(self.use_transactions)

    def _execute(self, connection: psycopg.Connection[Any]) -> None:
        # Files name schemas in full; `public` keeps what does not out of yoyo's schema.
        connection.execute("set local search_path to public; set local statement_timeout = 0")
        connection.execute(self._sql.encode())
        if connection.info.transaction_status != TransactionStatus.INTRANS:
            raise psycopg.errors.NoActiveSqlTransaction
        # The file may have set these for itself.
        connection.execute(f"reset role; set local search_path to {SCHEMA}")


def _run_one(backend: _Backend, migration: Migration) -> None:
    step = _WholeFile(migration)
    with backend.transaction():
        step.process_steps(backend, "apply")
        backend.log_migration(step, "apply")
        backend.mark_one(step, log=False)


def _explain(error: psycopg.Error, text: str) -> str:
    """What Postgres said, with the line of the file when it told the place."""
    diagnosis = error.diag
    parts = [diagnosis.message_primary or str(error)]
    if diagnosis.statement_position:
        line = text.count("\n", 0, int(diagnosis.statement_position) - 1) + 1
        parts[0] += f" (line {line})"
    parts += filter(None, (diagnosis.message_detail, diagnosis.message_hint, diagnosis.context))
    return "; ".join(parts)
