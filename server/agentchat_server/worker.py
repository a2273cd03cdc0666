"""A worker process: `python -m agentchat_server.worker`, started by the supervisor.

    standard input    the settings, one line of JSON (so that no secret is seen in the process list);
                      its end tells the worker to stop, also when the supervisor is killed
    standard output   one line of JSON when the worker serves: {"port": 50051}; or {"error": "…"};
                      then, if the settings say so, a line with its metrics every second and at its end

SIGTERM stops it too. SIGINT is left to the supervisor, which shares the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

from agentchat_db.exceptions import DatabaseError
from agentchat_server.application import Application
from agentchat_server.file_store import FileStoreUnusable
from agentchat_server.logs import configure_logs
from agentchat_server.settings import ServerSettings
from agentchat_server.tls import CertificateError
from agentchat_server.tracing import Tracing, TracingUnavailable

_METRICS_INTERVAL = 1.0


def main() -> int:
    """Runs a worker until it is told to stop; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = sys.stdin.readline()
    if not line:
        return 0
    settings = ServerSettings.from_json(line)
    configure_logs(settings.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings))


async def _serve(settings: ServerSettings) -> int:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told_to_stop.set)
    loop.add_reader(sys.stdin.fileno(), told_to_stop.set)

    try:
        application = Application(settings, tracing=Tracing.from_environment())
        port = await application.start()
    except (CertificateError, DatabaseError, FileStoreUnusable, OSError, TracingUnavailable) as error:
        _report({"error": str(error)})
        return 1
    _report({"port": port})
    async with contextlib.nullcontext() if settings.metrics_port is None else _metrics_told(application):
        await told_to_stop.wait()
        loop.remove_reader(sys.stdin.fileno())
        await application.stop()
    return 0


@contextlib.asynccontextmanager
async def _metrics_told(application: Application) -> AsyncIterator[None]:
    """Tells the supervisor the metrics, until the block is left, and then a last time."""
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)

    async def tell() -> None:
        while True:
            # A supervisor that does not listen is not waited for.
            if not pipe.get_write_buffer_size():
                pipe.write(_line({"metrics": application.snapshot()}))
            await asyncio.sleep(_METRICS_INTERVAL)

    teller = asyncio.create_task(tell())
    try:
        yield
    finally:
        teller.cancel()
        await asyncio.gather(teller, return_exceptions=True)
        if not pipe.get_write_buffer_size():
            os.set_blocking(sys.stdout.fileno(), True)
            _report({"metrics": application.snapshot()})


def _report(fact: dict[str, object]) -> None:
    # The supervisor may be gone, which its end of standard input will tell.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(_line(fact))
        sys.stdout.flush()


def _line(fact: dict[str, object]) -> bytes:
    return json.dumps(fact).encode() + b"\n"


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop where it exists: it halves what the event loop costs a call."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


if __name__ == "__main__":
    sys.exit(main())
