"""Mention delivery: from just before a post to its arrival on the stream of the agent that it mentions.

200 posts a second, at their times whether or not those before are answered. They go over one connection to
one worker; the streams of the agents that they mention in turn are on another worker, where there are two. So
a mention's way leads through the coalescer, a commit, a NOTIFY and the other worker's hub. Posts and streams
are in one process, by one clock; it has nothing else to do, and its processor time is reported.

Beside it, alternating: NOTIFY on one connection to the same Postgres until it has arrived on another, which
listens. Each is a transaction that is flushed to disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import grpc.aio
import psycopg

from agentchat_proto.v1.mention_service_pb2 import WatchMentionsRequest
from agentchat_proto.v1.mention_service_pb2_grpc import MentionServiceStub
from agentchat_proto.v1.message_service_pb2 import SendMessageRequest
from agentchat_proto.v1.message_service_pb2_grpc import MessageServiceStub
from bench import calls
from bench.board import Agent, Database, Postgres, Server
from bench.failures import MeasurementError
from bench.report import Bar, Effort, Figure, Reference, percentile
from bench.text import MESSAGE

RATE = 200

_WATCHERS = 8
_BAR = Bar(3.0)
_PATIENCE = 10.0

T = TypeVar("T")
_Send = Callable[[int], Awaitable[object]]


def measure(effort: Effort) -> list[Figure]:
    """Measures the delivery of mentions for 1 and 2 workers."""
    figures: list[Figure] = []
    with Postgres.running(effort.folder) as postgres:
        # Nobody else listens in this database.
        bare = postgres.database("bare")
        for workers in (1, 2):
            database = postgres.database(f"board_{workers}")
            agents = database.register(f"agent-{number}" for number in range(1 + _WATCHERS))
            with Server.running(database, workers=workers) as server:
                figures += calls.run(_measure_server(effort, bare, server, agents))
    return figures


async def _measure_server(
    effort: Effort, bare: Database, server: Server, agents: Sequence[Agent]
) -> list[Figure]:
    workers = len(server.worker_pids)
    count = round(RATE * effort.seconds)
    delivered: list[list[float]] = []
    notified: list[list[float]] = []
    used = 0.0
    for _ in range(effort.rounds):
        notified.append(await _notify(bare, count))
        used_before = time.process_time()
        delivered.append(await _deliver(server, agents, count))
        used += time.process_time() - used_before

    def milliseconds(rounds: list[list[float]], percent: float) -> list[float]:
        return [percentile(latencies, percent) * 1000 for latencies in rounds]

    named = "1 worker" if workers == 1 else "to another worker"
    client = {"client's share of a core": used / (effort.rounds * effort.seconds)}
    return [
        Figure(
            f"delivery.{workers}.p{percent}",
            f"Mention delivered, {named}, p{percent}",
            "ms",
            milliseconds(delivered, percent),
            Reference("NOTIFY to LISTEN on Postgres itself", milliseconds(notified, percent)),
            _BAR if percent == 50 else None,
            client if percent == 50 else {},
        )
        for percent in (50, 99)
    ]


async def _deliver(server: Server, agents: Sequence[Agent], count: int) -> list[float]:
    """Posts at the rate; returns how long each mention took, in seconds."""
    author, *watchers = agents
    sent_at: dict[int, float] = {}
    live = asyncio.Queue[None]()
    latencies = asyncio.Queue[float]()

    async def watch(stub: Any, watcher: Agent) -> None:
        async for response in stub.WatchMentions(WatchMentionsRequest(), metadata=watcher.metadata):
            now = time.perf_counter()
            if response.WhichOneof("event") == "checkpoint":
                live.put_nowait(None)
            # What an earlier round left unread comes first.
            elif (number := _number(response.mention_received.mention.content)) in sent_at:
                latencies.put_nowait(now - sent_at[number])

    async with AsyncExitStack() as stack:
        posting = await stack.enter_async_context(calls.connected(server, worker=0))
        last = len(server.worker_pids) - 1
        watching = await stack.enter_async_context(calls.connected(server, worker=last))
        tasks = [asyncio.create_task(watch(MentionServiceStub(watching), watcher)) for watcher in watchers]
        try:
            await _take(live, len(watchers))
            messages = MessageServiceStub(posting)
            first = time.monotonic_ns()

            async def post(number: int) -> None:
                watcher = watchers[number % len(watchers)]
                content = f"@{watcher.name} {first + number} {MESSAGE}"
                request = SendMessageRequest(channel="general", content=content)
                sent_at[first + number] = time.perf_counter()
                await messages.SendMessage(request, metadata=author.metadata, timeout=_PATIENCE)

            await _at_rate(post, count, wait=False)
            received = await _take(latencies, count)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, grpc.aio.AioRpcError):
            raise MeasurementError(f"a stream ended with {failure.code().name}: {failure.details()}")
    return received


async def _notify(database: Database, count: int) -> list[float]:
    """Notifies at the rate; returns how long each notification took, in seconds."""
    sent_at: list[float] = []
    latencies = asyncio.Queue[float]()
    loop = asyncio.get_running_loop()
    with psycopg.connect(database.url, autocommit=True) as listener:
        listener.execute("listen bare")

        def receive() -> None:
            now = time.perf_counter()
            listener.pgconn.consume_input()
            while notification := listener.pgconn.notifies():
                latencies.put_nowait(now - sent_at[int(notification.extra)])

        loop.add_reader(listener.fileno(), receive)
        try:
            async with await psycopg.AsyncConnection.connect(
                database.url, autocommit=True, prepare_threshold=0
            ) as notifier:

                async def notify(number: int) -> None:
                    sent_at.append(time.perf_counter())
                    await notifier.execute("select pg_notify('bare', %s)", (str(number),))

                await _at_rate(notify, count, wait=True)
                return await _take(latencies, count)
        finally:
            loop.remove_reader(listener.fileno())


async def _at_rate(send: _Send, count: int, *, wait: bool) -> None:
    """Sends at the rate. With `wait` one at a time, each as soon after its time as that allows."""
    start = time.perf_counter()
    under_way: list[asyncio.Future[object]] = []
    for number in range(count):
        await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
        sending = asyncio.ensure_future(send(number))
        if wait:
            await sending
        under_way.append(sending)
    await asyncio.gather(*under_way)


async def _take(queue: asyncio.Queue[T], count: int) -> list[T]:
    async with asyncio.timeout(_PATIENCE):
        return [await queue.get() for _ in range(count)]


def _number(content: str) -> int:
    """The number in the content of a post."""
    return int(content.split(" ", 2)[1])
