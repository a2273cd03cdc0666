"""Peers that go silent: their streams end and are freed, also when their machine never says goodbye."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import pytest

from tests.board import Board, Failure

# A watcher that reports when its stream is live.
WATCHER = """
import sys
from agentchat import AgentChatClient
with AgentChatClient(sys.argv[1], sys.argv[2], "ada").watch_messages(["general"]).start() as watch:
    print("live", flush=True)
    next(iter(watch))
"""


async def test_the_stream_of_a_frozen_process_is_freed(database_url: str, owner_url: str) -> None:
    # No checkpoint tells the server that nobody reads; only the pings of its keepalive can.
    settings = {"keepalive_time": 1.0, "keepalive_timeout": 1.0, "checkpoint_interval": 60.0}
    async with Board.serve(database_url, owner_url, agent_stream_limit=1, **settings) as board:
        key = await board.machine("testbed")
        ada = board.agent(key, "ada")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WATCHER, board.target, key, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                assert await process.stdout.readline() == b"live\n"
            # A peer that answers keeps its stream for as long as it likes.
            await asyncio.sleep(4)
            with pytest.raises(Failure, match="as many streams open"):
                await ada.watch_messages().next()

            os.kill(process.pid, signal.SIGSTOP)
            async with asyncio.timeout(10):
                await until_free(board, key)
        finally:
            process.kill()
            await process.wait()


async def until_free(board: Board, key: str) -> None:
    """Returns when the agent may open a stream again."""
    while True:
        async with board.agent(key, "ada").watch_messages() as watch:
            try:
                await watch.until_live()
            except Failure as failure:
                if failure.reason != "STREAM_LIMIT_REACHED":
                    raise
            else:
                return
        await asyncio.sleep(0.1)


async def test_a_connection_that_never_introduces_itself_does_not_keep_the_server_from_stopping(
    database_url: str, owner_url: str
) -> None:
    async with Board.serve(database_url, owner_url) as board:
        host, _, port = board.target.rpartition(":")
        with socket.create_connection((host, int(port))):
            async with asyncio.timeout(10):
                await board.application.stop()
