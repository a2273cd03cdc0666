"""Start-up: how long people wait for AgentChat.

- `agentchat up` on an existing data folder, from its start to the answer of a first call, beside starting the
  same Postgres alone (`pg_ctl -w start`);
- `agentchat whoami` beside `python -c "import grpc.aio"`.

Each as people start them, as a process, alternating. The board is its own.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentchat_db.account import Account
from agentchat_db.cluster import find_bin_dir
from bench.failures import MeasurementError
from bench.report import Bar, Effort, Figure, Reference

_CLI = [sys.executable, "-m", "agentchat_cli"]
_PATIENCE = 60.0
_WHOAMI_BAR = Bar(4.0)


def measure(effort: Effort) -> list[Figure]:
    """Measures in seconds."""
    with tempfile.TemporaryDirectory(prefix="agentchat-bench-", dir=effort.folder) as folder:
        home = Path(folder)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AGENTCHAT_")}
        environment["HOME"] = str(home)
        with _running(environment):
            _whoami(environment)

        alone: list[float] = []
        until_answer: list[float] = []
        call: list[float] = []
        imports: list[float] = []
        for _ in range(effort.rounds):
            alone.append(_start_postgres_alone(home / ".agentchat" / "data" / "postgres"))
            began = time.perf_counter()
            with _running(environment):
                _whoami(environment)
                until_answer.append(time.perf_counter() - began)
                call.append(_seconds_of([*_CLI, "whoami"], environment))
                imports.append(_seconds_of([sys.executable, "-c", "import grpc.aio"], environment))
    return [
        Figure(
            "startup.up",
            "agentchat up, to a first answer",
            "s",
            until_answer,
            Reference("starting Postgres alone", alone),
            # Three times Postgres' own start, and a second for two programs that load Python code.
            Bar(3 * statistics.median(alone) + 1, of_ratio=False),
        ),
        Figure(
            "startup.whoami",
            "agentchat whoami",
            "s",
            call,
            Reference("python -c 'import grpc.aio'", imports),
            _WHOAMI_BAR,
        ),
    ]


@contextmanager
def _running(environment: dict[str, str]) -> Iterator[None]:
    """Runs `agentchat up`; the block begins when it has said that it serves."""
    process = subprocess.Popen(
        [*_CLI, "up", "--grpc-port", "0"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        if process.stdout is None:
            raise AssertionError("stdout is a pipe")
        while not re.search("Ctrl-C", line := process.stdout.readline()):
            if not line:
                raise MeasurementError("agentchat up did not start; see above")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=_PATIENCE)


def _whoami(environment: dict[str, str]) -> None:
    """A first call."""
    subprocess.run(
        [*_CLI, "whoami"], env=environment, stdout=subprocess.DEVNULL, check=True, timeout=_PATIENCE
    )


def _start_postgres_alone(cluster: Path) -> float:
    """How long `pg_ctl -w start` takes on the cluster, in seconds; stops it again."""
    account = Account.of(cluster)
    pg_ctl = find_bin_dir() / "pg_ctl"
    sockets = Path(tempfile.mkdtemp(prefix="agentchat-bench-socket-"))
    account.give(sockets)
    options = f"-c listen_addresses='' -k {sockets}"

    def control(*arguments: str | Path) -> None:
        done = account.start(
            pg_ctl, "-D", cluster, "-w", *arguments, cluster=cluster, output=subprocess.DEVNULL
        )
        if done.wait(_PATIENCE) != 0:
            raise MeasurementError(f"pg_ctl {arguments[-1]} failed")

    try:
        began = time.perf_counter()
        control("-l", sockets / "log", "-o", options, "start")
        took = time.perf_counter() - began
        control("-m", "fast", "stop")
        return took
    finally:
        shutil.rmtree(sockets)


def _seconds_of(command: list[str], environment: dict[str, str]) -> float:
    """How long a command takes."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=_PATIENCE)
    return time.perf_counter() - began
