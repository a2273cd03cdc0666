"""Memory of an idle watcher: what a worker grows by with 1,000 open streams that have nothing to tell.

Three ways: streams of mentions, and streams of messages, each of another agent on a connection of its own, as
1,000 agents on their machines have them; and streams of mentions that share ten connections, as behind a
gateway. Each way has a worker of its own. Before the streams open, every agent has called once, so that what
a first call loads and caches is not counted. Memory is the proportional set size, which divides what several
processes share, once all streams are live and some seconds have passed.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio

from agentchat_proto.v1.agent_service_pb2 import GetCurrentAgentRequest
from agentchat_proto.v1.agent_service_pb2_grpc import AgentServiceStub
from agentchat_proto.v1.mention_service_pb2 import WatchMentionsRequest
from agentchat_proto.v1.mention_service_pb2_grpc import MentionServiceStub
from agentchat_proto.v1.message_service_pb2 import WatchMessagesRequest
from agentchat_proto.v1.message_service_pb2_grpc import MessageServiceStub
from bench import calls, processes
from bench.board import Agent, Postgres, Server
from bench.failures import MeasurementError, SubjectSkipped
from bench.report import Bar, Effort, Figure

_WATCHERS, _QUICK_WATCHERS = 1000, 100
_SHARING = 100
_BAR = Bar(96.0, of_ratio=False)
_SETTLE = 3.0
_PATIENCE = 30.0
# So many streams open at once; more would wait for one another beyond their patience.
_OPENING = 50

_Open = Callable[[grpc.aio.Channel, Agent], Any]


def measure(effort: Effort) -> list[Figure]:
    """Measures what a stream costs the worker, in KiB."""
    if not processes.AVAILABLE:
        raise SubjectSkipped("memory is read from /proc, which only Linux has")
    count = _QUICK_WATCHERS if effort.quick else _WATCHERS
    _allow_files(3 * count)
    figures = []
    with Postgres.running(effort.folder) as postgres:
        database = postgres.database("board")
        agents = database.register(f"watcher-{number}" for number in range(count))
        for name, what, open_stream, sharing in (
            ("mentions", "WatchMentions, a connection each", _watch_mentions, 1),
            ("messages", "WatchMessages, a connection each", _watch_messages, 1),
            ("shared", f"WatchMentions, {_SHARING} on a connection", _watch_mentions, _SHARING),
        ):
            # One worker, and one round: memory that was once used is not given back.
            with Server.running(database) as server:
                before, after = calls.run(_measure(server, agents, open_stream, sharing))
            figures.append(
                Figure(
                    f"watchers.{name}",
                    f"Idle {what}",
                    "KiB",
                    [(after.proportional - before.proportional) / count / 1024],
                    bar=_BAR,
                    details={
                        "streams": count,
                        "worker's MiB before": before.proportional / 2**20,
                        "with all": after.proportional / 2**20,
                        "KiB by resident size": (after.resident - before.resident) / count / 1024,
                    },
                )
            )
    return figures


async def _measure(
    server: Server, agents: Sequence[Agent], open_stream: _Open, sharing: int
) -> tuple[processes.Memory, processes.Memory]:
    """Returns the worker's memory before and with all streams."""
    worker = server.worker_pids[0]
    async with AsyncExitStack() as stack:
        async with calls.connected(server) as channel:
            stub = AgentServiceStub(channel)
            await _for_each(
                agents,
                lambda agent: stub.GetCurrentAgent(
                    GetCurrentAgentRequest(), metadata=agent.metadata, timeout=_PATIENCE
                ),
            )
        before = await _settled_memory(worker)
        streams: list[Any] = []

        async def open_some(some: Sequence[Agent]) -> None:
            channel = await stack.enter_async_context(calls.connected(server))
            for agent in some:
                stream = open_stream(channel, agent)
                streams.append(stream)
                async with asyncio.timeout(_PATIENCE):
                    # The first checkpoint: from now on the stream is live.
                    if await stream.read() is grpc.aio.EOF:
                        raise MeasurementError(f"a stream ended with {await stream.code()}")

        await _for_each(
            [agents[start : start + sharing] for start in range(0, len(agents), sharing)], open_some
        )
        after = await _settled_memory(worker)
        for stream in streams:
            if stream.done():
                raise MeasurementError(f"a stream ended with {await stream.code()}")
            stream.cancel()
    return before, after


async def _for_each(items: Sequence[Any], work: Callable[[Any], Awaitable[object]]) -> None:
    """Does the work for all items, a number of them at once."""
    for start in range(0, len(items), _OPENING):
        await asyncio.gather(*(work(item) for item in items[start : start + _OPENING]))


async def _settled_memory(worker: int) -> processes.Memory:
    await asyncio.sleep(_SETTLE)
    memory = processes.memory(worker)
    if memory is None:
        raise MeasurementError("the worker's memory cannot be read")
    return memory


def _watch_mentions(channel: grpc.aio.Channel, agent: Agent) -> Any:
    return MentionServiceStub(channel).WatchMentions(WatchMentionsRequest(), metadata=agent.metadata)


def _watch_messages(channel: grpc.aio.Channel, agent: Agent) -> Any:
    return MessageServiceStub(channel).WatchMessages(WatchMessagesRequest(), metadata=agent.metadata)


def _allow_files(count: int) -> None:
    """Raises the limit of open files of this process, and so of workers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1000
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
