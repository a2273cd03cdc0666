"""Brings a database's schema up to date: plain numbered SQL files, each applied once.

The files are `migrations/NNNN.name.sql`, applied in the order of their names. Each runs in a transaction of
its own, which also records it, so that a crash at any point leaves it applied and recorded, or neither. The
library yoyo-migrations keeps the record, in the schema `agentchat_migrations`; see `migration_runner`.

Two processes that migrate at once take turns by an advisory lock on a session of its own: Postgres drops it
when that session ends, so a crash leaves no lock behind. When there is nothing to do, the usual case, one
query finds that out: there is no lock, no write, and yoyo is not even imported.

A file must not change after it was applied anywhere: the SHA-256 of its text is recorded and compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from agentchat_db.exceptions import (
    DatabaseNewerError,
    DatabaseUnavailable,
    MigrationChangedError,
    MigrationLockError,
    MigrationRecordError,
)

FOLDER = Path(__file__).parent / "migrations"

# Names our lock among a database's advisory locks: "agntchat" in ASCII.
_LOCK_KEY = int.from_bytes(b"agntchat")

_APPLIED = """
    select m.migration_id, m.applied_at_utc, l.comment
    from agentchat_migrations._yoyo_migration m
    left join lateral (
        select comment from agentchat_migrations._yoyo_log l
        where l.migration_hash = m.migration_hash and l.operation = 'apply'
        order by l.created_at_utc desc
        limit 1
    ) l on true
    order by m.migration_id
"""


@dataclass(frozen=True)
class MigrationStatus:
    """A migration that this program knows, or that the database has.

    `applied_at` is in UTC, None when the migration is pending. `known`: this program has its file; if not,
    the database is newer than the program. `changed`: the file is not what was applied.
    """

    id: str
    applied_at: datetime | None
    known: bool = True
    changed: bool = False


@dataclass(frozen=True)
class Migration:
    """A migration's file. `id` is its name without `.sql`."""

    id: str
    sql: str

    @property
    def digest(self) -> str:
        """Tells this text from any other."""
        return f"sha256:{hashlib.sha256(self.sql.encode()).hexdigest()}"


def apply(dsn: str, *, folder: Path = FOLDER, lock_timeout: float = 600.0) -> list[str]:
    """Applies what is pending; returns the ids of what it applied, in order.

    `dsn` logs in as a role that may create schemas and roles. When a migration fails, those before it stay
    applied. Another process that migrates the database is waited for `lock_timeout` seconds.

    Raises:
        MigrationError: when a migration fails; nothing of it stays.
        MigrationChangedError, DatabaseNewerError: when the database is not an older state of these files.
        MigrationLockError: when another process took too long.
        MigrationRecordError: when the record of what is applied can be neither read nor made.
        DatabaseUnavailable: when Postgres cannot be reached, or no longer.
    """
    migrations = _read(folder)
    with _connection(dsn) as connection:
        if not _to_apply(connection, migrations):
            return []
        _lock(connection, lock_timeout)
        # Again, now that nobody else is at it.
        if not (wanted := _to_apply(connection, migrations)):
            return []
        # Not before there is work for it: importing yoyo takes longer than finding out that there is none.
        from agentchat_db import migration_runner

        migration_runner.run(dsn, wanted)
    return [migration.id for migration in wanted]


def status(dsn: str, *, folder: Path = FOLDER) -> list[MigrationStatus]:
    """Every migration that the program knows or the database has, in order. Writes nothing.

    Raises:
        MigrationRecordError: when the role may not read the record.
        DatabaseUnavailable: when Postgres cannot be reached.
    """
    with _connection(dsn) as connection:
        return _compare(connection, _read(folder))


def pending(dsn: str, *, folder: Path = FOLDER) -> list[str]:
    """The ids of the migrations that `apply` would apply, in order. Raises what `status` raises."""
    return [migration.id for migration in status(dsn, folder=folder) if migration.applied_at is None]


def _read(folder: Path) -> list[Migration]:
    paths = sorted(folder.glob("*.sql"))
    return [Migration(path.name.removesuffix(".sql"), path.read_text("utf-8")) for path in paths]


@contextmanager
def _connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(str(error)) from error
    except psycopg.Error as error:
        raise MigrationRecordError(reason=error.diag.message_primary or error) from error


def _lock(connection: psycopg.Connection[Any], timeout: float) -> None:
    # The session idles while migrations run on another.
    connection.execute("set idle_session_timeout = 0")
    connection.execute("set statement_timeout = 0")
    connection.execute("select set_config('lock_timeout', %s, false)", (f"{round(timeout * 1000)}ms",))
    try:
        connection.execute("select pg_advisory_lock(%s)", (_LOCK_KEY,))
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationLockError(seconds=timeout) from error


def _to_apply(connection: psycopg.Connection[Any], migrations: list[Migration]) -> list[Migration]:
    """The pending ones, provided that the database is an older state of these files."""
    found = _compare(connection, migrations)
    if unknown := [migration.id for migration in found if not migration.known]:
        raise DatabaseNewerError(migrations=", ".join(unknown))
    for migration in found:
        if migration.changed:
            raise MigrationChangedError(migration=migration.id)
    waiting = {migration.id for migration in found if migration.applied_at is None}
    return [migration for migration in migrations if migration.id in waiting]


def _compare(connection: psycopg.Connection[Any], migrations: list[Migration]) -> list[MigrationStatus]:
    try:
        rows = connection.execute(_APPLIED).fetchall()
    except psycopg.errors.UndefinedTable:
        rows = []
    applied = {name: (at.replace(tzinfo=UTC), digest) for name, at, digest in rows}
    found = []
    for migration in migrations:
        applied_at, digest = applied.pop(migration.id, (None, migration.digest))
        found.append(MigrationStatus(migration.id, applied_at, changed=digest != migration.digest))
    found += [MigrationStatus(name, at, known=False) for name, (at, _) in applied.items()]
    return sorted(found, key=lambda migration: migration.id)
