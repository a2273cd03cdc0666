"""A real `agentchat up` with two workers, in a HOME of its own; its processes, and how to kill them.

Processes are found from the one that was started, by who is whose child, and are killed one by one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from agentchat.config import read_config
from agentchat_db.cluster import find_left_over, read_postmaster
from agentchat_db.embedded import EmbeddedPostgres
from tests.commits import HeldCommits
from tests.kills.stored import Stored

WORKERS = 2
PATIENCE = 60.0
"""Seconds after which whatever was waited for counts as failed."""

TARGETS = ("worker", "backend", "committed backend", "postmaster", "starting postmaster")
"""What `kill` kills.

A committed backend has written a batch, and not yet said so to the worker. A starting postmaster takes the
place of one that was killed, and is killed before it is done with that.
"""

_UNLIMITED = {
    "AGENTCHAT_AGENT_READ_LIMIT": "off",
    "AGENTCHAT_AGENT_WRITE_LIMIT": "off",
    "AGENTCHAT_GLOBAL_READ_LIMIT": "off",
    "AGENTCHAT_GLOBAL_WRITE_LIMIT": "off",
    "AGENTCHAT_AUTH_FAILURE_LIMIT": "off",
}
# States of a socket, as /proc/net/tcp has them.
_ESTABLISHED, _LISTENING = "01", "0A"


class Service:
    """A running board. Made by `start`; `stop` it, whatever happened."""

    def __init__(self, home: Path) -> None:
        self.data_dir = home / ".agentchat" / "data"
        self.files = self.data_dir / "files"
        postgres = EmbeddedPostgres(self.data_dir)
        self.owner_url = postgres.dsn(dbname="agentchat")
        self._cluster = postgres.cluster_dir
        self._output, self.log = home / "up.out", home / "up.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AGENTCHAT_")}
        command = [sys.executable, "-m", "agentchat_cli", "up", "--grpc-port", "0"]
        with self._output.open("wb") as output, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", str(WORKERS)],
                cwd=home,
                env={**kept, **_UNLIMITED, "HOME": str(home), "MACHINE_NAME": "testbed"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        self.port = 0
        self.key = ""

    @classmethod
    async def start(cls, home: Path) -> Service:
        """Starts a board in a HOME, an empty folder; returns when it serves."""
        service = cls(home)
        try:
            greeting = await service._until(service._greeting, "agentchat up did not come up")
        except BaseException:
            service.kill_all()
            raise
        service.port = int(greeting[1])
        service.key = read_config(home / ".agentchat" / "config")["AGENTCHAT_API_KEY"]
        return service

    @property
    def address(self) -> str:
        """Where it serves."""
        return f"127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether `agentchat up` itself is alive, which nobody kills."""
        return self._process.poll() is None

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return [pid for pid, command in _children(self._process.pid) if "agentchat_server.worker" in command]

    @property
    def postmaster(self) -> int | None:
        """The process id of Postgres, None while none takes connections."""
        pid, ready = read_postmaster(self._cluster)
        return pid if ready and pid == find_left_over(self._cluster) else None

    @property
    def backends(self) -> list[int]:
        """The process ids of the connections of the workers, in Postgres."""
        found = _children(self.postmaster or 0)
        return [pid for pid, title in found if " agentchat_app agentchat " in title]

    async def kill(self, target: str, dice: random.Random) -> int:
        """Kills one of `TARGETS`, whichever of several chance decides; returns what its process id was."""

        def choose() -> int | None:
            if target == "postmaster":
                return self.postmaster
            found = self.workers if target == "worker" else self.backends
            return dice.choice(found) if found else None

        if target == "committed backend":
            async with HeldCommits(self.owner_url) as held:
                pid = await held.batch()
                os.kill(pid, signal.SIGKILL)
            return pid
        if target == "starting postmaster":
            killed = await self.kill("postmaster", dice)
            another = await self._until(lambda: self._other_postmaster(killed), "no Postgres was started")
            os.kill(another, signal.SIGKILL)
            return int(another)
        pid = int(await self._until(choose, f"there is no {target} to kill"))
        os.kill(pid, signal.SIGKILL)
        return pid

    async def wait_until_replaced(self, killed: int) -> None:
        """Returns when a process that was killed is gone, and Postgres and all workers take connections."""

        def whole() -> bool:
            workers, postmaster = self.workers, self.postmaster
            return (
                postmaster is not None
                and len(workers) == WORKERS
                and all(self._sockets(pid, _LISTENING) for pid in workers)
                and killed not in (postmaster, *workers, *self.backends)
            )

        await self._until(whole, f"nothing took the place of process {killed}")

    def connections(self, worker: int) -> frozenset[str]:
        """The connections of clients that a worker holds."""
        return self._sockets(worker, _ESTABLISHED)

    def resent_batches(self, stored: Stored) -> tuple[int, int]:
        """How many batches the workers have sent again, and how many of those were written before that."""
        written_at = {message.id: message.created_at for message in stored.messages}
        resent, answer_lost = set(), set()
        for line in self.log.read_text().splitlines():
            said: dict[str, Any] = {}
            with suppress(ValueError):
                said = json.loads(line)
            if said.get("event") == "batch is sent again":
                message_id = said["message_id"]
                resent.add(message_id)
                written = written_at.get(message_id)
                # One clock for all: this is one machine.
                if written is not None and written < datetime.fromisoformat(said["timestamp"]):
                    answer_lost.add(message_id)
        return len(resent), len(answer_lost)

    def log_tail(self) -> str:
        """The end of what `agentchat up` and its Postgres have said."""
        tails = []
        for path in (self.log, self.data_dir / "postgres.log"):
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            tails.append("\n".join((f"--- {path.name}", *lines[-25:])))
        return "\n".join(tails)

    async def stop(self) -> int:
        """Stops it as Ctrl-C does; returns its exit code. Nothing of it is left, even when that fails."""
        self._process.send_signal(signal.SIGTERM)
        try:
            await self._until(lambda: not self.is_running, "agentchat up did not stop")
            return self._process.returncode
        finally:
            self.kill_all()

    def kill_all(self) -> None:
        """Kills whatever of it still runs."""
        pids = [self._process.pid] if self.is_running else []
        # It outlives an `agentchat up` that was killed.
        if (postmaster := find_left_over(self._cluster)) is not None:
            pids.append(postmaster)
        for pid in pids:
            pids += [child for child, _ in _children(pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _other_postmaster(self, killed: int) -> int | None:
        """A Postgres that was started in the place of one, whether it takes connections or not."""
        found = find_left_over(self._cluster)
        return None if found == killed else found

    def _greeting(self) -> re.Match[str] | None:
        assert self.is_running, f"agentchat up ended\n{self.log_tail()}"
        said = self._output.read_text()
        return re.search(r"gRPC +127\.0\.0\.1:(\d+)", said) if "Ctrl-C" in said else None

    def _sockets(self, pid: int, state: str) -> frozenset[str]:
        """The inodes of a process' sockets on the port of the board, in a state."""
        on_port = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with suppress(OSError):
                for row in Path(table).read_text().splitlines()[1:]:
                    fields = row.split()
                    if fields[1].endswith(f":{self.port:04X}") and fields[3] == state:
                        on_port.add(f"socket:[{fields[9]}]")
        own = set()
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    own.add(str(descriptor.readlink()))
        return frozenset(on_port & own)

    async def _until(self, found: Callable[[], Any], failure: str) -> Any:
        """Waits until a function returns something true, and returns that."""
        deadline = time.monotonic() + PATIENCE
        while not (value := found()):
            assert time.monotonic() < deadline, f"{failure}\n{self.log_tail()}"
            await asyncio.sleep(0.02)
        return value


def _children(parent: int) -> list[tuple[int, str]]:
    """The children of a process, with their command lines."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append((int(status.parent.name), command))
    return found
