"""`agentchat serve` for tests: the real command, with its supervisor and worker processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from tests.board import DEADLINE

T = TypeVar("T")

# A server that takes longer to start or stop fails the test, in seconds.
PATIENCE = 60.0


class Server:
    """A running `agentchat serve`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def target(self) -> str:
        """The address of its gRPC API."""
        return self._announced(r"^Serving gRPC on (\S+)$")

    @property
    def metrics_url(self) -> str:
        """What it says Prometheus is to scrape."""
        return self._announced(r"^Serving metrics on (\S+)$")

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self._output.read_text()

    @property
    def is_up(self) -> bool:
        """Whether it has said that it serves."""
        return "Serving gRPC on" in self.said

    def log(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return [json.loads(line) for line in self.said.splitlines() if line.startswith("{")]

    def worker_pids(self) -> set[int]:
        """The processes of its workers."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return {
            int(pid)
            for pid in children
            if b"agentchat_server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        }

    async def scrape(self) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
        """The metrics: by name of the sample, and labels."""

        def fetch() -> str:
            with urllib.request.urlopen(self.metrics_url, timeout=DEADLINE) as response:
                text: str = response.read().decode()
                return text

        found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in text_string_to_metric_families(await asyncio.to_thread(fetch)):
            # The parser takes the end off a counter's name.
            found[f"{family.name}_total" if family.type == "counter" else family.name] = {}
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return found

    def stop(self) -> int:
        """Stops it politely; returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE)

    def _announced(self, pattern: str) -> str:
        found = re.search(pattern, self.said, re.MULTILINE)
        assert found, self.said
        return found[1]


@asynccontextmanager
async def serving(
    output: Path, database_url: str, *arguments: str, **environment: str
) -> AsyncIterator[Server]:
    """Runs `agentchat serve` on a free port; what it prints goes to the file `output`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AGENTCHAT_", "OTEL_"))}
    process = _start(
        output,
        ["serve", "--grpc-port", "0", *arguments],
        {**kept, "AGENTCHAT_DATABASE_URL": database_url, **environment},
    )
    server = Server(process, output)
    try:
        await eventually(lambda: process.poll() is not None or server.is_up, patience=PATIENCE)
        assert process.poll() is None, server.said
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, PATIENCE)
            finally:
                process.kill()


def _start(output: Path, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "agentchat_cli", *arguments],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


async def eventually(condition: Callable[[], T], *, patience: float = DEADLINE) -> T:
    """Waits until a condition is true; returns what it gives. Fails after `patience` seconds."""
    async with asyncio.timeout(patience):
        while not (result := condition()):  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.02)
    return result
