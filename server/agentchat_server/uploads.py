"""Uploading a file: check, store, publish.

The bytes go to the file store under a key of their own, counted and hashed as they pass. Only when they are
safe there does `publish_file` write the row, with the announcement, in one transaction: the row is the
publication. What fails before leaves no row, and its object is removed. When the outcome of the publication
cannot be known, because the connection broke at the commit, the object stays: a row may name it, and if none
does, the sweep removes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from uuid import UUID, uuid4

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_proto.v1 import file_service_pb2 as pb
from agentchat_server import fields
from agentchat_server.file_store import FileStore, FileStoreUnavailable
from agentchat_server.identity import Caller
from agentchat_server.refusals import InvalidField, Refusal
from agentchat_server.shielded import ShieldedTasks
from agentchat_server.writer import new_uuid

MAX_CHUNK = 1024 * 1024
"""Bytes of a file in one part of an upload."""

_MAX_SAFE_NAME = 100
_MAX_EXTENSION = 20
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)
_SQL = queries.load("files")


@dataclass(frozen=True)
class Upload:
    """What an upload says of itself, checked."""

    channel: str
    name: str
    content_type: str
    size: int | None
    sha256: bytes | None
    announced: bool
    request_id: UUID | None
    # The file's, its announcement's and its object's, made before the first attempt to publish.
    id: UUID = field(default_factory=new_uuid)
    message_id: UUID = field(default_factory=new_uuid)
    store_key: UUID = field(default_factory=uuid4)

    @classmethod
    def check(cls, metadata: pb.FileMetadata, max_bytes: int) -> Upload:
        """Checks the metadata of an upload.

        Raises:
            Refusal: FIELD_INVALID, FILE_TOO_LARGE.
        """
        size = metadata.size if metadata.HasField("size") else None
        if size is not None and size < 0:
            raise InvalidField("size", "must be 0 or more")
        upload = cls(
            channel=fields.name("channel", metadata.channel),
            name=fields.file_name(metadata.name),
            content_type=fields.content_type(metadata.content_type),
            size=size,
            sha256=fields.sha256(metadata.sha256),
            announced=not metadata.unannounced,
            request_id=(
                fields.uuid("request_id", metadata.request_id) if metadata.HasField("request_id") else None
            ),
        )
        if size is not None and size > max_bytes:
            raise Refusal("FILE_TOO_LARGE", limit=str(max_bytes))
        return upload


class Received:
    """The bytes of an upload as they come: iterates over them, counts, hashes and checks them."""

    def __init__(self, parts: AsyncIterator[pb.UploadFileRequest], upload: Upload, *, max_bytes: int) -> None:
        self._parts = parts
        self._upload = upload
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> bytes:
        """The hash of what has come."""
        return self._hash.digest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks. Ends normally only when the bytes are those that were promised.

        Raises:
            Refusal: FIELD_INVALID, FILE_TOO_LARGE, FILE_SIZE_MISMATCH, FILE_CHECKSUM_MISMATCH.
        """
        async for part in self._parts:
            if part.WhichOneof("part") != "chunk":
                raise InvalidField("part", "must be a chunk; the metadata come first, and once")
            if len(part.chunk) > MAX_CHUNK:
                raise InvalidField("chunk", f"must be at most {MAX_CHUNK:,} bytes, not {len(part.chunk):,}")
            self.size += len(part.chunk)
            if self.size > self._max_bytes:
                raise Refusal("FILE_TOO_LARGE", limit=str(self._max_bytes))
            self._hash.update(part.chunk)
            yield part.chunk
        if self._upload.size not in (None, self.size):
            raise Refusal("FILE_SIZE_MISMATCH")
        if self._upload.sha256 not in (None, self.sha256):
            raise Refusal("FILE_CHECKSUM_MISMATCH")


class Uploader:
    """Takes files in. `close` it when no upload comes any more."""

    def __init__(self, database: Database, store: FileStore, *, max_bytes: int, timeout: float) -> None:
        self._database = database
        self._store = store
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._publications = ShieldedTasks()

    async def take(
        self,
        caller: Caller,
        parts: AsyncIterator[pb.UploadFileRequest],
        on_accepted: Callable[[], Awaitable[None]],
    ) -> Row:
        """Stores and publishes a file; returns the row of `publish_file`.

        Calls `on_accepted` when the metadata are good, before it asks for the first chunk.

        Raises:
            Refusal: with the reasons that UploadFile lists.
        """
        try:
            async with asyncio.timeout(self._timeout):
                first = await anext(parts, None)
                if first is None or first.WhichOneof("part") != "metadata":
                    raise InvalidField("metadata", "must be the first part of an upload")
                upload = Upload.check(first.metadata, self._max_bytes)
                await self._check_channel(caller, upload)
                await on_accepted()
                received = Received(parts, upload, max_bytes=self._max_bytes)
                await self._store.put(upload.store_key, aiter(received))
        except TimeoutError:
            raise Refusal("UPLOAD_TOO_SLOW", limit=f"{self._timeout:g}") from None
        return await self._publications.run(self._publish(caller, upload, received))

    async def close(self) -> None:
        """Waits for the publications that are under way."""
        await self._publications.close()

    async def _check_channel(self, caller: Caller, upload: Upload) -> None:
        """Refuses what `publish_file` would, before anything is stored for it."""
        row = await self._database.fetch_one(
            Statement(
                _SQL["check_upload"],
                {
                    "agent_id": caller.agent_id,
                    "channel": upload.channel,
                    "request_id": upload.request_id,
                },
            )
        )
        if row is not None and row.archived and not row.repeated:
            raise Refusal("CHANNEL_ARCHIVED", channel=upload.channel)

    async def _publish(self, caller: Caller, upload: Upload, received: Received) -> Row:
        announcement = f"Shared a file: **{upload.name}** ({readable_size(received.size)})"
        row = await self._database.fetch_row(
            Statement(
                _SQL["publish_file"],
                {
                    "id": upload.id,
                    "message_id": upload.message_id,
                    "key_hash": caller.key_hash,
                    "uploader": caller.agent_id,
                    "channel": upload.channel,
                    "name": upload.name,
                    "safe_name": safe_name(upload.name),
                    "size": received.size,
                    "content_type": upload.content_type,
                    "sha256": received.sha256,
                    "store_key": upload.store_key,
                    "announcement": announcement if upload.announced else None,
                    "request_id": upload.request_id,
                },
            )
        )
        if row.refusal is not None or row.replayed:
            # If it cannot be removed now, the sweep will.
            with suppress(FileStoreUnavailable):
                await self._store.delete(upload.store_key)
        if row.refusal is not None:
            raise Refusal(row.refusal, **(row.refusal_metadata or {}))
        return row


def safe_name(name: str) -> str:
    """What a path has of a file's name: 1 to 100 ASCII letters, digits, `.`, `_` and `-`.

    It begins with a letter, a digit or `_`, and keeps the extension of a name that is too long.
    """
    safe = _UNSAFE.sub("_", name).lstrip(".-")
    if not safe.strip("._-"):
        return "file"
    extension = PurePosixPath(safe).suffix
    if len(safe) > _MAX_SAFE_NAME and len(extension) <= _MAX_EXTENSION:
        return safe[: _MAX_SAFE_NAME - len(extension)] + extension
    return safe[:_MAX_SAFE_NAME]


def readable_size(size: int) -> str:
    """A number of bytes for people: `1 byte`, `512 bytes`, `1.5 KiB`, `10 MiB`."""
    if size < 1024:
        return f"{size} byte{'' if size == 1 else 's'}"
    amount, unit = (size / 1024, "KiB") if size < 1024 * 1024 else (size / (1024 * 1024), "MiB")
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"
