"""The load: h2load sends the same gRPC frame over and over, and logs how long each reply took.

It costs a fraction of what the server costs a call, so that it is not what is measured. It takes every HTTP
200 for success, which is what gRPC answers with whatever the outcome: callers of this module count what was
written, or the bytes of the replies.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.failures import MeasurementError, SubjectSkipped

_PROGRAM = "h2load"
_PATIENCE = 60.0


@dataclass(frozen=True)
class Call:
    """What a sender calls: a method by its full name, a serialized request, metadata."""

    method: str
    request: bytes = b""
    metadata: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Reply:
    """A call that was answered: when it was sent, in seconds since 1970, and how long it took in seconds."""

    sent_at: float
    seconds: float


@cache
def version() -> str | None:
    """The version of h2load, None when there is none."""
    if shutil.which(_PROGRAM) is None:
        return None
    text = subprocess.run([_PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    return text.strip().rpartition("/")[2]


def require() -> None:
    """Makes sure that h2load is there.

    Raises:
        SubjectSkipped: with what to do about it.
    """
    if version() is None:
        raise SubjectSkipped(
            "this needs h2load. Debian, Ubuntu: apt-get install nghttp2-client; macOS: brew install nghttp2"
        )


class Load:
    """Senders at work, each a process of its own with its own call, so that each can be an agent.

    Each keeps `connections` connections with one call under way on each, for `seconds`, or until it has made
    `calls`. A context manager: leaving it ends the senders.
    """

    def __init__(
        self,
        target: str,
        senders: Sequence[Call],
        *,
        connections: int = 1,
        seconds: float | None = None,
        calls: int | None = None,
    ) -> None:
        require()
        self._folder = tempfile.TemporaryDirectory(prefix="agentchat-bench-h2load-")
        self._processes: list[subprocess.Popen[str]] = []
        self._logs: list[Path] = []
        # -D takes seconds or milliseconds, and only whole ones.
        extent = ["-D", f"{round(seconds * 1000)}ms"] if seconds is not None else ["-n", str(calls)]
        for number, call in enumerate(senders):
            body, log = Path(self._folder.name, f"{number}.body"), Path(self._folder.name, f"{number}.log")
            body.write_bytes(frame(call.request))
            headers = (("content-type", "application/grpc"), ("te", "trailers"), *call.metadata)
            command = [_PROGRAM, "-c", str(connections), "-m", "1", *extent, "-d", str(body)]
            command += [f"--header={name}: {value}" for name, value in headers]
            command += [f"--log-file={log}", f"http://{target}/{call.method}"]
            self._processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
            self._logs.append(log)

    @property
    def pids(self) -> list[int]:
        """The processes of the senders."""
        return [process.pid for process in self._processes]

    def finish(self) -> Outcome:
        """Waits until the senders are done.

        Raises:
            MeasurementError: when one failed, or had no answer at all.
        """
        data_bytes = 0
        for process in self._processes:
            said, _ = process.communicate(timeout=_PATIENCE)
            if process.returncode != 0:
                raise MeasurementError(f"h2load ended with {process.returncode}: {said.strip()[-500:]}")
            data_bytes += parse_data_bytes(said)
        replies = [reply for log in self._logs for reply in parse_log(log.read_text("ascii"))]
        if not replies:
            raise MeasurementError("no call was answered")
        return Outcome(replies, data_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        self._folder.cleanup()


@dataclass(frozen=True)
class Outcome:
    """What a load got: the answers with HTTP 200, and the bytes of all answers' bodies."""

    replies: Sequence[Reply]
    data_bytes: int


def frame(message: bytes) -> bytes:
    """A message as gRPC sends it: not compressed, its length, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def parse_log(text: str) -> list[Reply]:
    """Reads a log: sent at (µs since 1970), HTTP status, duration (µs). Leaves out what is no HTTP 200."""
    replies = []
    for line in text.splitlines():
        sent_at, status, duration, *_ = line.split("\t")
        if status == "200":
            replies.append(Reply(int(sent_at) / 1e6, int(duration) / 1e6))
    return replies


def parse_data_bytes(text: str) -> int:
    """How many bytes of bodies h2load's summary counts.

    Raises:
        MeasurementError: when there is no summary in it.
    """
    match = re.search(r"^traffic: .*\((\d+)\) data$", text, re.MULTILINE)
    if match is None:
        raise MeasurementError(f"h2load said nothing of its traffic: {text.strip()[-500:]}")
    return int(match[1])
