"""Backups of an embedded Postgres: `pg_dump` and `pg_restore`, of the programs that come with it.

A backup is one file, in Postgres' custom format: the database as it was at one moment, made while it is in
use. It holds everything but files, whose bytes are in the file store.

A restored board gets a new log id. Its log has gone back to the moment of the backup and will grow anew, so a
cursor that a reader kept may soon point at another message than the one it was given for; with the new id
every such cursor is refused, and the reader knows.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import psycopg

from agentchat_db import queries
from agentchat_db.cluster import find_bin_dir
from agentchat_db.exceptions import BackupError

_SQL = queries.load("administration")


def dump(dsn: str, file: Path) -> None:
    """Writes a backup to a file (0600), whole or not at all. The database may be in use.

    Raises:
        BackupError: when the file exists or cannot be written, or pg_dump fails.
    """
    if file.exists():
        raise BackupError(problem=f"{file} exists; name another file")
    try:
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except OSError as error:
        raise BackupError(problem=f"{file.parent}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as opened:
            _run("pg_dump", "--format=custom", f"--dbname={dsn}", output=opened.fileno())
            os.fsync(descriptor)
        Path(temporary).rename(file)
    finally:
        Path(temporary).unlink(missing_ok=True)


def restore(dsn: str, file: Path) -> None:
    """Fills an empty database with a backup, in one transaction, and gives its log a new id.

    Raises:
        BackupError: when pg_restore fails, for one because the file is no backup.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        # Roles belong to the cluster, and are not in a backup of a database.
        connection.execute(_SQL["make_roles"])
        _run("pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={dsn}", str(file))
        connection.execute(_SQL["renew_log_id"])


def _run(program: str, *arguments: str, output: int = subprocess.DEVNULL) -> None:
    done = subprocess.run(
        [find_bin_dir() / program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        raise BackupError(problem=done.stderr.decode("utf-8", "replace").strip())
