"""What an operator does on the database itself, as its owner: first keys.

Blocking, for the commands of the CLI; the server's own way is AdminService.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from agentchat_db import queries

_SQL = queries.load("administration")


def new_admin_key(connection: psycopg.Connection[Any]) -> str:
    """Makes an admin key (`aca_…`), beside those there are. It is not stored, and shown this once."""
    key = f"aca_{secrets.token_urlsafe(32)}"
    connection.execute(_SQL["create_admin_key"], {"key_hash": _hash(key)})
    return key


def create_admin_key(connection: psycopg.Connection[Any], file: Path) -> str:
    """The admin key in a file (0600); made, in the database and then in the file, when there is none.

    A key that this database does not know, left by another one, is replaced.
    """
    try:
        key = file.read_text("utf-8").strip()
    except FileNotFoundError:
        key = ""
    if key and _exists(connection, "knows_admin_key", key):
        return key
    key = new_admin_key(connection)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(key + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    Path(temporary).replace(file)
    return key


def create_machine_key(connection: psycopg.Connection[Any], admin_key: str, machine: str) -> str:
    """Makes a key (`ack_…`) for a machine."""
    key = f"ack_{secrets.token_urlsafe(32)}"
    connection.execute(
        _SQL["create_machine_key"],
        {
            "admin_key_hash": _hash(admin_key),
            "machine": machine,
            "key_hash": _hash(key),
            "expires_at": None,
        },
    )
    return key


def knows_machine_key(connection: psycopg.Connection[Any], key: str) -> bool:
    """Whether a machine's or agent's key was made on this database, good or not."""
    return _exists(connection, "knows_key", key)


def _exists(connection: psycopg.Connection[Any], query: str, key: str) -> bool:
    row = connection.execute(_SQL[query], {"key_hash": _hash(key)}).fetchone()
    return row is not None and bool(row[0])


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
