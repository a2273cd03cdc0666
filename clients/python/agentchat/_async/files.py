"""Sharing files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any, overload

import grpc

from agentchat import types
from agentchat._async.caller import AsyncCaller
from agentchat._async.transport import AsyncStubs
from agentchat._concurrency import AsyncStreamReader, SilentStreamError, async_run, async_send_stream
from agentchat._conversion import download_url, file, uploaded_file
from agentchat._files import CHUNK, LARGEST_FILE, SLOWEST_RATE, Source, Target, guess_content_type
from agentchat._requests import build, new_request_id, page_size, refused
from agentchat.exceptions import UnavailableError
from agentchat_proto.v1 import file_service_pb2 as wire

Progress = Callable[[int, int], None]
"""Told how many bytes are through, and of how many. Starts over when a transfer does."""


class AsyncFileCalls(AsyncCaller):
    """The calls of FileService."""

    async def upload_file(
        self,
        channel: str,
        source: str | os.PathLike[str] | None = None,
        *,
        content: bytes | str | None = None,
        name: str | None = None,
        content_type: str | None = None,
        announce: bool = True,
        request_id: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> types.UploadedFile:
        """Shares a file in a channel. When this returns, it is published, and announced if asked for.

        `source` is the path of a file; or `content` is the bytes, or a text, which is sent as UTF-8, and
        then `name` is needed. At most 10 MiB. `name` is 1 to 255 characters, the file's own unless given.
        `content_type` is a media type, guessed from the name unless given. `request_id` works as in
        `send_message`. `progress` may be called from another thread. `timeout` is in seconds; None means
        the client's and a second for each 64 KiB.

        Raises `FailedPreconditionError` (the channel is archived, or the server keeps no files),
        `AlreadyExistsError` (the request id was used for something else), `InvalidArgumentError` (also
        when the file changed while it was sent), `ResourceExhaustedError` (the file is too large, or too
        many channels created), and `OSError` when the file cannot be read.
        """
        origin = Source(source, content)
        name = origin.name if name is None else name
        if name is None:
            raise refused("name", "required with content")
        await async_run(origin.measure)
        metadata = build(
            wire.FileMetadata,
            channel=channel,
            name=name,
            content_type=guess_content_type(name) if content_type is None else content_type,
            size=origin.size,
            sha256=origin.sha256,
            unannounced=not announce,
            request_id=request_id or new_request_id(),
        )

        async def attempt(stubs: AsyncStubs, remaining: float) -> wire.UploadFileResponse:
            first = wire.UploadFileRequest(metadata=metadata)
            identity = self._transport.metadata
            try:
                sent: wire.UploadFileResponse = await async_send_stream(
                    stubs.files.UploadFile, first, _parts(origin, progress), remaining, identity
                )
            except grpc.RpcError as failure:
                error = self._transport.decode(failure)
                if error.code == "INTERNAL" and not error.reason:
                    # The call ended while it sent, and how was lost. Asked again, the server tells.
                    raise UnavailableError(error.message) from failure
                raise
            return sent

        if timeout is None:
            timeout = self._transport.timeout + origin.size / SLOWEST_RATE
        return uploaded_file(await self._transport.repeat(attempt, timeout))

    @overload
    async def download_file(
        self,
        path: str,
        to: None = None,
        *,
        overwrite: bool = True,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> bytes: ...
    @overload
    async def download_file(
        self,
        path: str,
        to: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> types.File: ...
    async def download_file(
        self,
        path: str,
        to: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = True,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> bytes | types.File:
        """Downloads a file by its path: returns the bytes, or writes them `to` a file and describes it.

        The bytes are checked against the file's SHA-256. A file is written whole or not at all, and takes
        the place of one that is there unless `overwrite` is false. `timeout` is in seconds; None means the
        client's and a second for each 64 KiB of the largest file.

        Raises `NotFoundError`, `FailedPreconditionError` (the server keeps no files), `AgentChatError` with
        the code `DATA_LOSS` (the bytes are gone or damaged), `FileExistsError`, and `OSError` when the file
        cannot be written.
        """
        request = build(wire.DownloadFileRequest, path=path)
        target = Target(to, overwrite=overwrite)

        async def attempt(stubs: AsyncStubs, remaining: float) -> tuple[types.File, bytes]:
            call = stubs.files.DownloadFile(request, timeout=remaining, metadata=self._transport.metadata)
            return await _receive(call, target, progress, self._transport.timeout)

        if timeout is None:
            timeout = self._transport.timeout + LARGEST_FILE / SLOWEST_RATE
        try:
            described, received = await self._transport.repeat(attempt, timeout)
        finally:
            await async_run(target.discard)
        return received if to is None else described

    async def get_file(self, path: str, *, timeout: float | None = None) -> types.File:
        """The description of a file. Raises `NotFoundError`."""
        request = build(wire.GetFileRequest, path=path)
        answer = await self._transport.call(lambda stubs: stubs.files.GetFile, request, timeout)
        return file(answer.file)

    async def get_file_url(self, path: str, *, timeout: float | None = None) -> types.DownloadUrl:
        """An address from which anybody can download a file for one hour. Raises `NotFoundError`."""
        request = build(wire.CreateDownloadUrlRequest, path=path)
        answer = await self._transport.call(lambda stubs: stubs.files.CreateDownloadUrl, request, timeout)
        return download_url(answer)

    async def list_files(
        self,
        channel: str,
        limit: int = 20,
        *,
        page_token: str | None = None,
        timeout: float | None = None,
    ) -> types.Page[types.File]:
        """A page of a channel's files, newest first. `limit` is 1 to 200. Raises `NotFoundError`."""
        request = build(
            wire.ListFilesRequest, channel=channel, page_size=page_size(limit), page_token=page_token or ""
        )
        page = await self._transport.call(lambda stubs: stubs.files.ListFiles, request, timeout)
        return types.Page(tuple(map(file, page.files)), page.next_page_token or None)

    async def iter_files(
        self, channel: str, *, limit: int = 100, timeout: float | None = None
    ) -> AsyncIterator[types.File]:
        """All files of a channel, newest first. `limit` is the pages' size, `timeout` for each of them."""
        token: str | None = None
        while True:
            page = await self.list_files(channel, limit, page_token=token, timeout=timeout)
            for item in page:
                yield item
            token = page.next_page_token
            if token is None:
                return


async def _parts(origin: Source, progress: Progress | None) -> AsyncIterator[wire.UploadFileRequest]:
    done = 0
    with await async_run(origin.open) as stream:
        while chunk := await async_run(stream.read, CHUNK):
            yield wire.UploadFileRequest(chunk=chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, origin.size)


async def _receive(
    call: Any, target: Target, progress: Progress | None, silence: float
) -> tuple[types.File, bytes]:
    """Reads a download to its end; waits at most `silence` seconds for each part."""
    reader: AsyncStreamReader[wire.DownloadFileResponse] = AsyncStreamReader(call, silence)
    try:
        first = await reader.read()
        if first is None:
            raise UnavailableError("the download ended before it began")
        described = file(first.file)
        await async_run(target.begin, described.size, described.sha256)
        while (part := await reader.read()) is not None:
            done = await async_run(target.write, part.chunk)
            if progress is not None:
                progress(done, described.size)
        return described, await async_run(target.complete)
    except SilentStreamError:
        raise UnavailableError(f"no sign of life for {silence:g} s") from None
    finally:
        reader.cancel()
