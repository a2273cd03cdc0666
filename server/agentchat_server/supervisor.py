"""The parent of the workers.

It reserves the port, starts the workers, starts one again that dies, and stops them all. If the settings have
a port for metrics, it serves those of all workers there. It imports neither gRPC nor the database driver, so
it is up at once and stays small.

Workers listen on one port with SO_REUSEPORT, which lets any process of the same user join in unnoticed.
So the supervisor first binds the port without it, which fails when anybody listens there, and then holds a
bound socket that never listens: it keeps the number reserved, also while no worker is up, and resolves
port 0 to a number for all workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import sys
import time
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from typing import cast

import structlog

from agentchat_server.metrics_endpoint import MetricsEndpoint
from agentchat_server.settings import ServerSettings

_START_TIMEOUT = 60.0
_RESTART_DELAY = 0.1
_MAX_RESTART_DELAY = 5.0
# A worker that has lived this long starts again at once when it dies.
_SETTLED = 10.0
# The longest line that a worker may send, in bytes: its metrics.
_MAX_LINE = 4 * 1024 * 1024

_log = structlog.get_logger(__name__)


class ServerStartError(Exception):
    """The server could not start; the message says why."""


class Supervisor:
    """Runs a number of workers that share a port."""

    def __init__(self, settings: ServerSettings) -> None:
        self._reservation = _reserve(settings.host, settings.port)
        self.host = settings.host
        self.port: int = self._reservation.getsockname()[1]
        self._settings = dataclasses.replace(settings, port=self.port)
        self._count = settings.workers
        self._metrics: MetricsEndpoint | None = None
        if settings.metrics_port is not None:
            self._metrics = MetricsEndpoint(settings.metrics_host, settings.metrics_port)
        self._processes: list[Process] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def prepare(self) -> None:
        """Starts the worker processes, which load their code while the database may still be starting.

        Raises:
            ServerStartError: when metrics cannot be served where they should be.
        """
        self._processes = [await self._spawn() for _ in range(self._count)]
        if self._metrics is not None:
            try:
                await asyncio.to_thread(self._metrics.open)
            except OSError as error:
                where = f"{self._metrics.host} port {self._metrics.port}"
                raise ServerStartError(f"cannot serve metrics on {where}: {error.strerror}") from error

    async def start(self, database_url: str) -> None:
        """Lets the workers serve; returns when all do.

        Raises:
            ServerStartError: when one cannot.
        """
        self._settings = dataclasses.replace(self._settings, database_url=database_url)
        if not self._processes:
            await self.prepare()
        try:
            await asyncio.gather(*(self._go(process) for process in self._processes))
        except BaseException:
            await self.stop()
            raise
        self._keepers = [asyncio.create_task(self._keep(index)) for index in range(self._count)]

    @property
    def metrics_url(self) -> str | None:
        """What Prometheus is to scrape, None when metrics are off. To be asked after `prepare`."""
        return None if self._metrics is None else self._metrics.url

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers at the moment."""
        return [process.pid for process in self._processes]

    async def stop(self) -> None:
        """Stops the workers, each as a worker stops: nothing that was acknowledged is lost."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(self._end(process) for process in self._processes))
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        self._reservation.close()

    async def _spawn(self) -> Process:
        # Anybody can make a TLS handshake fail, and gRPC would write lines of its own about it.
        environment = {"GRPC_VERBOSITY": "ERROR", **os.environ}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentchat_server.worker"),
            stdin=PIPE,
            stdout=PIPE,
            limit=_MAX_LINE,
            env=environment,
        )

    async def _go(self, process: Process) -> None:
        """Hands a worker its settings and waits until it serves."""
        with contextlib.suppress(ConnectionError):
            stdin = cast(StreamWriter, process.stdin)
            stdin.write(self._settings.to_json().encode() + b"\n")
            await stdin.drain()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                line = await cast(StreamReader, process.stdout).readline()
        except TimeoutError:
            raise ServerStartError(f"a worker did not start within {_START_TIMEOUT:.0f} seconds") from None
        report = json.loads(line) if line else {"error": "a worker ended while it started; its log says why"}
        if "error" in report:
            raise ServerStartError(report["error"])

    async def _keep(self, index: int) -> None:
        """Starts a worker again whenever it dies, soon at first, then ever more slowly."""
        delay = _RESTART_DELAY
        while True:
            started_at = time.monotonic()
            if self._metrics is not None:
                await self._metrics.follow(index, cast(StreamReader, self._processes[index].stdout))
            await self._processes[index].wait()
            if time.monotonic() - started_at > _SETTLED:
                delay = _RESTART_DELAY
            await asyncio.sleep(delay)
            delay = min(delay * 2, _MAX_RESTART_DELAY)
            self._processes[index] = await self._spawn()
            if self._metrics is not None:
                self._metrics.count_restart()
            try:
                await self._go(self._processes[index])
            except ServerStartError as error:
                _log.error("worker could not start again", worker=index, error=str(error))
                await self._end(self._processes[index])

    async def _end(self, process: Process) -> None:
        if process.returncode is not None:
            return
        cast(StreamWriter, process.stdin).close()
        try:
            async with asyncio.timeout(self._settings.shutdown_grace + self._settings.write_patience + 5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _reserve(host: str, port: int) -> socket.socket:
    """A bound socket that keeps a port for the workers.

    Raises:
        ServerStartError: when another process has the port, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if port:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # Lets a port be bound whose last connections are still closing, but not one that is served.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                probe.listen()
        reservation = socket.socket(family, socket.SOCK_STREAM)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reservation.bind((host, port))
    except OSError as error:
        raise ServerStartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return reservation
