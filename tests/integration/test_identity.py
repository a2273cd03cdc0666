"""Keys and names: who may speak as whom, and how fast that ends."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from agentchat_db.database import Database
from agentchat_proto.v1 import admin_service_pb2 as admin
from agentchat_proto.v1 import agent_service_pb2, channel_service_pb2
from agentchat_server.authentication_limits import AuthenticationLimits
from agentchat_server.identity import Authenticator
from agentchat_server.settings import ServerSettings
from tests.board import Agent, Board, Failure, Stubs
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

WHO = agent_service_pb2.GetCurrentAgentRequest()


async def refusal(call: Awaitable[Any]) -> Failure:
    with pytest.raises(Failure) as failure:
        await call
    return failure.value


async def test_a_machine_key_makes_agents_on_first_use_and_they_join(board: Board) -> None:
    laptop = await board.machine("laptop")
    who = (await board.agent(laptop, "laptop-myproject").agents.GetCurrentAgent(WHO)).agent
    assert (who.name, who.machine, who.active, who.online) == ("laptop-myproject", "laptop", True, True)
    again = (await board.agent(laptop, "laptop-myproject").agents.GetCurrentAgent(WHO)).agent
    assert again.id == who.id
    channels = await board.agent(laptop, "laptop-myproject").channels.ListChannels(
        channel_service_pb2.ListChannelsRequest()
    )
    assert [c.name for c in channels.channels] == ["direct-messages", "general", "global"]
    own = (await board.agent(laptop).agents.GetCurrentAgent(WHO)).agent
    assert own.name == "laptop"


async def test_a_new_board_starts_with_five_channels(board: Board) -> None:
    (ada,) = await board.agents("ada")
    listed = await ada.channels.ListChannels(channel_service_pb2.ListChannelsRequest(include_not_joined=True))
    assert [channel.name for channel in listed.channels] == [
        "direct-messages",
        "general",
        "global",
        "project-agentchat",
        "tech-typescript",
    ]


async def test_another_machines_key_cannot_use_a_name(board: Board) -> None:
    laptop, server = await board.machine("laptop"), await board.machine("server")
    await board.agent(laptop, "shared-name").agents.GetCurrentAgent(WHO)
    failure = await refusal(board.agent(server, "shared-name").agents.GetCurrentAgent(WHO))
    assert (failure.code, failure.reason) == (StatusCode.PERMISSION_DENIED, "AGENT_NAME_TAKEN")
    assert failure.metadata == {"agent": "shared-name"}


async def test_nobody_squats_the_names_of_a_machine(board: Board) -> None:
    laptop, server, long = [await board.machine(name) for name in ("laptop", "server", "server-gpu")]
    for key, name, owner in [
        (laptop, "server", "server"),
        (laptop, "server-x", "server"),
        (server, "server-gpu", "server-gpu"),
        (server, "server-gpu-train", "server-gpu"),
        (long, "server-x", "server"),
    ]:
        failure = await refusal(board.agent(key, name).agents.GetCurrentAgent(WHO))
        assert (failure.code, failure.reason) == (StatusCode.PERMISSION_DENIED, "AGENT_NAME_RESERVED")
        assert failure.metadata == {"agent": name, "machine": owner}
    await board.agent(laptop, "serverless").agents.GetCurrentAgent(WHO)
    await board.agent(server, "server-x").agents.GetCurrentAgent(WHO)
    await board.agent(long, "server-gpu-train").agents.GetCurrentAgent(WHO)
    # Still reserved when all keys of the machine are revoked.
    await board.admin.RevokeMachineKey(admin.RevokeMachineKeyRequest(machine="server"))
    failure = await refusal(board.agent(laptop, "server-y").agents.GetCurrentAgent(WHO))
    assert failure.reason == "AGENT_NAME_RESERVED"


@pytest.mark.parametrize("name", ["", "x", "UPPER", "-a", "under_score", "a" * 101, "two words"])
async def test_a_name_that_can_be_no_name_is_refused(board: Board, name: str) -> None:
    failure = await refusal(board.agent(await board.machine("laptop"), name).agents.GetCurrentAgent(WHO))
    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "AGENT_NAME_INVALID")


async def test_calls_without_a_good_key_are_refused(board: Board) -> None:
    for metadata, reason in [
        ((), "API_KEY_MISSING"),
        ((("x-agent-name", "ada"),), "API_KEY_MISSING"),
        ((("x-agent-api-key", "ack_wrong"),), "API_KEY_INVALID"),
        ((("x-agent-api-key", "x" * 600),), "API_KEY_INVALID"),
        ((("x-agent-api-key", board.admin_key),), "API_KEY_INVALID"),
    ]:
        failure = await refusal(Stubs(board.channel, metadata).agents.GetCurrentAgent(WHO))
        assert (failure.code, failure.reason) == (StatusCode.UNAUTHENTICATED, reason)


async def test_an_agents_own_key_speaks_for_that_agent_only(board: Board) -> None:
    made = await board.admin.CreateAgentKey(admin.CreateAgentKeyRequest(agent="old-timer"))
    assert made.key.startswith("aak_")
    assert (await board.agent(made.key).agents.GetCurrentAgent(WHO)).agent.name == "old-timer"
    assert (await board.agent(made.key, "old-timer").agents.GetCurrentAgent(WHO)).agent.machine == ""
    failure = await refusal(board.agent(made.key, "other").agents.GetCurrentAgent(WHO))
    assert (failure.code, failure.reason) == (StatusCode.PERMISSION_DENIED, "AGENT_KEY_MISMATCH")
    laptop = await board.machine("laptop")
    failure = await refusal(board.agent(laptop, "old-timer").agents.GetCurrentAgent(WHO))
    assert failure.reason == "AGENT_NAME_TAKEN"
    renewed = await board.admin.CreateAgentKey(admin.CreateAgentKeyRequest(agent="old-timer"))
    assert (await refusal(_until_refused(board.agent(made.key)))).reason == "API_KEY_INVALID"
    sent = await board.agent(renewed.key).send("general", "hello")
    assert sent.message.author_name == "old-timer"
    await board.agent(laptop, "laptop-x").agents.GetCurrentAgent(WHO)
    failure = await refusal(board.admin.CreateAgentKey(admin.CreateAgentKeyRequest(agent="laptop-x")))
    assert failure.reason == "AGENT_NAME_TAKEN"


async def test_a_machine_has_at_most_200_agents(board: Board) -> None:
    key = await board.machine("farm")
    await asyncio.gather(
        *(board.agent(key, f"farm-{number}").agents.GetCurrentAgent(WHO) for number in range(200))
    )
    failure = await refusal(board.agent(key, "farm-200").agents.GetCurrentAgent(WHO))
    assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "AGENT_LIMIT_REACHED")
    await board.admin.RemoveAgent(admin.RemoveAgentRequest(agent="farm-7"))
    await board.agent(key, "farm-200").agents.GetCurrentAgent(WHO)
    # One that was removed counts when it comes back.
    failure = await refusal(board.agent(key, "farm-7").agents.GetCurrentAgent(WHO))
    assert failure.reason == "AGENT_LIMIT_REACHED"
    await board.agent(key, "farm-8").agents.GetCurrentAgent(WHO)


async def test_when_an_agent_was_seen_is_noted_at_most_every_30_seconds(
    database_url: str, owner_url: str
) -> None:
    async with Board.serve(database_url, owner_url, identity_cache_time=0.0) as board:
        (ada,) = await board.agents("ada")

        async def seen() -> object:
            return (await ada.agents.GetCurrentAgent(WHO)).agent.last_seen_at

        first = await seen()
        assert await seen() == first
        async with board.sql() as connection:
            await connection.execute(
                "update agentchat.agents set last_seen_at = now() - interval '31 seconds'"
            )
        later = await seen()
        assert later != first
        assert await seen() == later


async def _until_refused(agent: Agent) -> None:
    """Calls until a call is refused; fails when that takes more than a second."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        await agent.agents.GetCurrentAgent(WHO)
        await asyncio.sleep(0.01)


async def _revoke(board: Board) -> None:
    await board.admin.RevokeMachineKey(admin.RevokeMachineKeyRequest(machine="testbed"))


async def _rotate(board: Board) -> None:
    await board.admin.RotateMachineKey(
        admin.RotateMachineKeyRequest(machine="testbed", grace_period=Duration(nanos=200_000_000))
    )


async def _deactivate(board: Board) -> None:
    await board.admin.DeactivateAgent(admin.DeactivateAgentRequest(agent="ada"))


async def _remove(board: Board) -> None:
    await board.admin.RemoveAgent(admin.RemoveAgentRequest(agent="ada"))
    await board.admin.RevokeMachineKey(admin.RevokeMachineKeyRequest(machine="testbed"))


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (_revoke, StatusCode.UNAUTHENTICATED, "API_KEY_INVALID"),
        (_rotate, StatusCode.UNAUTHENTICATED, "API_KEY_INVALID"),
        (_deactivate, StatusCode.PERMISSION_DENIED, "AGENT_DEACTIVATED"),
        (_remove, StatusCode.UNAUTHENTICATED, "API_KEY_INVALID"),
    ],
)
async def test_losing_the_right_ends_calls_and_streams_within_a_second_on_every_worker(
    board: Board,
    database_url: str,
    owner_url: str,
    change: Callable[[Board], Awaitable[None]],
    code: StatusCode,
    reason: str,
) -> None:
    async with Board.serve(database_url, owner_url) as other_worker:
        (ada,) = await board.agents("ada")
        same_ada = other_worker.agent(ada.key, "ada")
        await same_ada.agents.GetCurrentAgent(WHO)
        async with (
            ada.watch_messages() as here,
            same_ada.watch_messages() as there,
            ada.watch_mentions() as inbox,
        ):
            for watch in (here, there, inbox):
                await watch.until_live()
            await change(board)
            started = time.monotonic()
            for watch in (here, there, inbox):
                failure = await refusal(watch.next())
                assert (failure.code, failure.reason) == (code, reason)
            for agent in (ada, same_ada):
                assert (await refusal(_until_refused(agent))).reason == reason
                assert (await refusal(agent.send("general", "still here"))).reason == reason
            assert time.monotonic() - started < 1.0


async def test_a_rotated_key_works_beside_the_new_one_until_its_time_is_over(board: Board) -> None:
    old = await board.machine("laptop")
    rotated = await board.admin.RotateMachineKey(admin.RotateMachineKeyRequest(machine="laptop"))
    grace = rotated.old_keys_expire_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < grace < timedelta(hours=24, seconds=1)
    for key in (old, rotated.key):
        await board.agent(key, "laptop-x").send("general", "hello")
    failure = await refusal(board.admin.RotateMachineKey(admin.RotateMachineKeyRequest(machine="nowhere")))
    assert (failure.code, failure.reason) == (StatusCode.NOT_FOUND, "MACHINE_NOT_FOUND")


async def test_a_key_with_an_expiry_stops_at_its_time(board: Board) -> None:
    past = Timestamp()
    past.FromDatetime(datetime.now(UTC) - timedelta(seconds=1))
    failure = await refusal(
        board.admin.CreateMachineKey(admin.CreateMachineKeyRequest(machine="brief", expires_at=past))
    )
    assert failure.fields == ["expires_at"]
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.5))
    made = await board.admin.CreateMachineKey(admin.CreateMachineKeyRequest(machine="brief", expires_at=soon))
    agent = board.agent(made.key)
    async with agent.watch_messages() as watch:
        await watch.until_live()
        assert (await refusal(watch.next())).reason == "API_KEY_INVALID"
    assert (await refusal(agent.agents.GetCurrentAgent(WHO))).reason == "API_KEY_INVALID"


async def test_an_activated_agent_may_call_again(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await _deactivate(board)
    assert (await refusal(_until_refused(ada))).reason == "AGENT_DEACTIVATED"
    restored = await board.admin.ActivateAgent(admin.ActivateAgentRequest(agent="ada"))
    assert restored.agent.active
    await ada.send("general", "back")


async def test_a_removed_agent_is_forgotten_but_its_messages_stay(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("general", "@bob remember me")
    await bob.send("general", "@ada hello")
    await board.admin.RemoveAgent(admin.RemoveAgentRequest(agent="ada"))
    names = [a.name for a in (await bob.agents.ListAgents(agent_service_pb2.ListAgentsRequest())).agents]
    assert names == ["bob"]
    assert (await bob.send("general", "@ada?")).unknown_mentions == ["ada"]
    assert (await bob.read("general")).messages[0].author_name == "ada"
    failure = await refusal(board.admin.RemoveAgent(admin.RemoveAgentRequest(agent="ada")))
    assert failure.reason == "AGENT_NOT_FOUND"
    await asyncio.sleep(0)
    # Its machine may begin again under the name, with nothing of before.
    fresh = board.agent(ada.key, "ada")
    assert (await fresh.unread_mentions()).unread_count == 0
    laptop = await board.machine("laptop")
    assert (
        await refusal(board.agent(laptop, "ada").agents.GetCurrentAgent(WHO))
    ).reason == "AGENT_NAME_TAKEN"


async def test_administration_needs_the_admin_key(board: Board) -> None:
    laptop = await board.machine("laptop")
    calls: list[tuple[str, Any]] = [
        ("CreateMachineKey", admin.CreateMachineKeyRequest(machine="evil")),
        ("RotateMachineKey", admin.RotateMachineKeyRequest(machine="laptop")),
        ("RevokeMachineKey", admin.RevokeMachineKeyRequest(machine="laptop")),
        ("ListMachineKeys", admin.ListMachineKeysRequest()),
        ("CreateAgentKey", admin.CreateAgentKeyRequest(agent="evil")),
        ("ActivateAgent", admin.ActivateAgentRequest(agent="laptop")),
        ("DeactivateAgent", admin.DeactivateAgentRequest(agent="laptop")),
        ("RemoveAgent", admin.RemoveAgentRequest(agent="laptop")),
        ("ArchiveChannel", admin.ArchiveChannelRequest(channel="general")),
        ("UnarchiveChannel", admin.UnarchiveChannelRequest(channel="general")),
    ]
    assert {name for name, _ in calls} == set(
        admin.DESCRIPTOR.services_by_name["AdminService"].methods_by_name
    )
    for metadata, reason in [
        ((), "ADMIN_KEY_MISSING"),
        ((("x-agent-api-key", laptop),), "ADMIN_KEY_MISSING"),
        ((("x-admin-key", laptop),), "ADMIN_KEY_INVALID"),
        ((("x-admin-key", "aca_wrong"),), "ADMIN_KEY_INVALID"),
    ]:
        stubs = Stubs(board.channel, metadata)
        for name, request in calls:
            failure = await refusal(getattr(stubs.admin, name)(request))
            assert (failure.code, failure.reason) == (StatusCode.UNAUTHENTICATED, reason), name


async def test_machine_keys_are_listed_in_pages_and_revoked_one_by_one(board: Board) -> None:
    for machine in ("beta", "alpha", "beta", "gamma", "beta"):
        await board.machine(machine)
    seen, token = [], ""
    while True:
        page = await board.admin.ListMachineKeys(admin.ListMachineKeysRequest(page_size=2, page_token=token))
        seen += page.machine_keys
        token = page.next_page_token
        if not token:
            break
    assert [key.machine for key in seen] == ["alpha", "beta", "beta", "beta", "gamma"]
    betas = [key.created_at.ToNanoseconds() for key in seen[1:4]]
    assert betas == sorted(betas, reverse=True)
    one = admin.RevokeMachineKeyRequest(key_id=seen[2].id)
    assert (await board.admin.RevokeMachineKey(one)).revoked_count == 1
    assert (await board.admin.RevokeMachineKey(one)).revoked_count == 0
    rest = await board.admin.RevokeMachineKey(admin.RevokeMachineKeyRequest(machine="beta"))
    assert rest.revoked_count == 2
    for request, reason in [
        (admin.RevokeMachineKeyRequest(), "FIELD_INVALID"),
        (admin.RevokeMachineKeyRequest(machine="nowhere"), "MACHINE_NOT_FOUND"),
        (
            admin.RevokeMachineKeyRequest(key_id="00000000-0000-0000-0000-000000000000"),
            "MACHINE_KEY_NOT_FOUND",
        ),
    ]:
        assert (await refusal(board.admin.RevokeMachineKey(request))).reason == reason


async def test_an_agent_says_what_it_is_and_can_do(board: Board) -> None:
    (ada,) = await board.agents("ada")
    register = agent_service_pb2.RegisterAgentRequest
    capabilities = agent_service_pb2.Capabilities
    said = (
        await ada.agents.RegisterAgent(
            register(description="Builds", capabilities=capabilities(names=["gpu", "docker", "gpu"]))
        )
    ).agent
    assert (said.description, list(said.capabilities)) == ("Builds", ["docker", "gpu"])
    said = (await ada.agents.RegisterAgent(register(capabilities=capabilities()))).agent
    assert (said.description, list(said.capabilities)) == ("Builds", [])
    for request, field in [
        (register(description="x" * 501), "description"),
        (register(description="\x00"), "description"),
        (register(capabilities=capabilities(names=["x" * 65])), "capabilities.names"),
        (register(capabilities=capabilities(names=[""])), "capabilities.names"),
        (register(capabilities=capabilities(names=[str(n) for n in range(33)])), "capabilities.names"),
    ]:
        assert (await refusal(ada.agents.RegisterAgent(request))).fields == [field]


async def test_agents_are_listed_by_name_and_filtered(board: Board) -> None:
    (ada, *_) = await board.agents("ada", "bob", "carl", "dora")
    await board.admin.DeactivateAgent(admin.DeactivateAgentRequest(agent="carl"))
    async with board.sql() as owner:
        await owner.execute(
            "update agentchat.agents set last_seen_at = now() - interval '121 seconds' where name = 'dora'"
        )

    async def names(**fields: Any) -> list[str]:
        request = agent_service_pb2.ListAgentsRequest(**fields)
        return [agent.name for agent in (await ada.agents.ListAgents(request)).agents]

    assert await names() == ["ada", "bob", "carl", "dora"]
    assert await names(active=True) == ["ada", "bob", "dora"]
    assert await names(active=False) == ["carl"]
    assert await names(online=False) == ["dora"]
    page = await ada.agents.ListAgents(agent_service_pb2.ListAgentsRequest(page_size=3))
    assert await names(page_size=3, page_token=page.next_page_token) == ["dora"]


async def test_a_key_that_is_refused_when_its_caller_has_gone_is_no_error(database_url: str) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    database = Database(database_url)
    await database.open()
    try:
        settings = ServerSettings(database_url=database_url)
        authenticator = Authenticator(database, AuthenticationLimits(settings), cache_time=1.0)
        calling = asyncio.create_task(
            authenticator.authenticate("ack_wrong", None, lambda: "ipv4:127.0.0.1:1")
        )
        await asyncio.sleep(0)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        (lookup,) = authenticator._lookups.values()
        await asyncio.wait([lookup])
        # What nobody took note of is reported when the task goes.
        del calling, lookup
        await asyncio.sleep(0)
        gc.collect()
    finally:
        await database.close()
    assert errors == []
