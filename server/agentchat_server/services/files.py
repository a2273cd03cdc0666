"""FileService."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import structlog

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_proto.v1 import file_service_pb2 as pb
from agentchat_proto.v1 import file_service_pb2_grpc
from agentchat_server import conversion, fields
from agentchat_server.download_tokens import DownloadTokens
from agentchat_server.file_store import FileBytesMissing, FileStore, FileStoreUnavailable
from agentchat_server.identity import current_caller
from agentchat_server.interceptors import Context
from agentchat_server.refusals import InvalidField, Refusal
from agentchat_server.services.channels import get_channel
from agentchat_server.tokens import PageTokens
from agentchat_server.uploads import Uploader

DOWNLOAD_CHUNK = 64 * 1024
"""Bytes of a file in one part of a download, at most."""

_SQL = queries.load("files")
_MESSAGES_SQL = queries.load("messages")
# As the table `files` has it.
_PATH = re.compile(r"[a-z0-9][a-z0-9-]{1,99}/[0-9]{1,16}-[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_log = structlog.get_logger(__name__)


class FileService(file_service_pb2_grpc.FileServiceServicer):
    """Sharing files. Without a store, only the descriptions of files are served."""

    def __init__(
        self,
        database: Database,
        store: FileStore | None,
        uploader: Uploader | None,
        *,
        public_url: str,
    ) -> None:
        self._database = database
        self._store = store
        self._uploader = uploader
        self._tokens = DownloadTokens(database)
        self._public_url = public_url.rstrip("/")

    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        """Stores, publishes and announces a file."""
        if self._uploader is None:
            raise Refusal("FILES_NOT_CONFIGURED")

        async def accept() -> None:
            await context.send_initial_metadata(())

        try:
            published = await self._uploader.take(current_caller(), request_iterator, accept)
        except FileStoreUnavailable:
            raise Refusal("FILE_STORE_UNAVAILABLE") from None
        (file,), messages = await self._database.run(
            Statement(_SQL["get_file_by_id"], {"file_id": published.file_id}),
            Statement(_MESSAGES_SQL["get_message"], {"message_id": published.message_id}),
            as_agent=current_caller().agent_id,
        )
        return pb.UploadFileResponse(
            file=conversion.file(file),
            message=conversion.message(messages[0]) if messages else None,
            replayed=published.replayed,
        )

    async def DownloadFile(
        self, request: pb.DownloadFileRequest, context: Context
    ) -> AsyncIterator[pb.DownloadFileResponse]:
        """Returns a file's description and bytes. With a token there is no caller."""
        if self._store is None:
            raise Refusal("FILES_NOT_CONFIGURED")
        match request.WhichOneof("source"):
            case "path":
                row = await self._get_file(request.path)
            case "download_token":
                row = await self._get_permitted_file(request.download_token)
            case _:
                raise InvalidField("source", "must be a path or a download token")
        yield pb.DownloadFileResponse(file=conversion.file(row))
        try:
            async for block in self._store.get(row.store_key, row.size):
                for start in range(0, len(block), DOWNLOAD_CHUNK):
                    yield pb.DownloadFileResponse(chunk=bytes(block[start : start + DOWNLOAD_CHUNK]))
        except FileBytesMissing:
            _log.error("file bytes missing", path=row.path, store_key=str(row.store_key))
            raise Refusal("FILE_BYTES_MISSING", path=row.path) from None
        except FileStoreUnavailable:
            raise Refusal("FILE_STORE_UNAVAILABLE") from None

    async def GetFile(self, request: pb.GetFileRequest, context: Context) -> pb.GetFileResponse:
        """Returns the description of a file."""
        return pb.GetFileResponse(file=conversion.file(await self._get_file(request.path)))

    async def ListFiles(self, request: pb.ListFilesRequest, context: Context) -> pb.ListFilesResponse:
        """Lists the files of a channel."""
        limit = fields.page_size(request.page_size, default=20, maximum=200)
        channel = await get_channel(self._database, request.channel)
        # The token remembers the moment of the last file, in microseconds.
        tokens = PageTokens("files", "q", channel.id)
        position = tokens.decode(request.page_token)
        rows = await self._database.fetch_all(
            Statement(
                _SQL["list_files"],
                {
                    "channel_id": channel.id,
                    "before": None if position is None else _remembered_moment(position[0]),
                    "limit": limit + 1,
                },
            )
        )
        page = rows[:limit]
        return pb.ListFilesResponse(
            files=[conversion.file(row) for row in page],
            next_page_token=(
                tokens.encode((page[-1].created_at - _EPOCH) // _MICROSECOND) if len(rows) > limit else ""
            ),
        )

    async def CreateDownloadUrl(
        self, request: pb.CreateDownloadUrlRequest, context: Context
    ) -> pb.CreateDownloadUrlResponse:
        """Signs an address to download from."""
        row = await self._get_file(request.path)
        token, expires_at = await self._tokens.create(row.id)
        return pb.CreateDownloadUrlResponse(
            url=f"{self._public_url}/api/v1/files?token={token}",
            download_token=token,
            expires_at=conversion.timestamp(expires_at),
        )

    async def _get_file(self, path: str) -> Row:
        if not _PATH.fullmatch(path):
            raise InvalidField(
                "path", "must be the path of a file, {channel}/{milliseconds}-{name}" if path else "required"
            )
        row = await self._database.fetch_one(Statement(_SQL["get_file"], {"path": path}))
        if row is None:
            raise Refusal("FILE_NOT_FOUND", path=path)
        return row

    async def _get_permitted_file(self, token: str) -> Row:
        file_id = await self._tokens.check(token)
        return await self._database.fetch_row(Statement(_SQL["get_file_by_id"], {"file_id": file_id}))


def _remembered_moment(microseconds: float | str) -> datetime:
    try:
        return _EPOCH + int(microseconds) * _MICROSECOND
    except OverflowError:
        # No file is of that year: the token was forged.
        raise Refusal("PAGE_TOKEN_INVALID") from None
