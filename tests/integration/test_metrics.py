"""Metrics: one scrape shows all workers, and nothing that happens to a worker makes a counter go back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import psycopg
import pytest

from agentchat_proto.v1 import admin_service_pb2
from agentchat_server.identity import hash_key
from agentchat_server.keys import ADMIN_KEY, new_key
from agentchat_server.metrics import DEFINITIONS
from agentchat_server.metrics_endpoint import MetricsEndpoint
from tests.board import DEADLINE, Agent, Board, Failure, Stubs
from tests.serving import Server, eventually, serving

Scrape = dict[str, dict[frozenset[tuple[str, str]], float]]
SEND = "MessageService/SendMessage"


def labels(**values: str) -> frozenset[tuple[str, str]]:
    """The key of a sample."""
    return frozenset(values.items())


@asynccontextmanager
async def connected(server: Server, owner_url: str) -> AsyncIterator[Callable[[str], Agent]]:
    """Makes agents, each on a connection of its own, so that they spread over the workers."""
    admin_key = new_key(ADMIN_KEY)
    async with await psycopg.AsyncConnection.connect(owner_url, autocommit=True) as connection:
        await connection.execute("select agentchat.create_admin_key_v1(%b)", (hash_key(admin_key),))
    channels = []

    def connect() -> grpc.aio.Channel:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels.append(grpc.aio.insecure_channel(server.target, options=options))
        return channels[-1]

    admin = Stubs(connect(), (("x-admin-key", admin_key),)).admin
    response = await admin.CreateMachineKey(admin_service_pb2.CreateMachineKeyRequest(machine="testbed"))
    try:
        yield lambda name: Agent(connect(), response.key, name)
    finally:
        for channel in channels:
            await channel.close()


async def scrape_until(server: Server, condition: Callable[[Scrape], bool]) -> Scrape:
    """Scrapes until a condition holds: what workers counted reaches the supervisor within a second or two."""
    scrape: Scrape = {}
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition(scrape := await server.scrape()):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(scrape) from None
    return scrape


def sent(scrape: Scrape) -> float:
    """How many messages were sent, by the counter."""
    return scrape["agentchat_calls_total"].get(labels(method=SEND, code="OK"), 0)


async def test_one_scrape_shows_the_calls_and_messages_of_all_workers(
    tmp_path: Path, database_url: str, owner_url: str
) -> None:
    arguments = ("--workers", "2", "--metrics-port", "0")
    async with (
        serving(tmp_path / "output", database_url, *arguments) as server,
        connected(server, owner_url) as agent,
    ):
        agents = [agent(f"agent-{number}") for number in range(8)]
        for number in range(5):
            await asyncio.gather(*(each.send("general", f"message {number}") for each in agents))
        with pytest.raises(Failure):
            await agents[0].read("no-such-channel")
        async with agents[0].watch_messages() as stream:
            await stream.until_live()
            scrape = await scrape_until(
                server,
                lambda found: (
                    sent(found) == 40
                    and sum(found["agentchat_open_streams"].values()) == 1
                    and min(found["agentchat_hub_head"].values()) == 40
                ),
            )
        suffixes = ("_bucket", "_count", "_sum")
        assert {name for name in scrape if not name.endswith(suffixes)} == set(DEFINITIONS)
        assert scrape["agentchat_workers"] == {labels(): 2}
        assert (
            scrape["agentchat_calls_total"][labels(method="MessageService/ListMessages", code="NOT_FOUND")]
            == 1
        )
        assert scrape["agentchat_refusals_total"] == {labels(reason="CHANNEL_NOT_FOUND"): 1}
        assert scrape["agentchat_batch_messages_sum"] == {labels(): 40}
        assert scrape["agentchat_call_duration_seconds_count"][labels(method=SEND)] == 40
        assert scrape["agentchat_call_duration_seconds_bucket"][labels(method=SEND, le="+Inf")] == 40
        assert scrape["agentchat_call_duration_seconds_sum"][labels(method=SEND)] > 0
        for name, definition in DEFINITIONS.items():
            if definition.per_worker and not definition.labels:
                assert set(scrape[name]) == {labels(worker="0"), labels(worker="1")}, name
        hits, misses = (
            sum(scrape[f"agentchat_authentication_cache_{kind}_total"].values())
            for kind in ("hits", "misses")
        )
        # Every call of the agents, the failed one and the stream, but not the admin's.
        assert hits + misses == 42
        assert misses >= len(agents)
        await scrape_until(server, lambda found: sum(found["agentchat_open_streams"].values()) == 0)
        scrape = await server.scrape()
        assert not [
            key for key in scrape["agentchat_call_duration_seconds_count"] if "Watch" in dict(key)["method"]
        ]
        watched = labels(method="MessageService/WatchMessages", code="CANCELLED")
        assert scrape["agentchat_calls_total"][watched] == 1


async def test_counters_outlive_a_killed_worker_and_its_gauges_do_not(
    tmp_path: Path, database_url: str, owner_url: str
) -> None:
    async with (
        serving(tmp_path / "output", database_url, "--metrics-port", "0") as server,
        connected(server, owner_url) as agent,
    ):
        ada = agent("ada")
        for number in range(3):
            await ada.send("general", f"message {number}")
        async with ada.watch_messages() as stream:
            await stream.until_live()
            before = await scrape_until(
                server, lambda found: sent(found) == 3 and sum(found["agentchat_open_streams"].values()) == 1
            )
            (pid,) = server.worker_pids()
            os.kill(pid, signal.SIGKILL)
            dead = await scrape_until(server, lambda found: found["agentchat_workers"][labels()] == 0)
        assert dead["agentchat_open_streams"] == {}
        assert dead["agentchat_hub_head"] == {}
        after = await scrape_until(server, lambda found: found["agentchat_workers"][labels()] == 1)
        assert after["agentchat_worker_restarts_total"] == {labels(): 1}
        for scrape in (dead, after):
            for name, definition in DEFINITIONS.items():
                if definition.kind == "counter":
                    for key, count in before[name].items():
                        assert scrape[name][key] >= count, (name, key)
            for name in ("agentchat_batch_messages_count", "agentchat_call_duration_seconds_sum"):
                for key, count in before[name].items():
                    assert scrape[name][key] >= count, (name, key)
        bob = agent("bob")
        await bob.send("general", "one more")
        await scrape_until(server, lambda found: sent(found) == 4)


async def test_what_a_worker_counted_before_it_was_told_to_stop_is_all_there(
    tmp_path: Path, database_url: str, owner_url: str
) -> None:
    async with (
        serving(tmp_path / "output", database_url, "--metrics-port", "0") as server,
        connected(server, owner_url) as agent,
    ):
        ada = agent("ada")
        await ada.send("general", "one")
        await scrape_until(server, lambda found: sent(found) == 1)
        await ada.send("general", "two")
        (pid,) = server.worker_pids()
        os.kill(pid, signal.SIGTERM)
        scrape = await scrape_until(
            server, lambda found: found["agentchat_worker_restarts_total"][labels()] == 1
        )
        assert sent(scrape) == 2


async def test_a_metrics_port_that_is_taken_is_refused_in_words(tmp_path: Path, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(AssertionError, match=f"cannot serve metrics on 127.0.0.1 port {port}: "):
            async with serving(tmp_path / "output", database_url, "--metrics-port", port):
                pass


async def test_without_a_metrics_port_nothing_is_counted(board: Board) -> None:
    await board.agents("ada")
    assert board.application.snapshot() is None


async def test_a_hub_that_has_its_workers_own_messages_already_counts_as_up_to_date(
    database_url: str, owner_url: str
) -> None:
    # No poll comes to help.
    async with Board.serve(database_url, owner_url, metrics_port=0, hub_poll_interval=600.0) as board:
        (ada,) = await board.agents("ada")

        def last_read_at() -> float:
            snapshot = board.application.snapshot()
            assert snapshot is not None
            ((_, (moment,)),) = snapshot["agentchat_hub_last_read_timestamp_seconds"]
            return moment

        async with ada.watch_messages() as stream:
            await stream.until_live()
            for number in range(10):
                before = time.time()
                await ada.send("general", f"message {number}")
                await eventually(lambda before=before: last_read_at() >= before)  # type: ignore[misc]


async def test_half_a_line_of_a_killed_worker_is_passed_over() -> None:
    endpoint = MetricsEndpoint("127.0.0.1", 0)
    output = asyncio.StreamReader()
    output.feed_data(b'{"metrics": {"agentchat_refusals_total": [[["INTERNAL"], [7]]]}}\n{"metrics": {"agent')
    output.feed_eof()
    await endpoint.follow(0, output)
    samples = {sample.name: sample for metric in endpoint.collect() for sample in metric.samples}
    assert samples["agentchat_refusals_total"].value == 7


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, definition in DEFINITIONS.items():
        assert name.startswith("agentchat_")
        assert name.endswith("_total") == (definition.kind == "counter"), name
        assert definition.help.endswith("."), name
