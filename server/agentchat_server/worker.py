"""A worker process: `python -m agentchat_server.worker`, started by the supervisor.

    standard input    the settings, one line of JSON (so that no secret is seen in the process list);
                      its end tells the worker to stop, also when the supervisor is killed
    standard output   one line of JSON when the worker serves: {"port": 50051}; or {"error": "…"}

SIGTERM stops it too. SIGINT is left to the supervisor, which shares the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys

from agentchat_db.exceptions import DatabaseError
from agentchat_server.application import Application
from agentchat_server.file_store import FileStoreUnusable
from agentchat_server.logs import configure_logs
from agentchat_server.settings import ServerSettings
from agentchat_server.tls import CertificateError


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
        application = Application(settings)
        port = await application.start()
    except (CertificateError, DatabaseError, FileStoreUnusable, OSError) as error:
        _report({"error": str(error)})
        return 1
    _report({"port": port})
    await told_to_stop.wait()
    loop.remove_reader(sys.stdin.fileno())
    await application.stop()
    return 0


def _report(fact: dict[str, object]) -> None:
    # The supervisor may be gone, which its end of standard input will tell.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(fact) + "\n")
        sys.stdout.flush()


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop where it exists: it halves what the event loop costs a call."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


if __name__ == "__main__":
    sys.exit(main())
