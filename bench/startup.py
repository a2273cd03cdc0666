"""Measures how long people wait for AgentChat to start: `make bench`.

Each figure is a ratio to something measured in the same run, alternating, on the same machine:

- `agentchat up` on an existing data folder, from its start to the answer of a first call, beside
  starting the same Postgres alone (`pg_ctl -w start`);
- `agentchat whoami` beside `python -c "import grpc.aio"`.

Medians of `--rounds` rounds. The board is its own, in a temporary folder.
"""

from __future__ import annotations

import argparse
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

CLI = [sys.executable, "-m", "agentchat_cli"]
PATIENCE = 60.0


def main() -> int:
    """Measures and prints a table; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures how long AgentChat takes to start.")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (default: 7)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="agentchat-bench-") as folder:
        home = Path(folder)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AGENTCHAT_")}
        environment["HOME"] = str(home)
        with running(environment):
            whoami(environment)

        alone, until_answer, call, imports = [], [], [], []
        for _ in range(rounds):
            alone.append(start_postgres_alone(home / ".agentchat" / "data" / "postgres"))
            began = time.perf_counter()
            with running(environment):
                whoami(environment)
                until_answer.append(time.perf_counter() - began)
                call.append(seconds_of([*CLI, "whoami"], environment))
                imports.append(seconds_of([sys.executable, "-c", "import grpc.aio"], environment))

    def row(what: str, seconds: list[float], remark: str = "") -> None:
        print(f"  {what:<45} {statistics.median(seconds):6.3f}  {remark}".rstrip())

    ratio = statistics.median(call) / statistics.median(imports)
    print(f"Medians of {rounds} rounds, in seconds.")
    row("Postgres alone, started", alone)
    row(
        "agentchat up, until a first whoami answered",
        until_answer,
        f"limit {3 * statistics.median(alone) + 1:.3f}",
    )
    row("import grpc.aio", imports)
    row("agentchat whoami", call, f"{ratio:.2f} times, limit 4")
    return 0


@contextmanager
def running(environment: dict[str, str]) -> Iterator[None]:
    """Runs `agentchat up`; the block begins when it has said that it serves."""
    process = subprocess.Popen(
        [*CLI, "up", "--grpc-port", "0"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        if process.stdout is None:
            raise AssertionError("stdout is a pipe")
        while not re.search("Ctrl-C", line := process.stdout.readline()):
            if not line:
                raise SystemExit("agentchat up did not start; see above")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def whoami(environment: dict[str, str]) -> None:
    """A first call."""
    subprocess.run([*CLI, "whoami"], env=environment, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE)


def start_postgres_alone(cluster: Path) -> float:
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
        if done.wait(PATIENCE) != 0:
            raise SystemExit(f"pg_ctl {arguments[-1]} failed")

    try:
        began = time.perf_counter()
        control("-l", sockets / "log", "-o", options, "start")
        took = time.perf_counter() - began
        control("-m", "fast", "stop")
        return took
    finally:
        shutil.rmtree(sockets)


def seconds_of(command: list[str], environment: dict[str, str]) -> float:
    """How long a command takes."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
