"""Files through the SDK, by the asyncio client and by the blocking one."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentchat import (
    AgentChatClient,
    AgentChatError,
    AlreadyExistsError,
    AsyncAgentChatClient,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from agentchat_proto.v1 import admin_service_pb2
from tests.board import Board
from tests.file_stores import LocalFolder

MIB = 1024 * 1024
REQUEST_ID = "00000000-0000-7000-8000-000000000001"


@pytest.fixture
async def ann(file_board: Board) -> AsyncIterator[AsyncAgentChatClient]:
    key = await file_board.machine("testbed")
    async with AsyncAgentChatClient(file_board.target, key, "testbed-ann") as client:
        await client.register()
        yield client


@pytest.fixture
async def ben(file_board: Board) -> AsyncIterator[AgentChatClient]:
    key = await file_board.machine("testbed")
    with AgentChatClient(file_board.target, key, "testbed-ben") as client:
        await asyncio.to_thread(client.register)
        yield client


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_file_of_this_machine_goes_up_and_comes_down(
    ann: AsyncAgentChatClient, tmp_path: Path
) -> None:
    content = os.urandom(10 * MIB)
    source, target = tmp_path / "report.pdf", tmp_path / "copy.pdf"
    source.write_bytes(content)
    up: list[tuple[int, int]] = []
    down: list[tuple[int, int]] = []

    uploaded = await ann.upload_file("project-shop", source, progress=lambda *now: up.append(now))
    file = uploaded.file

    assert (file.name, file.size, file.content_type) == ("report.pdf", len(content), "application/pdf")
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert uploaded.message is not None
    assert uploaded.message.content == "Shared a file: **report.pdf** (10 MiB)"
    assert (file.message_id, uploaded.replayed) == (uploaded.message.id, False)
    assert await ann.download_file(file.path) == content
    assert await ann.download_file(file.path, target, progress=lambda *now: down.append(now)) == file
    assert target.read_bytes() == content
    for seen in (up, down):
        assert seen[-1] == (len(content), len(content))
        assert seen == sorted(seen)
        assert len(seen) > 10
    assert await ann.get_file(file.path) == file
    assert (await ann.get_file_url(file.path)).url.startswith("http://localhost:3003/api/v1/files?token=")
    assert names_in(tmp_path) == ["copy.pdf", "files", "report.pdf"]


async def test_the_blocking_client_does_the_same(ben: AgentChatClient, tmp_path: Path) -> None:
    def story() -> None:
        content = os.urandom(10 * MIB)
        source, target = tmp_path / "data.bin", tmp_path / "copy.bin"
        source.write_bytes(content)
        seen: list[tuple[int, int]] = []
        uploaded = ben.upload_file("general", str(source), name="renamed", announce=False)
        assert (uploaded.file.name, uploaded.message) == ("renamed", None)
        assert ben.download_file(uploaded.file.path) == content
        described = ben.download_file(
            uploaded.file.path, to=str(target), progress=lambda *now: seen.append(now)
        )
        assert described == uploaded.file
        assert target.read_bytes() == content
        assert seen[-1] == (len(content), len(content))
        assert [file.id for file in ben.iter_files("general")] == [uploaded.file.id]
        with pytest.raises(ResourceExhaustedError) as error:
            ben.upload_file("general", content=bytes(10 * MIB + 1), name="large")
        assert error.value.reason == "FILE_TOO_LARGE"

    await asyncio.to_thread(story)


async def test_bytes_and_text_go_up_with_a_name(ann: AsyncAgentChatClient) -> None:
    text = await ann.upload_file("general", content="Grüße", name="notes.md")
    data = await ann.upload_file("general", content=b"\x00\xff", name="data", content_type="a/b")
    empty = await ann.upload_file("general", content=b"", name="empty.tar.gz")
    assert await ann.download_file(text.file.path) == "Grüße".encode()
    assert await ann.download_file(data.file.path) == b"\x00\xff"
    assert await ann.download_file(empty.file.path) == b""
    assert text.file.content_type == "text/markdown"
    assert data.file.content_type == "a/b"
    # What the name tells of is compressed.
    assert empty.file.content_type == "application/octet-stream"


async def test_what_is_not_one_source_is_refused(ann: AsyncAgentChatClient, tmp_path: Path) -> None:
    for arguments in ({}, {"content": b"x"}, {"source": "a", "content": b"x"}):
        with pytest.raises(InvalidArgumentError):
            await ann.upload_file("general", **arguments)
    with pytest.raises(FileNotFoundError):
        await ann.upload_file("general", tmp_path / "missing")
    for path in (tmp_path, "/dev/null"):
        with pytest.raises(InvalidArgumentError, match="no regular file"):
            await ann.upload_file("general", path)


async def test_an_upload_is_repeated_with_its_request_id(ann: AsyncAgentChatClient) -> None:
    first = await ann.upload_file("general", content="x", name="n", request_id=REQUEST_ID)
    again = await ann.upload_file("general", content="x", name="n", request_id=REQUEST_ID)
    assert (again.file, again.message, again.replayed) == (first.file, first.message, True)
    with pytest.raises(AlreadyExistsError):
        await ann.upload_file("general", content="y", name="n", request_id=REQUEST_ID)


async def test_a_refusal_is_told_however_much_there_is_to_send(
    file_board: Board, local_files: LocalFolder, ann: AsyncAgentChatClient, ben: AgentChatClient
) -> None:
    await ann.send_message("project-old", "hello")
    await file_board.admin.ArchiveChannel(admin_service_pb2.ArchiveChannelRequest(channel="project-old"))
    for _ in range(10):
        with pytest.raises(FailedPreconditionError) as refusal:
            await ann.upload_file("project-old", content=bytes(10 * MIB), name="n")
        assert refusal.value.reason == "CHANNEL_ARCHIVED"
        with pytest.raises(ResourceExhaustedError) as too_large:
            await ann.upload_file("general", content=bytes(40 * MIB), name="n")
        assert too_large.value.reason == "FILE_TOO_LARGE"
        with pytest.raises(FailedPreconditionError):
            await asyncio.to_thread(ben.upload_file, "project-old", content=bytes(10 * MIB), name="n")
    assert local_files.names() == []


async def test_files_are_listed_in_pages_and_one_by_one(ann: AsyncAgentChatClient) -> None:
    for number in range(5):
        await ann.upload_file("project-x", content=b"x", name=f"{number}")
    page = await ann.list_files("project-x", 2)
    assert [file.name for file in page] == ["4", "3"]
    following = await ann.list_files("project-x", 2, page_token=page.next_page_token)
    assert [file.name for file in following] == ["2", "1"]
    assert [file.name async for file in ann.iter_files("project-x", limit=2)] == ["4", "3", "2", "1", "0"]
    with pytest.raises(NotFoundError):
        await ann.list_files("project-none")


async def test_a_download_is_whole_or_not_there(
    local_files: LocalFolder, ann: AsyncAgentChatClient, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    file = (await ann.upload_file("general", content=bytes(3 * MIB), name="n")).file
    (name,) = local_files.names()

    # Other bytes than were uploaded, and then fewer.
    local_files.add(name, b"\x01" * 3 * MIB)
    with pytest.raises(AgentChatError, match="not those of the file") as damaged:
        await ann.download_file(file.path, target)
    assert damaged.value.code == "DATA_LOSS"
    local_files.add(name, bytes(2 * MIB))
    with pytest.raises(AgentChatError) as cut:
        await ann.download_file(file.path, target)
    assert (cut.value.code, cut.value.reason) == ("DATA_LOSS", "FILE_BYTES_MISSING")
    with pytest.raises(AgentChatError):
        await ann.download_file(file.path)
    assert names_in(tmp_path) == ["files"]

    target.write_bytes(b"kept")
    with pytest.raises(AgentChatError):
        await ann.download_file(file.path, target)
    assert target.read_bytes() == b"kept"
    local_files.add(name, bytes(3 * MIB))
    await ann.download_file(file.path, target)
    assert target.read_bytes() == bytes(3 * MIB)
    assert names_in(tmp_path) == ["files", "target"]


async def test_a_download_takes_the_place_of_files_only_and_when_it_may(
    ann: AsyncAgentChatClient, tmp_path: Path
) -> None:
    file = (await ann.upload_file("general", content=b"new", name="n")).file
    there = tmp_path / "there"
    there.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        await ann.download_file(file.path, there, overwrite=False)
    assert there.read_bytes() == b"old"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere" / "x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (tmp_path, dangling, pipe, "/dev/null"):
        with pytest.raises(InvalidArgumentError, match="no regular file"):
            await ann.download_file(file.path, target)
    with pytest.raises(FileNotFoundError) as missing:
        await ann.download_file(file.path, tmp_path / "nowhere" / "x")
    assert missing.value.filename == str(tmp_path / "nowhere" / "x")
    assert pipe.is_fifo()
    assert await ann.download_file(file.path, there) == file
    assert there.read_bytes() == b"new"


async def test_a_source_that_changes_while_it_is_sent_is_not_published(
    ann: AsyncAgentChatClient, local_files: LocalFolder, tmp_path: Path
) -> None:
    source = tmp_path / "growing"
    source.write_bytes(bytes(2 * MIB))

    def change(done: int, total: int) -> None:
        if done < total:
            with source.open("r+b") as stream:
                stream.seek(MIB)
                stream.write(b"changed")

    with pytest.raises(InvalidArgumentError) as error:
        await ann.upload_file("general", source, progress=change)
    assert error.value.reason == "FILE_CHECKSUM_MISMATCH"
    assert local_files.names() == []


@pytest.mark.parametrize("moment", ["up", "down"])
async def test_a_transfer_is_tried_again_when_the_server_comes_back(
    database_url: str, owner_url: str, local_files: LocalFolder, tmp_path: Path, moment: str
) -> None:
    content = os.urandom(10 * MIB)
    settings = {"files_url": local_files.url, "shutdown_grace": 0.0}
    async with Board.serve(database_url, owner_url, **settings) as first:
        key = await first.machine("testbed")
        port = int(first.target.rpartition(":")[2])
        async with AsyncAgentChatClient(first.target, key, "testbed-ann") as client:
            file = (await client.upload_file("general", content=content, name="before")).file
            interrupted = asyncio.Event()

            def interrupt(done: int, total: int) -> None:
                if done > total // 4:
                    interrupted.set()

            transfer: asyncio.Task[object]
            if moment == "up":
                transfer = asyncio.create_task(
                    client.upload_file("general", content=content, name="n", progress=interrupt)
                )
            else:
                transfer = asyncio.create_task(
                    client.download_file(file.path, tmp_path / "target", progress=interrupt)
                )
            await interrupted.wait()
            await first.application.stop()
            async with Board.serve(database_url, owner_url, port=port, **settings):
                await transfer
                if moment == "down":
                    assert (tmp_path / "target").read_bytes() == content
                assert len(local_files.names()) == (2 if moment == "up" else 1)
                assert len([f async for f in client.iter_files("general")]) == len(local_files.names())


async def test_a_server_that_does_not_come_back_is_unavailable(
    ann: AsyncAgentChatClient, file_board: Board
) -> None:
    await file_board.application.stop()
    with pytest.raises(UnavailableError):
        await ann.upload_file("general", content=bytes(MIB), name="n", timeout=1)
    with pytest.raises(UnavailableError):
        await ann.download_file("general/1-x", timeout=1)
