"""Files: MB/s of uploading and downloading 10 MiB through the SDK, one file after the other.

Beside uploading: writing the same bytes to a file on the same disk, flushed, and their SHA-256, which is the
least that a store has to do. Beside downloading: reading them back and their SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agentchat import AsyncAgentChatClient
from bench import calls
from bench.board import Agent, Postgres, Server
from bench.failures import MeasurementError
from bench.report import Effort, Figure, Reference

_SIZE = 10 * 1024 * 1024
_FILES, _QUICK_FILES = 8, 2


def measure(effort: Effort) -> list[Figure]:
    """Measures uploads and downloads."""
    with Postgres.running(effort.folder) as postgres:
        database = postgres.database("board")
        (agent,) = database.register(["uploader"])
        with Server.running(database) as server:
            return calls.run(_measure(effort, server, agent))


async def _measure(effort: Effort, server: Server, agent: Agent) -> list[Figure]:
    data = os.urandom(_SIZE)
    count = _QUICK_FILES if effort.quick else _FILES
    rates: dict[str, list[float]] = {"upload": [], "download": [], "write": [], "read": []}

    def note(what: str, began: float) -> None:
        rates[what].append(count * _SIZE / 1e6 / (time.perf_counter() - began))

    async with AsyncAgentChatClient(server.target, agent.key, agent.name, timeout=60) as client:
        for _ in range(effort.rounds):
            _write_and_read(effort.folder, data, count, note)
            began = time.perf_counter()
            uploaded = [
                (await client.upload_file("general", content=data, name=f"{n}.bin")).file
                for n in range(count)
            ]
            note("upload", began)
            began = time.perf_counter()
            for file in uploaded:
                if await client.download_file(file.path) != data:
                    raise MeasurementError("a file came back as something else")
            note("download", began)
    return [
        Figure(
            f"files.{what}",
            f"{what.capitalize()} of 10 MiB, 1 worker",
            "MB/s",
            rates[what],
            Reference(f"{done} a file, and SHA-256", rates[reference]),
        )
        for what, reference, done in (
            ("upload", "write", "writing and flushing"),
            ("download", "read", "reading"),
        )
    ]


def _write_and_read(folder: Path, data: bytes, count: int, note: Callable[[str, float], None]) -> None:
    """What a store has to do at least, in a folder of the same disk."""
    with tempfile.TemporaryDirectory(prefix="agentchat-bench-", dir=folder) as store:
        files = [Path(store, str(number)) for number in range(count)]
        began = time.perf_counter()
        for path in files:
            hashlib.sha256(data).digest()
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        note("write", began)
        began = time.perf_counter()
        for path in files:
            hashlib.sha256(path.read_bytes()).digest()
        note("read", began)
