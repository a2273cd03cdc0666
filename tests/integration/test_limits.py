"""The guards of a shared server: limits on calls, on failed authentications, on sizes and on streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentchat import AsyncAgentChatClient, RateLimitedError
from agentchat_proto.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    board_service_pb2,
    message_service_pb2,
)
from agentchat_server.listening import MAX_METADATA_BYTES, MAX_REQUEST_BYTES
from tests.board import Agent, Board, Failure, Stubs, Watch

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

Serve = Callable[..., AbstractAsyncContextManager[Board]]


@pytest.fixture
def serve(database_url: str, owner_url: str) -> Serve:
    """Serves the test's database with settings of its own."""

    def serve_with(**settings: Any) -> AbstractAsyncContextManager[Board]:
        return Board.serve(database_url, owner_url, **settings)

    return serve_with


async def failure_of(call: Any) -> Failure:
    with pytest.raises(Failure) as failure:
        await call
    return failure.value


async def whoami(agent: Agent) -> agent_service_pb2.GetCurrentAgentResponse:
    response: agent_service_pb2.GetCurrentAgentResponse = await agent.agents.GetCurrentAgent(
        agent_service_pb2.GetCurrentAgentRequest()
    )
    return response


def delay_of(failure: Failure) -> float:
    assert failure.retry is not None
    seconds: float = failure.retry.retry_delay.ToTimedelta().total_seconds()
    return seconds


# --- Calls ----------------------------------------------------------------------------------------


async def test_an_agent_that_writes_too_often_is_told_when_to_write_again(serve: Serve) -> None:
    async with serve(agent_write_limit=120) as board:
        ada, bob = await board.agents("ada", "bob")
        for number in range(20):
            await ada.send("general", f"message {number}")
        failure = await failure_of(ada.send("general", "one too many"))
        assert (failure.code, failure.reason) == (EXHAUSTED, "RATE_LIMITED")
        assert failure.metadata == {"scope": "agent"}
        assert 0 < delay_of(failure) <= 0.5
        # Neither the other agent nor reading suffers.
        await bob.send("general", "mine")
        page = await ada.read("general", page_size=100)
        assert "one too many" not in [message.content for message in page.messages]

        await asyncio.sleep(delay_of(failure))
        await ada.send("general", "in time")


async def test_reads_and_the_opening_of_streams_are_counted_together(serve: Serve) -> None:
    async with serve(agent_read_limit=30) as board:
        (ada,) = await board.agents("ada")  # one read
        for _ in range(3):
            await whoami(ada)
        async with ada.watch_messages() as watch:
            await watch.until_live()
            assert (await failure_of(whoami(ada))).metadata == {"scope": "agent"}
            with pytest.raises(Failure) as failure:
                await ada.watch_messages().next()
            assert failure.value.metadata == {"scope": "agent"}
            assert delay_of(failure.value) <= 2
            # The open stream goes on.
            await ada.send("general", "hello")
            assert (await watch.next_event()).message_posted.message.content == "hello"


async def test_the_global_limit_holds_everybody_administrators_too(serve: Serve) -> None:
    async with serve(global_read_limit=60) as board:
        key = await board.machine("testbed")
        agents = [board.agent(key, f"agent-{number}") for number in range(10)]
        for agent in agents:
            await whoami(agent)
        failure = await failure_of(whoami(agents[3]))
        assert failure.metadata == {"scope": "global"}
        assert 0 < delay_of(failure) <= 1
        listing = admin_service_pb2.ListMachineKeysRequest()
        assert (await failure_of(board.admin.ListMachineKeys(listing))).metadata == {"scope": "global"}
        await agents[3].send("general", "writes are counted apart")


async def test_health_is_not_limited(serve: Serve) -> None:
    async with serve(global_read_limit=1, global_write_limit=6) as board:
        health: Any = health_pb2_grpc.HealthStub(board.channel)
        for _ in range(20):
            await health.Check(health_pb2.HealthCheckRequest())


async def test_the_sdk_waits_for_a_short_delay_and_raises_a_long_one(serve: Serve) -> None:
    async with serve(agent_write_limit=60) as board:
        key = await board.machine("testbed")
        async with AsyncAgentChatClient(board.target, key, "ada") as client:
            sent = [(await client.send_message("general", str(number))).message for number in range(12)]
            assert [message.content for message in sent] == [str(number) for number in range(12)]
    async with (
        serve(agent_write_limit=6) as board,
        AsyncAgentChatClient(board.target, key, "ada") as client,
    ):
        await client.send_message("general", "first")
        with pytest.raises(RateLimitedError) as limited:
            await client.send_message("general", "second")
    assert limited.value.scope == "agent"
    assert 8 < limited.value.retry_after <= 10


# --- Failed authentications -----------------------------------------------------------------------


async def test_a_peer_that_guesses_keys_is_refused_before_the_database_is_asked(serve: Serve) -> None:
    async with serve(auth_failure_limit=20) as board:
        key = await board.machine("testbed")
        known = board.agent(key, "testbed-known")
        await whoami(known)
        for number in range(20):
            failure = await failure_of(whoami(board.agent(f"ack_guess-{number}", "x-y")))
            assert failure.reason == "API_KEY_INVALID"
        async with board.sql() as connection:
            await connection.execute("drop function agentchat.authenticate_v1(bytea, text) cascade")
        failure = await failure_of(whoami(board.agent("ack_guess-20", "x-y")))
        assert (failure.code, failure.reason) == (EXHAUSTED, "RATE_LIMITED")
        assert failure.metadata == {"scope": "authentication"}
        assert 0 < delay_of(failure) <= 3


async def test_known_agents_behind_the_address_of_a_guesser_go_on_and_new_ones_wait(serve: Serve) -> None:
    async with serve(auth_failure_limit=20, identity_cache_time=0.0) as board:
        key = await board.machine("testbed")
        known = board.agent(key, "testbed-known")
        await whoami(known)
        for number in range(20):
            await failure_of(whoami(board.agent(f"ack_guess-{number}")))
        await whoami(known)
        assert (await failure_of(whoami(board.agent(key, "testbed-new")))).metadata == {
            "scope": "authentication"
        }
        # What was good and no longer is counts like any other.
        await board.admin.RevokeMachineKey(admin_service_pb2.RevokeMachineKeyRequest(machine="testbed"))
        assert (await failure_of(whoami(known))).reason == "API_KEY_INVALID"
        assert (await failure_of(whoami(known))).metadata == {"scope": "authentication"}


async def test_a_burst_of_guesses_at_once_goes_little_beyond_the_limit(serve: Serve) -> None:
    async with serve(auth_failure_limit=20, pool_size=6) as board:
        failures = await asyncio.gather(
            *(failure_of(whoami(board.agent(f"ack_guess-{number}"))) for number in range(200))
        )
        reasons = [failure.reason for failure in failures]
        assert 20 <= reasons.count("API_KEY_INVALID") <= 23
        assert reasons.count("RATE_LIMITED") == 200 - reasons.count("API_KEY_INVALID")


async def test_guessed_names_count_too(serve: Serve) -> None:
    async with serve(auth_failure_limit=6) as board:
        await board.machine("server")
        key = await board.machine("laptop")
        for number in range(6):
            failure = await failure_of(whoami(board.agent(key, f"server-{number}")))
            assert failure.reason == "AGENT_NAME_RESERVED"
        assert (await failure_of(whoami(board.agent(key, "server-6")))).reason == "RATE_LIMITED"


async def test_keys_that_cost_no_query_are_refused_for_free(serve: Serve) -> None:
    async with serve(auth_failure_limit=1) as board:
        for _ in range(5):
            assert (await failure_of(whoami(board.agent("k" * 600)))).reason == "API_KEY_INVALID"
        await whoami(board.agent(await board.machine("testbed")))


async def test_admin_keys_are_guessed_as_often_as_others(serve: Serve) -> None:
    async with serve(auth_failure_limit=5) as board:
        await board.machine("testbed")  # from now on the admin's key is known
        listing = admin_service_pb2.ListMachineKeysRequest()

        def guess(number: int) -> Any:
            stubs = Stubs(board.channel, (("x-admin-key", f"aca_guess-{number}"),))
            return stubs.admin.ListMachineKeys(listing)

        for number in range(5):
            assert (await failure_of(guess(number))).reason == "ADMIN_KEY_INVALID"
        failure = await failure_of(guess(5))
        assert (failure.reason, failure.metadata) == ("RATE_LIMITED", {"scope": "authentication"})
        assert delay_of(failure) <= 12
        await board.admin.ListMachineKeys(listing)
        # What else an administrator gets wrong is no guess.
        for _ in range(6):
            rotation = admin_service_pb2.RotateMachineKeyRequest(machine="nobody")
            assert (await failure_of(board.admin.RotateMachineKey(rotation))).reason == "MACHINE_NOT_FOUND"
        await board.admin.ListMachineKeys(listing)


# --- Sizes ----------------------------------------------------------------------------------------


async def test_the_largest_legal_requests_pass_and_larger_ones_are_refused_by_grpc(board: Board) -> None:
    (ada,) = await board.agents("ada")
    metadata = {"text": "\N{PILE OF POO}" * 1000}
    sent = await ada.send("general", "\N{PILE OF POO}" * 32_000, metadata=metadata)
    assert len(sent.message.content) == 32_000

    overhead = len(message_service_pb2.SendMessageRequest(content="x" * 10**6).SerializeToString()) - 10**6
    largest = "x" * (MAX_REQUEST_BYTES - overhead)
    assert (await failure_of(ada.send("", largest))).reason == "FIELD_INVALID"
    failure = await failure_of(ada.send("", largest + "x"))
    assert (failure.code, failure.reason) == (EXHAUSTED, "")
    assert "larger than max" in failure.message
    # A chunk of an upload, with what wraps it, fits.
    assert MAX_REQUEST_BYTES > 1024 * 1024 + 1024


async def test_too_much_metadata_is_refused_by_grpc(board: Board) -> None:
    key = await board.machine("testbed")
    for size, fits in ((MAX_METADATA_BYTES - 1024, True), (MAX_METADATA_BYTES, False)):
        stubs = Stubs(board.channel, (("x-agent-api-key", key), ("x-other", "x" * size)))
        call = stubs.boards.GetBoard(board_service_pb2.GetBoardRequest())
        if fits:
            await call
        else:
            failure = await failure_of(call)
            assert (failure.code, failure.reason) == (EXHAUSTED, "")


# --- Streams --------------------------------------------------------------------------------------


async def opened(stack: AsyncExitStack, watch: Watch[Any]) -> Watch[Any]:
    await stack.enter_async_context(watch)
    await watch.until_live()
    return watch


async def test_an_agent_has_so_many_streams_open_and_no_more(serve: Serve) -> None:
    async with serve(agent_stream_limit=3) as board, AsyncExitStack() as stack:
        ada, bob = await board.agents("ada", "bob")
        watches = [await opened(stack, ada.watch_messages()) for _ in range(2)]
        watches.append(await opened(stack, ada.watch_mentions()))
        for refused in (ada.watch_messages(), ada.watch_mentions()):
            with pytest.raises(Failure) as failure:
                await refused.next()
            assert (failure.value.code, failure.value.reason) == (EXHAUSTED, "STREAM_LIMIT_REACHED")
            assert failure.value.metadata == {"limit": "3"}
            # It does not pass by itself.
            assert failure.value.retry is None
        await opened(stack, bob.watch_messages())

        await watches[0].__aexit__(None, None, None)
        await until_opened(stack, ada)


async def test_a_worker_has_so_many_streams_open_and_no_more(serve: Serve) -> None:
    async with serve(stream_limit=2) as board, AsyncExitStack() as stack:
        ada, bob, cyd = await board.agents("ada", "bob", "cyd")
        first = await opened(stack, ada.watch_messages())
        await opened(stack, bob.watch_messages())
        with pytest.raises(Failure) as failure:
            await cyd.watch_mentions().next()
        assert (failure.value.code, failure.value.reason) == (EXHAUSTED, "SERVER_STREAM_LIMIT_REACHED")
        assert failure.value.metadata == {"limit": "2"}
        assert delay_of(failure.value) > 0

        await first.__aexit__(None, None, None)
        await until_opened(stack, cyd)


async def until_opened(stack: AsyncExitStack, agent: Agent) -> None:
    """Opens a stream as soon as the server has noticed that another was closed."""
    async with asyncio.timeout(10):
        while True:
            try:
                await opened(stack, agent.watch_messages())
            except Failure as failure:
                if not failure.reason.endswith("STREAM_LIMIT_REACHED"):
                    raise
            else:
                return
