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
from tests.board import Agent, Board
from tests.file_stores import InspectedStore

MIB = 1024 * 1024
SIZE = 10 * MIB
AT_ONCE = 8


class Worker:
    """A worker in a process of its own, and agents that transfer files."""

    def __init__(self, pid: int, agent: Agent) -> None:
        self._pid = pid
        self._agent = agent
        self._content = os.urandom(SIZE)

    async def transfer(self, rounds: int) -> None:
        """Uploads and downloads `AT_ONCE` files of the largest size at once, several times."""
        for _ in range(rounds):
            await asyncio.gather(*(self._there_and_back() for _ in range(AT_ONCE)))

    async def _there_and_back(self) -> None:
        checksum = hashlib.sha256(self._content).hexdigest()
        uploaded = await self._agent.upload(self._content, sha256=checksum, unannounced=True)
        _, received = await self._agent.download(uploaded.file.path)
        assert hashlib.sha256(received).hexdigest() == checksum

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
    supervisor = Supervisor(ServerSettings(database_url="", port=0, files_url=files.url))
    await supervisor.start(database_url)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{supervisor.port}") as channel:
            agent = Agent(channel, key, "ada")
            await agent.read("general")
            (pid,) = supervisor.worker_pids
            yield Worker(pid, agent)
    finally:
        await supervisor.stop()


# What it holds for a transfer under way: parts and blocks here, what gRPC has read ahead, and what the
# allocator has not given back. On S3 a part is 5 MiB, and is copied to be sent.
@pytest.mark.parametrize(
    ("files", "each"), [("local_files", 5 * MIB), ("s3_files", 22 * MIB)], indirect=["files"]
)
async def test_a_worker_does_not_grow_by_the_files_that_pass_through_it(worker: Worker, each: int) -> None:
    idle = worker.memory("VmRSS")
    await worker.transfer(2)
    warm = worker.memory("VmRSS")
    await worker.transfer(5)
    print(
        f"idle {idle >> 20} warm {warm >> 20} after {worker.memory('VmRSS') >> 20} peak {worker.memory('VmHWM') >> 20}"
    )

    # 400 MiB have gone up since it was warm, and 400 down.
    assert worker.memory("VmRSS") - warm < 24 * MIB
    assert worker.memory("VmHWM") - idle < AT_ONCE * each
