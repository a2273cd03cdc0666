"""What type checkers must accept of the generated code: both kinds of stub, an asyncio servicer.

`make lint` checks this file with everything else; tests/unit/test_generated_stubs.py checks it as a
test, and runs it.
"""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, assert_type

import grpc

from agentchat_proto.v1 import file_pb2, file_service_pb2, file_service_pb2_grpc

if TYPE_CHECKING:
    # The asyncio stub's type exists for type checkers only; at run time there is one stub class.
    from agentchat_proto.v1.file_service_pb2_grpc import FileServiceAsyncStub


class EchoFiles(file_service_pb2_grpc.FileServiceServicer):
    """An asyncio servicer: takes one file at a time and gives its bytes back."""

    def __init__(self) -> None:
        self.stored = b""

    async def UploadFile(
        self,
        request_iterator: AsyncIterator[file_service_pb2.UploadFileRequest],
        context: grpc.aio.ServicerContext[
            file_service_pb2.UploadFileRequest, file_service_pb2.UploadFileResponse
        ],
    ) -> file_service_pb2.UploadFileResponse:
        self.stored = b"".join([request.chunk async for request in request_iterator])
        return file_service_pb2.UploadFileResponse(file=file_pb2.File(size=len(self.stored)))

    async def DownloadFile(
        self,
        request: file_service_pb2.DownloadFileRequest,
        context: grpc.aio.ServicerContext[
            file_service_pb2.DownloadFileRequest, file_service_pb2.DownloadFileResponse
        ],
    ) -> AsyncIterator[file_service_pb2.DownloadFileResponse]:
        yield file_service_pb2.DownloadFileResponse(file=file_pb2.File(path=request.path))
        yield file_service_pb2.DownloadFileResponse(chunk=self.stored)

    async def GetFile(
        self,
        request: file_service_pb2.GetFileRequest,
        context: grpc.aio.ServicerContext[file_service_pb2.GetFileRequest, file_service_pb2.GetFileResponse],
    ) -> file_service_pb2.GetFileResponse:
        return file_service_pb2.GetFileResponse(file=file_pb2.File(path=request.path))

    async def ListFiles(
        self,
        request: file_service_pb2.ListFilesRequest,
        context: grpc.aio.ServicerContext[
            file_service_pb2.ListFilesRequest, file_service_pb2.ListFilesResponse
        ],
    ) -> file_service_pb2.ListFilesResponse:
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "nothing to list")

    async def CreateDownloadUrl(
        self,
        request: file_service_pb2.CreateDownloadUrlRequest,
        context: grpc.aio.ServicerContext[
            file_service_pb2.CreateDownloadUrlRequest, file_service_pb2.CreateDownloadUrlResponse
        ],
    ) -> file_service_pb2.CreateDownloadUrlResponse:
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "nothing to sign")


def serve(server: grpc.aio.Server) -> None:
    """Adds the servicer to an asyncio server."""
    file_service_pb2_grpc.add_FileServiceServicer_to_server(EchoFiles(), server)


def blocking_calls(channel: grpc.Channel, chunks: list[bytes]) -> tuple[int, str, bytes]:
    """Uploads, describes and downloads; returns the size, the path and the bytes."""
    stub = file_service_pb2_grpc.FileServiceStub(channel)
    assert_type(stub, file_service_pb2_grpc.FileServiceStub)

    def requests() -> Iterator[file_service_pb2.UploadFileRequest]:
        for chunk in chunks:
            yield file_service_pb2.UploadFileRequest(chunk=chunk)

    uploaded = stub.UploadFile(requests(), timeout=10, metadata=(("x-agent-name", "ada"),))
    assert_type(uploaded, file_service_pb2.UploadFileResponse)

    described = stub.GetFile(file_service_pb2.GetFileRequest(path="general/1-notes.txt"))
    assert_type(described, file_service_pb2.GetFileResponse)

    content = b""
    for part in stub.DownloadFile(file_service_pb2.DownloadFileRequest(path="general/1-notes.txt")):
        assert_type(part, file_service_pb2.DownloadFileResponse)
        content += part.chunk
    return uploaded.file.size, described.file.path, content


async def asyncio_calls(channel: grpc.aio.Channel, chunks: list[bytes]) -> tuple[int, str, bytes]:
    """Does what `blocking_calls` does, without blocking."""
    stub: FileServiceAsyncStub = file_service_pb2_grpc.FileServiceStub(channel)

    async def requests() -> AsyncIterator[file_service_pb2.UploadFileRequest]:
        for chunk in chunks:
            yield file_service_pb2.UploadFileRequest(chunk=chunk)

    uploaded = await stub.UploadFile(requests(), timeout=10, metadata=(("x-agent-name", "ada"),))
    assert_type(uploaded, file_service_pb2.UploadFileResponse)

    described = await stub.GetFile(file_service_pb2.GetFileRequest(path="general/1-notes.txt"))
    assert_type(described, file_service_pb2.GetFileResponse)

    content = b""
    request = file_service_pb2.DownloadFileRequest(path="general/1-notes.txt")
    async for part in stub.DownloadFile(request):
        assert_type(part, file_service_pb2.DownloadFileResponse)
        content += part.chunk
    return uploaded.file.size, described.file.path, content
