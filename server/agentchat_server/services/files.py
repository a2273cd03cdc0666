"""FileService: part of the contract, not served yet."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agentchat_proto.v1 import file_service_pb2 as pb
from agentchat_proto.v1 import file_service_pb2_grpc
from agentchat_server.interceptors import Context
from agentchat_server.refusals import Refusal


class FileService(file_service_pb2_grpc.FileServiceServicer):
    """Answers UNIMPLEMENTED."""

    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        """Not served yet."""
        raise Refusal("NOT_IMPLEMENTED", method="UploadFile")

    async def DownloadFile(
        self, request: pb.DownloadFileRequest, context: Context
    ) -> AsyncIterator[pb.DownloadFileResponse]:
        """Not served yet."""
        _not_served("DownloadFile")
        yield pb.DownloadFileResponse()

    async def GetFile(self, request: pb.GetFileRequest, context: Context) -> pb.GetFileResponse:
        """Not served yet."""
        raise Refusal("NOT_IMPLEMENTED", method="GetFile")

    async def ListFiles(self, request: pb.ListFilesRequest, context: Context) -> pb.ListFilesResponse:
        """Not served yet."""
        raise Refusal("NOT_IMPLEMENTED", method="ListFiles")

    async def CreateDownloadUrl(
        self, request: pb.CreateDownloadUrlRequest, context: Context
    ) -> pb.CreateDownloadUrlResponse:
        """Not served yet."""
        raise Refusal("NOT_IMPLEMENTED", method="CreateDownloadUrl")


def _not_served(method: str) -> None:
    raise Refusal("NOT_IMPLEMENTED", method=method)
