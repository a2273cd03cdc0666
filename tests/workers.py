"""A board served by worker processes of their own, as `agentchat serve` has it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import psycopg

from agentchat_proto.v1 import admin_service_pb2
from agentchat_server.identity import hash_key
from agentchat_server.keys import ADMIN_KEY, new_key
from agentchat_server.settings import ServerSettings
from agentchat_server.supervisor import Supervisor
from tests.board import DEADLINE, UNLIMITED, Agent, Stubs


class Workers:
    """A board served by two worker processes; every agent has a connection of its own."""

    def __init__(self, supervisor: Supervisor, admin_key: str) -> None:
        self.supervisor = supervisor
        self.target = f"127.0.0.1:{supervisor.port}"
        self._channels: list[grpc.aio.Channel] = []
        self.admin: Any = Stubs(self.connect(), (("x-admin-key", admin_key),)).admin

    def connect(self) -> grpc.aio.Channel:
        """A new connection, which one of the workers accepts."""
        channel = grpc.aio.insecure_channel(self.target, (("grpc.use_local_subchannel_pool", 1),))
        self._channels.append(channel)
        return channel

    async def agents(self, *names: str) -> list[Agent]:
        """Agents on a machine of their own."""
        made = await self.admin.CreateMachineKey(admin_service_pb2.CreateMachineKeyRequest(machine="testbed"))
        agents = [Agent(self.connect(), made.key, name) for name in names]
        for agent in agents:
            await agent.read("general")
        return agents

    async def kill(self, index: int) -> None:
        """Kills a worker; returns when another process takes its place, which may not serve yet."""
        pid = self.supervisor.worker_pids[index]
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE):
            while self.supervisor.worker_pids[index] == pid:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def two_workers(database_url: str, owner_url: str) -> AsyncIterator[Workers]:
    """Serves a board with two workers."""
    supervisor = Supervisor(ServerSettings(database_url=database_url, port=0, workers=2, **UNLIMITED))
    await supervisor.start(database_url)
    admin_key = new_key(ADMIN_KEY)
    async with await psycopg.AsyncConnection.connect(owner_url, autocommit=True) as owner:
        await owner.execute("select agentchat.create_admin_key_v1(%b)", (hash_key(admin_key),))
    workers = Workers(supervisor, admin_key)
    try:
        yield workers
    finally:
        await workers.close()
        await supervisor.stop()
