"""What a board has stored: its database as the owner sees it, and its file store as the disk has it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg.rows import class_row

Row = TypeVar("Row")


@dataclass(frozen=True)
class StoredMessage:
    """A row of messages. Channel and author are names."""

    id: str
    seq: int
    ordinal: int
    channel: str
    author: str
    content: str
    parent: str | None
    hops: int
    request_id: str | None
    created_at: datetime


@dataclass(frozen=True)
class StoredMention:
    """A row of mentions. The agent is the name of who is mentioned."""

    id: str
    message_id: str
    agent: str
    seq: int
    read: bool
    reply_message_id: str | None


@dataclass(frozen=True)
class StoredFile:
    """A row of files. SHA-256 in hex."""

    id: str
    path: str
    channel: str
    name: str
    size: int
    sha256: str
    uploader: str
    message_id: str | None
    request_id: str | None
    store_key: str


@dataclass(frozen=True)
class StoredObject:
    """An object of the file store. SHA-256 in hex, age in seconds."""

    size: int
    sha256: str
    age: float


@dataclass
class Stored:
    """All of it, messages and mentions in the order of the log."""

    head: int = 0
    messages: list[StoredMessage] = field(default_factory=list)
    mentions: list[StoredMention] = field(default_factory=list)
    # How many messages each channel counts.
    channels: dict[str, int] = field(default_factory=dict)
    files: list[StoredFile] = field(default_factory=list)
    objects: dict[str, StoredObject] = field(default_factory=dict)
    # For each path the SHA-256 of what a download gave, or why there was none.
    downloads: Mapping[str, str] = field(default_factory=dict)
    # Seconds after which objects that no file names are removed.
    sweep_age: float = 3600.0

    def replies(self, message_id: str) -> list[StoredMessage]:
        """The replies to a message."""
        return self._replies.get(message_id, [])

    @cached_property
    def _replies(self) -> dict[str, list[StoredMessage]]:
        found: dict[str, list[StoredMessage]] = defaultdict(list)
        for message in self.messages:
            if message.parent is not None:
                found[message.parent].append(message)
        return found


async def read_stored(owner_url: str, folder: Path, downloads: Mapping[str, str]) -> Stored:
    """Reads a board's database and its folder of files. `downloads` is what they were downloaded as."""
    async with await psycopg.AsyncConnection.connect(owner_url, connect_timeout=10) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        (head,) = await (await connection.execute("select seq from agentchat.log_position")).fetchall()
        counts = await connection.execute("select name, message_count from agentchat.channels")
        return Stored(
            head=head[0],
            channels=dict(await counts.fetchall()),
            messages=await _read(connection, StoredMessage, _MESSAGES),
            mentions=await _read(connection, StoredMention, _MENTIONS),
            files=await _read(connection, StoredFile, _FILES),
            objects=await asyncio.to_thread(_read_objects, folder),
            downloads=downloads,
        )


_MESSAGES = """
    select m.id::text, m.seq, m.ordinal, c.name as channel, a.name as author, m.content,
           m.parent_message_id::text as parent, m.hops, m.request_id::text, m.created_at
    from agentchat.messages m
    left join agentchat.channels c on c.id = m.channel_id
    left join agentchat.agents a on a.id = m.author_agent_id
    order by m.seq
"""
_MENTIONS = """
    select m.id::text, m.message_id::text, a.name as agent, m.seq, m.read_at is not null as read,
           m.reply_message_id::text
    from agentchat.mentions m
    left join agentchat.agents a on a.id = m.mentioned_agent_id
    order by m.seq
"""
_FILES = """
    select f.id::text, f.path, c.name as channel, f.name, f.size, encode(f.sha256, 'hex') as sha256,
           a.name as uploader, f.message_id::text, f.request_id::text, f.store_key::text
    from agentchat.files f
    left join agentchat.channels c on c.id = f.channel_id
    left join agentchat.agents a on a.id = f.uploaded_by
"""


async def _read(
    connection: psycopg.AsyncConnection[tuple[object, ...]], row_type: type[Row], query: str
) -> list[Row]:
    async with connection.cursor(row_factory=class_row(row_type)) as cursor:
        await cursor.execute(query.encode())
        return await cursor.fetchall()


def _read_objects(folder: Path) -> dict[str, StoredObject]:
    """The objects by key. What obstore has not finished has a `#` in its name, and is no object yet."""
    found = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        age = time.time() - path.stat().st_mtime
        found[path.name] = StoredObject(len(content), hashlib.sha256(content).hexdigest(), age)
    return found
