"""Files pass through a worker: however many, and however large, it does not grow by them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from agentchat_server.settings import ServerSettings
from agentchat_server.supervisor import Supervisor
from tests.board import UNLIMITED, Agent, Board
from tests.file_stores import InspectedStore

MIB = 1024 * 1024
LARGE = 96 * MIB

on_both_stores = pytest.mark.parametrize(
    "files", ["local_files", pytest.param("s3_files", marks=pytest.mark.slow)], indirect=True
)


class Worker:
    """A worker in a process of its own, and agents that transfer files."""

    def __init__(self, pid: int, agent: Agent) -> None:
        self._pid = pid
        self._agent = agent

    async def there_and_back(self, content: bytes, *, at_once: int = 1) -> None:
        """Uploads and downloads a content, several times at once."""
        checksum = hashlib.sha256(content).hexdigest()

        async def transfer() -> None:
            uploaded = await self._agent.upload(content, sha256=checksum, unannounced=True, timeout=60)
            _, received = await self._agent.download(uploaded.file.path)
            assert hashlib.sha256(received).hexdigest() == checksum

        await asyncio.gather(*(transfer() for _ in range(at_once)))

    def memory(self, kind: str) -> int:
        """`VmRSS`, what the process holds now, or `VmHWM`, the most that it has held; in bytes."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        match = re.search(rf"^{kind}:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024


@pytest.fixture
async def worker(database_url: str, owner_url: str, files: InspectedStore) -> AsyncIterator[Worker]:
    async with Board.serve(database_url, owner_url) as keymaker:
        key = await keymaker.machine("testbed")
    settings = ServerSettings(database_url="", port=0, files_url=files.url, max_file_bytes=LARGE, **UNLIMITED)
    supervisor = Supervisor(settings)
    await supervisor.start(database_url)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{supervisor.port}") as channel:
            agent = Agent(channel, key, "ada")
            await agent.read("general")
            (pid,) = supervisor.worker_pids
            yield Worker(pid, agent)
    finally:
        await supervisor.stop()


@on_both_stores
async def test_a_worker_holds_a_small_part_of_a_large_file(worker: Worker) -> None:
    idle = worker.memory("VmRSS")
    await worker.there_and_back(os.urandom(LARGE))
    assert worker.memory("VmHWM") - idle < LARGE / 2


@on_both_stores
async def test_a_worker_does_not_grow_by_the_files_that_pass_through_it(worker: Worker) -> None:
    content = os.urandom(10 * MIB)
    await worker.there_and_back(content, at_once=8)
    warm = worker.memory("VmRSS")
    for _ in range(5):
        await worker.there_and_back(content, at_once=8)
    # 400 MiB have gone up since it was warm, and 400 down. What is held at a moment varies by some 40.
    assert worker.memory("VmRSS") - warm < 100 * MIB
