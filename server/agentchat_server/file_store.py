"""Where the bytes of files are: a local folder, or any S3.

Keys are UUIDs that the server makes for each upload. No name that a client chose is part of one, so none
can leave the store. An object is there whole or not at all: both kinds of store write aside and put the
object in its place at the end, and a `put` that fails or is cancelled takes back what it has written.

Memory: an upload holds about two parts (256 KiB each locally; 5 MiB on S3, whose parts may not be smaller),
a download one block of 1 MiB. A download reads its blocks one by one when they are wanted, so a slow reader
holds no connection to the store.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from agentchat_server.shielded import ShieldedTasks

_LOCAL_PART = 256 * 1024
# The least that S3 takes, save for the last part.
_S3_PART = 5 * 1024 * 1024
_BLOCK = 1024 * 1024
# How many keys a listing gives out at a time.
_LISTED = 500

_log = structlog.get_logger(__name__)


class FileStoreUnusable(Exception):
    """The file store cannot be used as configured; the message says why."""


class FileStoreUnavailable(Exception):
    """The store did not do what it was asked for, and may the next time."""


class FileBytesMissing(Exception):
    """The store has no object under the key, or one of another size."""


class FileStore:
    """A place for the bytes of files. `open_file_store` makes one; `close` it once."""

    def __init__(self, store: LocalStore | S3Store, *, folder: Path | None = None) -> None:
        self._store = store
        # Of a local store.
        self._folder = folder
        self._part_size = _S3_PART if folder is None else _LOCAL_PART
        self._removals = ShieldedTasks()

    async def put(self, key: UUID, chunks: AsyncIterator[bytes]) -> None:
        """Stores what `chunks` yields, and returns when it is safe there.

        Raises what `chunks` raises, and then stores nothing; the same when the task is cancelled.

        Raises:
            FileStoreUnavailable: when the store fails.
        """
        # The upload goes on in a task of its own: cut off in the middle it would leave its parts behind.
        source = _Source(chunks)
        with _translated_errors("put"):
            storing = asyncio.ensure_future(self._put(key, source))
            try:
                await asyncio.shield(storing)
            except BaseException:
                source.stop()
                await self._removals.run(self._discard(key, storing))
                raise

    async def get(self, key: UUID, size: int) -> AsyncIterator[memoryview]:
        """The bytes of an object of a known size, in blocks of at most 1 MiB.

        Raises:
            FileBytesMissing, FileStoreUnavailable
        """
        for start in range(0, size, _BLOCK):
            end = min(start + _BLOCK, size)
            with _translated_errors("get"):
                try:
                    block = await obstore.get_range_async(self._store, str(key), start=start, end=end)
                except FileNotFoundError:
                    raise FileBytesMissing(str(key)) from None
                except BaseError:
                    # A range behind the end of the object fails as anything else does.
                    if (await obstore.head_async(self._store, str(key)))["size"] < size:
                        raise FileBytesMissing(str(key)) from None
                    raise
            if len(block) != end - start:
                raise FileBytesMissing(str(key))
            yield memoryview(block)

    async def delete(self, *keys: UUID) -> None:
        """Removes objects, those that are there. Goes on when the task is cancelled.

        Raises:
            FileStoreUnavailable: when the store fails.
        """
        await self._removals.run(self._delete(keys))

    async def list_old(self, age: float) -> AsyncIterator[list[UUID]]:
        """The keys of objects written more than `age` seconds ago, some hundred at a time.

        Passes over what is not named by a UUID, which the server has not stored.

        Raises:
            FileStoreUnavailable: when the store fails.
        """
        before = datetime.now(UTC) - timedelta(seconds=age)
        with _translated_errors("list"):
            async for objects in obstore.list(self._store, chunk_size=_LISTED):
                keys = [_key(item["path"]) for item in objects if item["last_modified"] < before]
                if found := [key for key in keys if key is not None]:
                    yield found

    async def remove_torn(self, age: float) -> None:
        """Removes what uploads that were killed in a local folder more than `age` seconds ago left behind.

        On S3 a lifecycle rule for incomplete multipart uploads does this.
        """
        if self._folder is not None:
            with _translated_errors("sweep"):
                await asyncio.to_thread(_remove_torn, self._folder, time.time() - age)

    async def close(self) -> None:
        """Waits for the removals that are under way."""
        await self._removals.close()

    async def _put(self, key: UUID, source: _Source) -> None:
        head = await source.read(self._part_size)
        if len(head) < self._part_size:
            await obstore.put_async(self._store, str(key), head, use_multipart=False)
        else:
            source.push_back(head)
            await obstore.put_async(
                self._store, str(key), source, chunk_size=self._part_size, max_concurrency=1
            )
        if self._folder is not None:
            # Postgres flushes the row that is about to name the file; the bytes must not be behind it.
            await asyncio.to_thread(_flush, self._folder, str(key))

    async def _discard(self, key: UUID, storing: asyncio.Future[None]) -> None:
        """Waits until an upload that was stopped has ended, and removes what it may have stored."""
        await asyncio.wait([storing])
        if not storing.cancelled():
            storing.exception()
        with suppress(FileStoreUnavailable):
            await self._delete((key,))

    async def _delete(self, keys: tuple[UUID, ...]) -> None:
        # Local stores fail for a key that is not there, but remove the others.
        with _translated_errors("delete"), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, [str(key) for key in keys])


def open_file_store(url: str, environment: Mapping[str, str] = os.environ) -> FileStore:
    """The store behind `file:///folder`, which is made if need be, or `s3://bucket/prefix`.

    S3 takes its credentials, region and endpoint from the usual variables `AWS_…`. It is not called yet.

    Raises:
        FileStoreUnusable
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "file":
            return _open_folder(url, parts.netloc, unquote(parts.path))
        case "s3":
            return _open_s3(url, parts.netloc, environment)
        case _:
            raise FileStoreUnusable(f"the file store {url} is neither file:///folder nor s3://bucket/prefix")


def _open_folder(url: str, host: str, path: str) -> FileStore:
    folder = Path(path)
    if host or not folder.is_absolute() or folder == Path("/"):
        raise FileStoreUnusable(f"the file store {url} is no absolute folder, such as file:///var/lib/files")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission to read and write it")
        return FileStore(LocalStore(folder), folder=folder)
    except (OSError, BaseError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileStoreUnusable(f"the folder {folder} cannot be used for files: {reason}") from error


def _open_s3(url: str, bucket: str, environment: Mapping[str, str]) -> FileStore:
    if not bucket:
        raise FileStoreUnusable(f"the file store {url} names no bucket, as s3://bucket/prefix does")
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    plain = endpoint.lower().startswith("http://")
    if plain and not _is_loopback(urlsplit(endpoint).hostname or "") and not _says_yes(environment):
        raise FileStoreUnusable(
            f"{endpoint} is plain HTTP to another machine; use https, or accept that with AWS_ALLOW_HTTP=true"
        )
    try:
        store = S3Store.from_url(
            url,
            client_options={"allow_http": plain, "timeout": timedelta(seconds=60)},
            # A call that waits for the store should fail before its caller gives up.
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=15)},
        )
    except (BaseError, ValueError) as error:
        raise FileStoreUnusable(f"the file store {url} cannot be used: {_first_line(error)}") from error
    return FileStore(store)


class _Source:
    """The chunks of an upload, as obstore asks for them; `stop` makes it fail, whatever it waits for."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._pushed_back: bytes | None = None
        self._pull: asyncio.Future[bytes | None] | None = None
        self._stopped = False

    def __aiter__(self) -> _Source:
        return self

    async def __anext__(self) -> bytes:
        if self._pushed_back is not None:
            chunk, self._pushed_back = self._pushed_back, None
            return chunk
        if self._stopped:
            raise asyncio.CancelledError
        self._pull = asyncio.ensure_future(_next(self._chunks))
        following = await self._pull
        if following is None:
            raise StopAsyncIteration
        return following

    async def read(self, size: int) -> bytes:
        """At least `size` bytes, or all that there are."""
        head = bytearray()
        async for chunk in self:
            head += chunk
            if len(head) >= size:
                break
        return bytes(head)

    def push_back(self, chunk: bytes) -> None:
        """Puts a chunk in front of the others."""
        self._pushed_back = chunk

    def stop(self) -> None:
        """Ends it with an error."""
        self._stopped = True
        if self._pull is not None:
            self._pull.cancel()


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


@contextmanager
def _translated_errors(action: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        _log.warning("file store failed", action=action, error=_first_line(error))
        raise FileStoreUnavailable(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    # The lines behind it repeat the first as a data structure.
    return str(error).partition("\n")[0]


def _key(path: str) -> UUID | None:
    try:
        key = UUID(path)
    except ValueError:
        return None
    return key if str(key) == path else None


def _flush(folder: Path, name: str) -> None:
    for path in (folder / name, folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_torn(folder: Path, before: float) -> None:
    # obstore writes the object `key` as `key#1`, and renames it when it is whole.
    for entry in os.scandir(folder):
        name, mark, number = entry.name.partition("#")
        if mark and number.isdecimal() and _key(name) is not None:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    Path(entry.path).unlink()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _says_yes(environment: Mapping[str, str]) -> bool:
    return environment.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on")
