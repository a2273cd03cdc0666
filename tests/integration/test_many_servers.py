"""Several `agentchat serve` on one database, behind a balancer that spreads connections."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from tests.board import DEADLINE, Agent, Board, Failure
from tests.serving import Server, serving


class Balancer:
    """Hands each connection to the next server, as a balancer of TCP connections does."""

    def __init__(self, targets: Iterator[tuple[str, int]]) -> None:
        self._targets = targets
        self._connections: set[asyncio.Task[None]] = set()
        self.target = ""

    @classmethod
    @asynccontextmanager
    async def before(cls, *servers: Server) -> AsyncIterator[Balancer]:
        """Runs one on a free port."""
        places = [server.target.rpartition(":") for server in servers]
        balancer = cls(itertools.cycle([(host, int(port)) for host, _, port in places]))
        listener = await asyncio.start_server(balancer._accept, "127.0.0.1", 0)
        balancer.target = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield balancer
        finally:
            listener.close()
            for connection in balancer._connections:
                connection.cancel()
            await asyncio.gather(*balancer._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for host, port in itertools.islice(self._targets, 2):
            try:
                server_reader, server_writer = await asyncio.open_connection(host, port)
            except OSError:
                # The server is away: the next one.
                continue
            try:
                await asyncio.wait(
                    [
                        asyncio.create_task(_copy(reader, server_writer)),
                        asyncio.create_task(_copy(server_reader, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                server_writer.close()
                writer.close()
            return
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass


@asynccontextmanager
async def connected(balancer: Balancer, key: str, *names: str) -> AsyncIterator[list[Agent]]:
    """Agents, each on a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(balancer.target, options=options) for _ in names]
    try:
        yield [Agent(channel, key, name) for channel, name in zip(channels, names, strict=True)]
    finally:
        for channel in channels:
            await channel.close()


async def test_mentions_cross_servers_and_cursors_hold_on_each(tmp_path: Path, board: Board) -> None:
    key = await board.machine("testbed")
    async with (
        serving(tmp_path / "first", board.database_url, "--metrics-port=0") as first,
        serving(tmp_path / "second", board.database_url, "--metrics-port=0") as second,
        Balancer.before(first, second) as balancer,
        connected(balancer, key, "ada", "bob") as (ada, bob),
    ):
        for agent in (ada, bob):
            await agent.read("general")
        async with ada.watch_mentions() as of_ada, bob.watch_mentions() as of_bob:
            await of_ada.until_live()
            await of_bob.until_live()
            await ada.send("general", "@bob from here")
            await bob.send("general", "@ada from there")
            to_bob, to_ada = await of_bob.next_event(), await of_ada.next_event()
        assert to_bob.mention_received.mention.content == "@bob from here"
        assert to_ada.mention_received.mention.content == "@ada from there"
        # Each server had one of the connections.
        for server in (first, second):
            async with asyncio.timeout(DEADLINE):
                while not sum((await server.scrape())["agentchat_calls_total"].values()) >= 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        # The second connection of ada goes to the other server, which knows the cursor.
        async with connected(balancer, key, "ada", "ada") as elsewhere:
            for agent in elsewhere:
                async with agent.watch_mentions(cursor=to_bob.cursor) as stream:
                    assert (await stream.next_event()).mention_received.mention.content == "@ada from there"


async def test_servers_are_replaced_one_by_one_without_losing_an_event(tmp_path: Path, board: Board) -> None:
    key = await board.machine("testbed")
    async with (
        serving(tmp_path / "first", board.database_url) as first,
        serving(tmp_path / "second", board.database_url) as second,
        Balancer.before(first, second) as balancer,
        connected(balancer, key, "ada") as (ada,),
    ):
        async with ada.watch_messages("general") as stream:
            await stream.until_live()
            await ada.send("general", "before")
            event = await stream.next_event()
            assert event.message_posted.message.content == "before"
            assert await asyncio.to_thread(first.stop) == 0
            with pytest.raises(Failure) as ended:
                await stream.next()
            assert ended.value.code is grpc.StatusCode.UNAVAILABLE
        (bob,) = await board.agents("bob")
        await bob.send("general", "meanwhile")
        # Connects again, to the server that is left.
        async with ada.watch_messages("general", cursor=event.cursor) as stream:
            event = await stream.next_event()
            assert event.message_posted.message.content == "meanwhile"
            assert await asyncio.to_thread(second.stop) == 0
