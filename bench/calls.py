"""What the clients of a benchmark written in Python share: light gRPC connections, each with its own worker.

One connection stays with one worker. To be sure which one that is, a connection is opened again until the
worker that is wanted has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc.aio

from bench import processes
from bench.board import Server
from bench.failures import MeasurementError

T = TypeVar("T")

_ATTEMPTS = 50
_PATIENCE = 20.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a client on the event loop that the server has too, when there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@asynccontextmanager
async def connected(server: Server, *, worker: int | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A connection that no other shares, to a worker by its number, or to whichever takes it."""
    for _ in range(_ATTEMPTS):
        before = server.connections() if worker is not None and processes.AVAILABLE else []
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(server.target, options=options) as channel:
            async with asyncio.timeout(_PATIENCE):
                await channel.channel_ready()
            if before and worker is not None and server.connections()[worker] == before[worker]:
                continue
            yield channel
            return
    raise MeasurementError(f"worker {worker} takes no connection")
