"""Files through the real server, on a local store and on S3: up, down, listed, and never half."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict

from agentchat_proto.v1 import admin_service_pb2, agent_service_pb2, channel_service_pb2, file_pb2
from agentchat_proto.v1 import file_service_pb2 as pb
from agentchat_proto.v1.file_service_pb2_grpc import FileServiceStub
from agentchat_server.file_store import FileStoreUnusable, open_file_store
from tests.board import DEADLINE, Agent, Board, Failure, upload_parts
from tests.file_stores import InspectedStore, LocalFolder, S3Bucket
from tests.fuzz.wire import forge

MIB = 1024 * 1024
LIMIT = 10 * MIB

on_both_stores = pytest.mark.parametrize("files", ["local_files", "s3_files"], indirect=True)


@pytest.fixture
async def ada(file_board: Board) -> Agent:
    (ada,) = await file_board.agents("ada")
    return ada


async def rows(board: Board, query: str) -> list[Any]:
    async with board.sql() as owner:
        return await (await owner.execute(query.encode())).fetchall()


async def published(board: Board) -> int:
    """How many files are published."""
    ((count,),) = await rows(board, "select count(*) from agentchat.files")
    found: int = count
    return found


async def eventually(condition: Callable[[], Any], message: str) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(DEADLINE):
        while True:
            value = condition()
            if await value if asyncio.iscoroutine(value) else value:
                return
            await asyncio.sleep(0.01)


async def refused(call: Any) -> Failure:
    with pytest.raises(Failure) as failure:
        await call
    return failure.value


# --- Up and down --------------------------------------------------------------------------------


@on_both_stores
@pytest.mark.parametrize(
    "size", [0, 1, 64 * 1024, 256 * 1024, 256 * 1024 + 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, LIMIT]
)
async def test_a_file_comes_back_as_it_was_uploaded(
    file_board: Board, files: InspectedStore, ada: Agent, size: int
) -> None:
    content = os.urandom(size)
    checksum = hashlib.sha256(content).hexdigest()
    uploaded = await ada.upload(
        content, name="Bericht März.pdf", content_type="application/pdf", size=size, sha256=checksum
    )
    file = uploaded.file
    assert (file.name, file.size, file.sha256) == ("Bericht März.pdf", size, checksum)
    assert (file.channel_name, file.content_type) == ("general", "application/pdf")
    assert (file.uploaded_by_name, file.message_id) == ("ada", uploaded.message.id)
    assert not uploaded.replayed

    assert await ada.download(file.path) == (file, content)
    assert (await ada.files.GetFile(pb.GetFileRequest(path=file.path))).file == file
    assert len(files.names()) == 1


async def test_a_file_is_announced_in_its_channel(ada: Agent) -> None:
    uploaded = await ada.upload(b"x" * 1536, "project-shop", "build log.txt", content_type="text/plain")

    (message,) = (await ada.read("project-shop")).messages
    assert message == uploaded.message
    assert message.content == "Shared a file: **build log.txt** (1.5 KiB)"
    assert MessageToDict(message.metadata) == {
        "files": [
            {
                "name": "build log.txt",
                "size": 1536.0,
                "type": "text/plain",
                "path": uploaded.file.path,
            }
        ]
    }
    channel, _, name = uploaded.file.path.partition("/")
    milliseconds, _, safe_name = name.partition("-")
    assert (channel, safe_name) == ("project-shop", "build_log.txt")
    assert abs(int(milliseconds) / 1000 - time.time()) < 60
    assert uploaded.file.content_type == "text/plain"


async def test_a_file_without_a_media_type_is_a_stream_of_bytes(ada: Agent) -> None:
    assert (await ada.upload(b"x")).file.content_type == "application/octet-stream"


async def test_an_unannounced_file_is_published_without_a_message(file_board: Board, ada: Agent) -> None:
    uploaded = await ada.upload(b"quiet", "project-quiet", unannounced=True)

    assert not uploaded.HasField("message")
    assert not uploaded.file.HasField("message_id")
    assert (await ada.download(uploaded.file.path))[1] == b"quiet"
    channel = (
        await ada.channels.GetChannel(channel_service_pb2.GetChannelRequest(channel="project-quiet"))
    ).channel
    # Created as by a post: its type by its name, the uploader its admin, and nothing to read.
    assert (channel.type, channel.role, channel.message_count) == (2, 2, 0)
    assert [file.path for file in (await list_files(ada, "project-quiet")).files] == [uploaded.file.path]


async def test_uploading_joins_without_anything_unread(file_board: Board) -> None:
    ada, bob = await file_board.agents("ada", "bob")
    await ada.send("project-x", "one")
    await ada.send("project-x", "two")
    for unannounced in (True, False):
        await bob.upload(b"x", "project-x", unannounced=unannounced)
        request = channel_service_pb2.GetChannelRequest(channel="project-x")
        channel = (await bob.channels.GetChannel(request)).channel
        assert (channel.role, channel.unread_count) == (1, 0)


@pytest.mark.parametrize("unannounced", [False, True])
async def test_files_create_no_more_channels_than_messages_do(ada: Agent, unannounced: bool) -> None:
    for number in range(20):
        await ada.upload(b"x", f"project-{number}", unannounced=unannounced)
    failure = await refused(ada.upload(b"x", "project-20", unannounced=unannounced))
    assert (failure.reason, failure.metadata) == ("CHANNEL_LIMIT_REACHED", {"limit": "20"})


@pytest.mark.parametrize("unannounced", [False, True])
async def test_an_archived_channel_takes_no_files_before_any_byte_is_sent(
    file_board: Board, files: InspectedStore, ada: Agent, unannounced: bool
) -> None:
    repeated: dict[str, Any] = {"request_id": str(uuid4()), "unannounced": unannounced}
    first = await ada.upload(b"before", "project-old", **repeated)
    await file_board.admin.ArchiveChannel(admin_service_pb2.ArchiveChannelRequest(channel="project-old"))

    sent: list[pb.UploadFileRequest] = []

    async def parts() -> AsyncIterator[pb.UploadFileRequest]:
        metadata, chunk = upload_parts(b"x", channel="project-old", name="n", unannounced=unannounced)
        yield metadata
        await asyncio.sleep(DEADLINE)
        sent.append(chunk)
        yield chunk

    failure = await refused(ada.files.UploadFile(parts()))
    assert (failure.reason, failure.metadata) == ("CHANNEL_ARCHIVED", {"channel": "project-old"})
    assert sent == []
    # What was published before can be had, and its upload repeated.
    assert (await ada.download(first.file.path))[1] == b"before"
    again = await ada.upload(b"before", "project-old", **repeated)
    assert (again.file, again.replayed) == (first.file, True)
    assert len(files.names()) == 1


async def test_a_channel_archived_during_an_upload_does_not_get_the_file(
    file_board: Board, files: InspectedStore, ada: Agent
) -> None:
    await ada.send("project-old", "hello")
    stored = asyncio.Event()

    async def parts(unannounced: bool) -> AsyncIterator[pb.UploadFileRequest]:
        metadata, *chunks = upload_parts(bytes(MIB), channel="project-old", name="n", unannounced=unannounced)
        yield metadata
        yield chunks[0]
        await stored.wait()
        for chunk in chunks[1:]:
            yield chunk

    for unannounced in (False, True):
        stored.clear()
        upload = asyncio.create_task(ada.files.UploadFile(parts(unannounced)))
        await asyncio.sleep(0.1)
        await file_board.admin.ArchiveChannel(admin_service_pb2.ArchiveChannelRequest(channel="project-old"))
        stored.set()
        assert (await refused(upload)).reason == "CHANNEL_ARCHIVED"
        await file_board.admin.UnarchiveChannel(
            admin_service_pb2.UnarchiveChannelRequest(channel="project-old")
        )
    assert (await published(file_board), files.names()) == (0, [])


async def test_a_deactivated_agent_uploads_nothing(
    file_board: Board, files: InspectedStore, ada: Agent
) -> None:
    going = asyncio.Event()

    async def parts() -> AsyncIterator[pb.UploadFileRequest]:
        metadata, chunk = upload_parts(b"x", channel="general", name="n")
        yield metadata
        await going.wait()
        yield chunk

    # Also when it was active as the upload began.
    upload = asyncio.create_task(ada.files.UploadFile(parts()))
    await asyncio.sleep(0.1)
    await file_board.admin.DeactivateAgent(admin_service_pb2.DeactivateAgentRequest(agent="ada"))
    going.set()
    failure = await refused(upload)
    assert (failure.code, failure.reason, failure.metadata) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "AGENT_DEACTIVATED",
        {"agent": "ada"},
    )
    assert (await refused(ada.upload(b"x"))).reason == "AGENT_DEACTIVATED"
    assert (await published(file_board), files.names()) == (0, [])


# --- What is refused ----------------------------------------------------------------------------


@on_both_stores
async def test_one_byte_too_many_is_refused_without_reading_on(
    file_board: Board, files: InspectedStore, ada: Agent
) -> None:
    sent = 0

    def endless() -> Iterator[pb.UploadFileRequest]:
        nonlocal sent
        yield upload_parts(b"", channel="general", name="zeros")[0]
        while True:
            yield pb.UploadFileRequest(chunk=bytes(MIB))
            sent += MIB

    def upload() -> Failure:
        # A blocking call: grpc.aio loses the status of a call that ends while it sends.
        with grpc.insecure_channel(file_board.target) as channel, pytest.raises(grpc.RpcError) as error:
            FileServiceStub(channel).UploadFile(
                endless(),
                metadata=(("x-agent-api-key", ada.key), ("x-agent-name", "ada")),
                timeout=DEADLINE,
            )
        value: Any = error.value
        return Failure(value)

    failure = await asyncio.to_thread(upload)
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE")
    assert failure.metadata == {"limit": str(LIMIT)}
    assert sent < 20 * MIB
    assert (await refused(ada.upload(bytes(LIMIT + 1)))).reason == "FILE_TOO_LARGE"
    assert (await refused(ada.upload(b"", size=LIMIT + 1))).reason == "FILE_TOO_LARGE"
    assert (await published(file_board), files.names()) == (0, [])


@on_both_stores
@pytest.mark.parametrize("size", [3, 6 * MIB])
async def test_bytes_that_were_not_promised_are_refused(
    file_board: Board, files: InspectedStore, ada: Agent, size: int
) -> None:
    content = bytes(size)
    for promise, reason in (
        ({"size": size - 1}, "FILE_SIZE_MISMATCH"),
        ({"size": size + 1}, "FILE_SIZE_MISMATCH"),
        ({"sha256": hashlib.sha256(b"other").hexdigest()}, "FILE_CHECKSUM_MISMATCH"),
    ):
        failure = await refused(ada.upload(content, **promise))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert (await published(file_board), files.names()) == (0, [])
    assert (await ada.read("general")).messages == []
    upper_case = hashlib.sha256(content).hexdigest().upper()
    assert (await ada.upload(content, size=size, sha256=upper_case)).file.sha256 == upper_case.lower()


def _metadata(**fields: Any) -> pb.UploadFileRequest:
    return pb.UploadFileRequest(metadata=pb.FileMetadata(**{"channel": "general", "name": "n.txt", **fields}))


CHUNK = pb.UploadFileRequest(chunk=b"x")


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([], "metadata"),
        ([CHUNK], "metadata"),
        ([pb.UploadFileRequest()], "metadata"),
        ([_metadata(), _metadata()], "part"),
        ([_metadata(), CHUNK, _metadata(), CHUNK], "part"),
        ([_metadata(), CHUNK, pb.UploadFileRequest()], "part"),
        ([_metadata(), pb.UploadFileRequest(chunk=bytes(MIB + 1))], "chunk"),
        ([_metadata(channel="")], "channel"),
        ([_metadata(channel="../etc")], "channel"),
        ([_metadata(name="")], "name"),
        ([_metadata(name="  ")], "name"),
        ([_metadata(name="a\x00b")], "name"),
        ([_metadata(name="a\nb")], "name"),
        ([_metadata(name="a\x7fb")], "name"),
        ([_metadata(name="a\x85b")], "name"),
        ([_metadata(name="x" * 256)], "name"),
        ([_metadata(name="x" * 10_000)], "name"),
        ([_metadata(content_type="text")], "content_type"),
        ([_metadata(content_type="text/plain\r\nX-Evil: yes")], "content_type"),
        ([_metadata(content_type="text/plain;")], "content_type"),
        ([_metadata(content_type="text/pläin")], "content_type"),
        ([_metadata(content_type="text/" + "x" * 251)], "content_type"),
        ([_metadata(size=-1)], "size"),
        ([_metadata(sha256="abc")], "sha256"),
        ([_metadata(sha256="g" * 64)], "sha256"),
        ([_metadata(request_id="")], "request_id"),
        ([_metadata(request_id="1")], "request_id"),
    ],
)
async def test_an_upload_that_breaks_a_rule_names_the_field(
    file_board: Board, files: InspectedStore, ada: Agent, parts: list[pb.UploadFileRequest], field: str
) -> None:
    failure = await refused(ada.files.UploadFile(iter(parts)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert failure.fields == [field]
    assert (await published(file_board), files.names()) == (0, [])


@pytest.mark.parametrize("content_type", ["text/plain", "text/html; charset=utf-8", 'a/b;c="d; \\" e"'])
async def test_a_media_type_is_kept_as_stated(ada: Agent, content_type: str) -> None:
    assert (await ada.upload(b"x", content_type=content_type)).file.content_type == content_type


async def test_who_calls_is_checked_before_anything_is_read(
    file_board: Board, files: InspectedStore, ada: Agent
) -> None:
    nobody = file_board.agent("ack_wrong")

    async def waiting() -> AsyncIterator[pb.UploadFileRequest]:
        await asyncio.sleep(DEADLINE)
        yield CHUNK

    failure = await refused(nobody.files.UploadFile(waiting()))
    assert failure.code is grpc.StatusCode.UNAUTHENTICATED
    uploaded = await ada.upload(b"x")
    for call in (
        nobody.download(uploaded.file.path),
        nobody.files.GetFile(pb.GetFileRequest(path=uploaded.file.path)),
        nobody.files.ListFiles(pb.ListFilesRequest(channel="general")),
        nobody.files.CreateDownloadUrl(pb.CreateDownloadUrlRequest(path=uploaded.file.path)),
        nobody.download_by(pb.DownloadFileRequest()),
    ):
        assert (await refused(call)).code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_server_without_a_file_store_says_so(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for call in (ada.upload(b"x"), ada.download("general/1-x")):
        failure = await refused(call)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "FILES_NOT_CONFIGURED",
        )
    # What is only said of files needs no store.
    assert (await list_files(ada, "general")).files == []


async def test_a_file_store_out_of_reach_is_unavailable(
    database_url: str, owner_url: str, s3_files: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens on port 1.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    async with Board.serve(database_url, owner_url, files_url=s3_files.url) as board:
        (ada,) = await board.agents("ada")
        failure = await refused(ada.upload(b"x"))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "FILE_STORE_UNAVAILABLE")
        assert "127.0.0.1" not in failure.message
        assert await published(board) == 0


@on_both_stores
async def test_a_file_whose_bytes_are_gone_is_data_loss(files: InspectedStore, ada: Agent) -> None:
    uploaded = await ada.upload(b"precious")
    (name,) = files.names()
    files.remove(name)
    failure = await refused(ada.download(uploaded.file.path))
    assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "FILE_BYTES_MISSING")
    assert failure.metadata == {"path": uploaded.file.path}
    assert name not in failure.message
    for cut in (b"cut", b""):
        files.add(name, cut)
        assert (await refused(ada.download(uploaded.file.path))).reason == "FILE_BYTES_MISSING"


# --- Half an upload -----------------------------------------------------------------------------


@on_both_stores
@pytest.mark.parametrize("chunks", [0, 1, 6])
@pytest.mark.parametrize("promised", [True, False])
async def test_an_upload_that_is_cancelled_leaves_nothing(
    file_board: Board, files: InspectedStore, ada: Agent, chunks: int, promised: bool
) -> None:
    reached = asyncio.Event()

    async def parts() -> AsyncIterator[pb.UploadFileRequest]:
        yield _metadata(**({"size": 9 * MIB} if promised else {}))
        for _ in range(chunks):
            yield pb.UploadFileRequest(chunk=bytes(MIB))
        reached.set()
        await asyncio.sleep(DEADLINE)

    upload = asyncio.create_task(ada.files.UploadFile(parts()))
    await reached.wait()
    await asyncio.sleep(0.1)
    upload.cancel()
    await asyncio.gather(upload, return_exceptions=True)
    # A call behind it, and the end of the server, which waits for what is under way.
    await ada.upload(b"other")
    await file_board.application.stop()
    assert await published(file_board) == 1
    assert len(files.names()) == 1


async def test_uploads_whose_connection_breaks_at_any_moment_are_never_published_half(
    file_board: Board, files: InspectedStore, ada: Agent
) -> None:
    for number in range(40):
        channel = grpc.aio.insecure_channel(file_board.target)
        agent = Agent(channel, ada.key, "ada")

        async def parts() -> AsyncIterator[pb.UploadFileRequest]:
            yield _metadata()
            for _ in range(3):
                yield CHUNK
            await asyncio.sleep(DEADLINE)

        upload = asyncio.create_task(agent.files.UploadFile(parts()))
        await asyncio.sleep(number * 0.001)
        await channel.close()
        await asyncio.gather(upload, return_exceptions=True)
    await file_board.application.stop()
    assert (await published(file_board), files.names()) == (0, [])


async def test_a_truncated_upload_is_refused(file_board: Board, files: InspectedStore, ada: Agent) -> None:
    content = os.urandom(MIB)
    parts = upload_parts(content, channel="general", name="n", sha256=hashlib.sha256(content).hexdigest())
    failure = await refused(ada.files.UploadFile(iter(parts[:-1])))
    assert failure.reason == "FILE_CHECKSUM_MISMATCH"
    assert (await published(file_board), files.names()) == (0, [])


@on_both_stores
async def test_an_upload_that_takes_too_long_is_refused(
    database_url: str, owner_url: str, files: InspectedStore
) -> None:
    async def parts(size: int) -> AsyncIterator[pb.UploadFileRequest]:
        yield _metadata()
        for _ in range(size):
            yield pb.UploadFileRequest(chunk=bytes(MIB))
        await asyncio.sleep(DEADLINE)

    async with Board.serve(database_url, owner_url, files_url=files.url, upload_timeout=0.7) as board:
        (ada,) = await board.agents("ada")
        for size in (0, 1, 6):
            failure = await refused(ada.files.UploadFile(parts(size)))
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "UPLOAD_TOO_SLOW",
            )
            assert failure.metadata == {"limit": "0.7"}
        assert (await published(board), files.names()) == (0, [])


async def test_a_stopping_server_leaves_no_half_file(
    database_url: str, owner_url: str, local_files: LocalFolder
) -> None:
    reached = asyncio.Event()

    async def parts() -> AsyncIterator[pb.UploadFileRequest]:
        yield _metadata()
        yield pb.UploadFileRequest(chunk=bytes(MIB))
        reached.set()
        await asyncio.sleep(DEADLINE)

    async with Board.serve(database_url, owner_url, files_url=local_files.url, shutdown_grace=0.2) as board:
        (ada,) = await board.agents("ada")
        upload = asyncio.create_task(ada.files.UploadFile(parts()))
        await reached.wait()
        await asyncio.sleep(0.1)
        await board.application.stop()
        await asyncio.gather(upload, return_exceptions=True)
        assert (await published(board), local_files.names()) == (0, [])


# --- Repeats ------------------------------------------------------------------------------------


@on_both_stores
@pytest.mark.parametrize("unannounced", [False, True])
async def test_a_repeated_upload_returns_the_first_file(
    file_board: Board, files: InspectedStore, ada: Agent, unannounced: bool
) -> None:
    same: dict[str, Any] = {
        "channel": "project-x",
        "name": "a.txt",
        "content_type": "text/plain",
        "unannounced": unannounced,
        "request_id": str(uuid4()),
    }
    first = await ada.upload(b"content", **same)
    again = await ada.upload(b"content", **same)
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.file, again.message) == (first.file, first.message)
    for other in (
        {"name": "b.txt"},
        {"channel": "project-y"},
        {"content_type": "text/html"},
        {"unannounced": not unannounced},
    ):
        failure = await refused(ada.upload(b"content", **{**same, **other}))
        assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert failure.metadata == {"request_id": same["request_id"]}
    assert (await refused(ada.upload(b"Content", **same))).reason == "REQUEST_ID_REUSED"
    assert await published(file_board) == len(files.names()) == 1
    assert len((await ada.read("project-x")).messages) == (0 if unannounced else 1)


async def test_the_same_upload_at_once_is_published_once(
    file_board: Board, files: InspectedStore, ada: Agent
) -> None:
    request_id = str(uuid4())
    uploads = await asyncio.gather(*(ada.upload(b"content", request_id=request_id) for _ in range(10)))
    assert len({upload.file.id for upload in uploads}) == 1
    assert [upload.replayed for upload in uploads].count(False) == 1
    assert await published(file_board) == len(files.names()) == 1
    assert len((await ada.read("general")).messages) == 1


async def test_a_request_id_is_of_its_agent_alone(file_board: Board) -> None:
    ada, bob = await file_board.agents("ada", "bob")
    request_id = str(uuid4())
    first = await ada.upload(b"content", request_id=request_id)
    second = await bob.upload(b"content", request_id=request_id)
    assert first.file.path != second.file.path


async def test_a_request_id_is_not_for_a_message_and_a_file(
    file_board: Board, files: InspectedStore, ada: Agent
) -> None:
    of_message, of_file = str(uuid4()), str(uuid4())
    await ada.send("general", "hello", request_id=of_message)
    assert (await refused(ada.upload(b"x", request_id=of_message))).reason == "REQUEST_ID_REUSED"
    await ada.upload(b"x", request_id=of_file)
    assert (await refused(ada.send("general", "hello", request_id=of_file))).reason == "REQUEST_ID_REUSED"
    assert await published(file_board) == len(files.names()) == 1


async def test_a_publication_sent_twice_is_one(file_board: Board, files: InspectedStore, ada: Agent) -> None:
    # As when the connection to Postgres breaks at the commit.
    uploaded = await ada.upload(b"x")
    ((file_id, message_id, store_key),) = await rows(
        file_board, "select id, message_id, store_key from agentchat.files"
    )
    (answer,) = await rows(
        file_board,
        "select p.refusal, p.file_id, p.message_id, p.replayed"
        " from agentchat.agents a, lateral agentchat.publish_file_v1("
        f" '{file_id}', '{message_id}', sha256('{ada.key}'), a.id, 'general', 'notes.txt', 'notes.txt', 1,"
        f" 'application/octet-stream', sha256('x'), '{store_key}', 'Shared', null) p where a.name = 'ada'",
    )
    assert answer == (None, file_id, message_id, False)
    assert await published(file_board) == len(files.names()) == 1
    assert uploaded.file.id == str(file_id)


# --- Names --------------------------------------------------------------------------------------


def outside_of_the_store(folder: Path) -> set[Path]:
    """All files and folders around a local store."""
    return {path for path in folder.rglob("*") if path.parent != folder / "files"}


@on_both_stores
@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "file"),
        (".", "file"),
        ("...", "file"),
        ("/", "file"),
        ("/etc/passwd", "_etc_passwd"),
        ("..\\..\\windows", "_.._windows"),
        ("C:\\secret.txt", "C_secret.txt"),
        (".hidden", "hidden"),
        (".-.-x", "x"),
        ("-rf", "rf"),
        ("a/b", "a_b"),
        ("a%2fb", "a_2fb"),
        ("~root", "_root"),
        ("$(reboot).sh", "_reboot_.sh"),
        ("con.txt", "con.txt"),
        ("photo\u202egnp.exe", "photo_gnp.exe"),
        ("fullwidth\uff0fslash\uff0e\uff0e", "fullwidth_slash_"),
        ("cafe\u0301.txt", "cafe_.txt"),
        ("\u0661\u0662.txt", "_.txt"),
        ("日本語", "file"),
        ("日本語.pdf", "_.pdf"),
        ("🎉", "file"),
        ("x" * 255, "x" * 100),
        ("x" * 200 + ".tar.gz", "x" * 97 + ".gz"),
        ("." + "x" * 254, "x" * 100),
        ("a." + "b" * 200, "a." + "b" * 98),
        ("\u202e" * 255, "file"),
    ],
)
async def test_no_name_leads_out_of_the_store(
    file_board: Board, files: InspectedStore, ada: Agent, tmp_path: Path, name: str, safe: str
) -> None:
    before = outside_of_the_store(tmp_path)
    uploaded = await ada.upload(b"x", name=name)
    assert uploaded.file.name == name
    assert uploaded.file.path.partition("-")[2] == safe
    assert (await ada.download(uploaded.file.path))[1] == b"x"
    (key,) = files.names()
    assert str(UUID(key)) == key
    assert outside_of_the_store(tmp_path) == before


async def test_files_of_one_moment_and_name_have_different_paths(file_board: Board, ada: Agent) -> None:
    paths = {(await ada.upload(b"x", name="same")).file.path for _ in range(5)}
    # A clock that stands still: every following path is taken by now.
    async with file_board.sql() as owner:
        await owner.execute(
            "update agentchat.files f set path = 'general/'"
            " || (floor(extract(epoch from clock_timestamp()) * 1000)::bigint + 5000 + n) || '-same',"
            " created_at = to_timestamp(extract(epoch from clock_timestamp()) + 5 + n / 1e6)"
            " from (select id, row_number() over () as n from agentchat.files) r where r.id = f.id"
        )
    uploads = await asyncio.gather(*(ada.upload(b"x", name="same") for _ in range(20)))
    paths = {upload.file.path for upload in uploads}
    assert len(paths) == 20
    times = [upload.file.created_at.ToNanoseconds() for upload in uploads]
    assert len(set(times)) == 20


@pytest.mark.parametrize(
    "path",
    ["", "x", "general", "general/", "/etc/passwd", "general/../x", "general/1-a/b", "general/1-\x00",
     "x" * 10_000, "general/1-" + "x" * 101, "general/1-.x", "general/1-x\n", "GENERAL/1-x"],
)  # fmt: skip
async def test_what_can_be_no_path_is_an_invalid_argument(ada: Agent, path: str) -> None:
    for call in (
        ada.download(path),
        ada.files.GetFile(pb.GetFileRequest(path=path)),
        ada.files.CreateDownloadUrl(pb.CreateDownloadUrlRequest(path=path)),
    ):
        failure = await refused(call)
        assert (failure.reason, failure.fields) == ("FIELD_INVALID", ["path"])


async def test_a_path_that_no_file_has_is_not_found(ada: Agent) -> None:
    for call in (
        ada.download("general/1-x"),
        ada.files.GetFile(pb.GetFileRequest(path="general/1-x")),
        ada.files.CreateDownloadUrl(pb.CreateDownloadUrlRequest(path="general/1-x")),
    ):
        failure = await refused(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND")
        assert failure.metadata == {"path": "general/1-x"}


async def test_a_download_of_nothing_names_the_field(ada: Agent) -> None:
    failure = await refused(ada.download_by(pb.DownloadFileRequest()))
    assert (failure.reason, failure.fields) == ("FIELD_INVALID", ["source"])


# --- Download tokens ----------------------------------------------------------------------------


async def download_url(agent: Agent, file: file_pb2.File) -> pb.CreateDownloadUrlResponse:
    response: pb.CreateDownloadUrlResponse = await agent.files.CreateDownloadUrl(
        pb.CreateDownloadUrlRequest(path=file.path)
    )
    return response


@pytest.fixture
def nobody(file_board: Board) -> Agent:
    """Somebody without a key that is good."""
    return file_board.agent("ack_wrong", "INVALID NAME")


async def with_token(agent: Agent, token: str) -> tuple[file_pb2.File, bytes]:
    return await agent.download_by(pb.DownloadFileRequest(download_token=token))


async def test_a_download_token_needs_no_key(ada: Agent, nobody: Agent) -> None:
    file = (await ada.upload(b"for everybody")).file
    await ada.upload(b"another")
    signed = await download_url(ada, file)
    assert signed.url == f"http://localhost:3003/api/v1/files?token={signed.download_token}"
    assert 3590 < signed.expires_at.seconds - time.time() <= 3600
    assert await with_token(nobody, signed.download_token) == (file, b"for everybody")


async def test_the_public_address_is_the_one_that_is_set(
    database_url: str, owner_url: str, local_files: LocalFolder
) -> None:
    settings = {"files_url": local_files.url, "public_url": "https://board.example.com/chat/"}
    async with Board.serve(database_url, owner_url, **settings) as board:
        (ada,) = await board.agents("ada")
        signed = await download_url(ada, (await ada.upload(b"x")).file)
    assert signed.url.startswith("https://board.example.com/chat/api/v1/files?token=")


def variations(token: str) -> Iterator[str]:
    data = base64.urlsafe_b64decode(token)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield base64.urlsafe_b64encode(flipped).decode()
    yield from (
        "",
        "x",
        token[:-1],
        token + "A",
        token[4:],
        "=" * 76,
        "é" * 76,
        "A" * 76,
        "\x00",
        "x" * 10_000,
    )


async def test_a_changed_token_permits_nothing(ada: Agent, nobody: Agent) -> None:
    signed = await download_url(ada, (await ada.upload(b"x")).file)
    for token in variations(signed.download_token):
        failure = await refused(with_token(nobody, token))
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "DOWNLOAD_TOKEN_INVALID",
        )


async def sign(board: Board, file_id: str, expires_at: int) -> bytes:
    """A true signature, past the server."""
    ((signature,),) = await rows(board, f"select agentchat.sign_download_v1('{file_id}', {expires_at})")
    found: bytes = signature
    return found


def token_of(file_id: str, expires_at: int, signature: bytes) -> str:
    data = b"\x01" + UUID(file_id).bytes + expires_at.to_bytes(8, "big", signed=True) + signature
    return base64.urlsafe_b64encode(data).decode()


async def test_an_expired_token_or_one_of_another_file_permits_nothing(
    file_board: Board, ada: Agent, nobody: Agent
) -> None:
    one, two = (await ada.upload(b"1")).file, (await ada.upload(b"2")).file
    future, past = int(time.time()) + 60, int(time.time()) - 1
    signature = await sign(file_board, one.id, future)
    assert (await with_token(nobody, token_of(one.id, future, signature)))[1] == b"1"
    for token in (
        token_of(one.id, past, await sign(file_board, one.id, past)),
        token_of(one.id, -(2**63), await sign(file_board, one.id, -(2**63))),
        token_of(one.id, future + 1, signature),
        token_of(two.id, future, signature),
        token_of(str(uuid4()), future, signature),
    ):
        assert (await refused(with_token(nobody, token))).reason == "DOWNLOAD_TOKEN_INVALID"


async def test_the_database_signs_by_hmac_sha256(file_board: Board, ada: Agent) -> None:
    ((key,),) = await rows(file_board, "select value from agentchat.secrets where name = 'download'")
    file_id = str(uuid4())
    message = UUID(file_id).bytes + (12345).to_bytes(8, "big")
    assert await sign(file_board, file_id, 12345) == hmac.digest(key, message, "sha256")


# --- Lists --------------------------------------------------------------------------------------


async def list_files(agent: Agent, channel: str, **fields: Any) -> pb.ListFilesResponse:
    response: pb.ListFilesResponse = await agent.files.ListFiles(
        pb.ListFilesRequest(channel=channel, **fields)
    )
    return response


async def test_files_are_listed_newest_first_page_by_page(ada: Agent) -> None:
    names = [f"{number}.txt" for number in range(7)]
    for name in names:
        await ada.upload(b"x", "project-x", name, unannounced=name == "3.txt")
    await ada.upload(b"x", "project-y")

    listed: list[str] = []
    token = ""
    sizes: list[int] = []
    while True:
        page = await list_files(ada, "project-x", page_size=3, page_token=token)
        listed += [file.name for file in page.files]
        sizes.append(len(page.files))
        token = page.next_page_token
        if not token:
            break
        # What comes meanwhile moves no page.
        await ada.upload(b"x", "project-x", "later.txt")
    assert (listed, sizes) == (names[::-1], [3, 3, 1])


async def test_a_list_refuses_what_it_does_not_know(ada: Agent) -> None:
    for number in range(2):
        await ada.upload(b"x", "project-x", str(number))
    token = (await list_files(ada, "project-x", page_size=1)).next_page_token
    assert (await refused(list_files(ada, "general", page_token=token))).reason == "PAGE_TOKEN_INVALID"
    assert (await refused(list_files(ada, "general", page_token="x"))).reason == "PAGE_TOKEN_INVALID"
    # Made up with care: a moment that is in no calendar.
    forged = forge(token, b"\x7f" * 8)
    assert (await refused(list_files(ada, "project-x", page_token=forged))).reason == "PAGE_TOKEN_INVALID"
    assert (await refused(list_files(ada, "project-none"))).reason == "CHANNEL_NOT_FOUND"
    for size in (-1, 201):
        assert (await refused(list_files(ada, "general", page_size=size))).fields == ["page_size"]


# --- The sweep ----------------------------------------------------------------------------------


async def sweep(board: Board) -> int:
    sweeper = board.application._sweeper
    assert sweeper is not None
    return await sweeper.sweep()


async def test_the_sweep_removes_what_is_old_and_no_file_names(
    file_board: Board, local_files: LocalFolder, ada: Agent
) -> None:
    uploaded = await ada.upload(b"named")
    (named,) = local_files.names()
    orphans = [str(uuid4()) for _ in range(700)]
    young = str(uuid4())
    torn = [f"{uuid4()}#1", f"{uuid4()}#1"]
    foreign = ["README", f"{orphans[0]}.bak", orphans[0].upper()]
    for name in (*orphans, young, *torn, *foreign):
        local_files.add(name, b"x")
    for name in (named, *orphans, torn[0], *foreign):
        local_files.age(name, 3700)
    local_files.age(young, 3500)

    assert await sweep(file_board) == 700
    assert local_files.names() == sorted([named, young, torn[1], *foreign])
    assert (await ada.download(uploaded.file.path))[1] == b"named"
    assert await sweep(file_board) == 0


async def test_the_sweep_takes_nothing_from_an_upload_under_way(
    file_board: Board, local_files: LocalFolder, ada: Agent
) -> None:
    going, swept = asyncio.Event(), asyncio.Event()
    content = os.urandom(3 * MIB)

    async def parts() -> AsyncIterator[pb.UploadFileRequest]:
        metadata, *chunks = upload_parts(content, channel="general", name="n")
        yield metadata
        for number, chunk in enumerate(chunks):
            if number == 20:
                going.set()
                await swept.wait()
            yield chunk

    upload = asyncio.create_task(ada.files.UploadFile(parts()))
    await going.wait()
    await eventually(local_files.names, "something is stored")
    await sweep(file_board)
    swept.set()
    assert (await ada.download((await upload).file.path))[1] == content


async def test_the_sweep_works_on_s3(database_url: str, owner_url: str, s3_files: S3Bucket) -> None:
    # Objects cannot be made older there, so all count as old from a second on.
    async with Board.serve(database_url, owner_url, files_url=s3_files.url, file_sweep_age=1.0) as board:
        (ada,) = await board.agents("ada")
        uploaded = await ada.upload(b"named")
        (named,) = s3_files.names()
        s3_files.add(str(uuid4()), b"orphan")
        s3_files.add("not-ours", b"x")
        removed = 0

        async def swept() -> bool:
            nonlocal removed
            removed += await sweep(board)
            return removed > 0

        await eventually(swept, "the orphan is old enough")
        assert removed == 1
        assert s3_files.names() == sorted([named, "not-ours"])
        assert (await ada.download(uploaded.file.path))[1] == b"named"


async def test_a_server_sweeps_by_itself(database_url: str, owner_url: str, local_files: LocalFolder) -> None:
    settings = {"files_url": local_files.url, "file_sweep_interval": 0.05}
    async with Board.serve(database_url, owner_url, **settings):
        name = str(uuid4())
        local_files.add(name, b"x")
        local_files.age(name, 3700)
        await eventually(lambda: not local_files.names(), "swept")


# --- The store ----------------------------------------------------------------------------------


async def test_a_local_store_is_private(file_board: Board, local_files: LocalFolder) -> None:
    assert local_files.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("/var/files", {}, "neither file:///folder nor s3"),
        ("gs://bucket", {}, "neither file:///folder nor s3"),
        ("file://host/folder", {}, "no absolute folder"),
        ("file:folder", {}, "no absolute folder"),
        ("file:///", {}, "no absolute folder"),
        ("file:///dev/null/files", {}, "cannot be used for files"),
        ("s3://", {}, "names no bucket"),
        ("s3://b", {"AWS_ENDPOINT_URL": "http://s3.example.com"}, "plain HTTP"),
        ("s3://b", {"AWS_ENDPOINT_URL_S3": "HTTP://10.0.0.1:9000"}, "plain HTTP"),
    ],
)
def test_a_store_that_cannot_be_used_says_why(url: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(FileStoreUnusable, match=said):
        open_file_store(url, environment)


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_ENDPOINT_URL": "http://localhost:9000"},
        {"AWS_ENDPOINT_URL": "http://[::1]:9000"},
        {"AWS_ENDPOINT_URL": "http://10.0.0.1:9000", "AWS_ALLOW_HTTP": "true"},
        {"AWS_ENDPOINT_URL": "https://s3.example.com"},
        {},
    ],
)
def test_plain_http_is_for_loopback_or_who_asks_for_it(environment: dict[str, str]) -> None:
    open_file_store("s3://bucket", environment)


async def test_a_new_agent_sees_files_of_others(file_board: Board, ada: Agent) -> None:
    uploaded = await ada.upload(b"for all", "project-x")
    (bob,) = await file_board.agents("bob")
    await bob.agents.GetCurrentAgent(agent_service_pb2.GetCurrentAgentRequest())
    assert await bob.download(uploaded.file.path) == (uploaded.file, b"for all")
