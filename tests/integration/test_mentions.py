"""Whom a message mentions, the inbox, and direct messages."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from agentchat_proto.v1 import admin_service_pb2, mention_service_pb2
from agentchat_proto.v1.message_service_pb2 import SendMessageRequest
from tests.board import Agent, Board, Failure
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

# Content, whom it mentions, and which names are unknown. Agents: server, server-api, server-api-v2,
# gpu-box, ada (the author), and `sleepy`, which is deactivated.
CASES: list[tuple[str, list[str], list[str]]] = [
    ("@server hello", ["server"], []),
    ("hello @server", ["server"], []),
    ("hello @server.", ["server"], []),
    ("(@server), @gpu-box!", ["server", "gpu-box"], []),
    ("@SERVER and @Server-Api", ["server", "server-api"], []),
    ("@server @server @server", ["server"], []),
    ("@gpu-box then @server", ["gpu-box", "server"], []),
    # The longest known name wins, up to a hyphen.
    ("@server-api", ["server-api"], []),
    ("@server-api-v2", ["server-api-v2"], []),
    ("@server-api-v3", ["server-api"], []),
    ("@server-apix", ["server"], []),
    ("@serverx", [], ["serverx"]),
    # Hyphens and punctuation end a name.
    ("@server-", ["server"], []),
    ("@server-api--", ["server-api"], []),
    ("@server's", ["server"], []),
    ("@server/path", ["server"], []),
    ("@server\n@gpu-box", ["server", "gpu-box"], []),
    ("**@server** and _@gpu-box_", ["server", "gpu-box"], []),
    ("@server_api", [], []),
    ("@server-@gpu-box", ["server", "gpu-box"], []),
    ("@server,@gpu-box/@server-api", ["server", "gpu-box", "server-api"], []),
    ("__@server__-@gpu-box", ["server", "gpu-box"], []),
    # Not inside a word.
    ("ops@server.com", [], []),
    ("a@server", [], []),
    ("1@server", [], []),
    ("x_@server", [], []),
    ("@@server", [], []),
    ("@ server", [], []),
    ("@-server", [], []),
    ("请@server看", ["server"], []),
    ("…@server…", ["server"], []),
    # Oneself, nobody, and who is not active.
    ("@ada talks to herself", [], []),
    ("@nobody and @server and @ghost", ["server"], ["nobody", "ghost"]),
    ("@sleepy", [], ["sleepy"]),
    ("no names here", [], []),
    # Names are at most 100 characters.
    ("@" + "x" * 100, [], ["x" * 100]),
    ("@" + "x" * 3000, [], ["x" * 3000]),
    ("@server-" + "x" * 3000, ["server"], []),
]


@pytest.fixture
async def crowd(board: Board) -> list[Agent]:
    """ada, who writes, and those she may mention."""
    agents = await board.agents("ada", "server", "server-api", "server-api-v2", "gpu-box", "sleepy")
    await board.admin.DeactivateAgent(admin_service_pb2.DeactivateAgentRequest(agent="sleepy"))
    return agents


async def test_mentions_follow_the_rules(board: Board, crowd: list[Agent]) -> None:
    ada, *others = crowd
    for content, mentioned, unknown in CASES:
        sent = await ada.send("general", content)
        assert [one.name for one in sent.mentioned] == mentioned, content
        assert list(sent.unknown_mentions) == unknown, content
        # What the author is told is what the agents get.
        for agent in others:
            if agent.name != "sleepy":
                inbox = await agent.unread_mentions(page_size=100)
                got = sent.message.id in [mention.message_id for mention in inbox.mentions]
                assert got == (agent.name in mentioned), (content, agent.name)


async def test_a_mention_tells_who_wants_what_where(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    parent = (await bob.send("project-x", "question")).message
    sent = await ada.send(
        "project-x", "@bob done", metadata={"project": "myproject"}, parent_message_id=parent.id
    )
    (mention,) = (await bob.unread_mentions()).mentions
    assert mention.message_id == sent.message.id
    assert mention.channel_name == "project-x"
    assert mention.from_agent_name == "ada"
    assert mention.from_project == "myproject"
    assert mention.content == "@bob done"
    assert mention.parent_message_id == parent.id
    assert mention.created_at == sent.message.created_at
    assert not mention.HasField("read_at")
    assert not (await ada.unread_mentions()).mentions


async def test_at_most_50_names_of_a_message_are_mentioned(board: Board) -> None:
    names = [f"agent-{number:02}" for number in range(60)]
    (ada, *_) = await board.agents("ada", *names)
    sent = await ada.send("general", " ".join(f"@{name}" for name in names))
    assert [one.name for one in sent.mentioned] == names[:50]


async def test_mentions_are_marked_read_once_and_only_by_their_agent(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(3):
        await ada.send("general", f"@bob {number}")
    ids = [mention.id for mention in (await bob.unread_mentions()).mentions]

    async def mark(agent: Agent, *mention_ids: str) -> int:
        response = await agent.mentions.MarkMentionsRead(
            mention_service_pb2.MarkMentionsReadRequest(mention_ids=mention_ids)
        )
        count: int = response.marked_read_count
        return count

    assert await mark(ada, *ids) == 0
    assert await mark(bob, ids[0], ids[0], ids[1]) == 2
    assert await mark(bob, *ids) == 1
    left = await bob.unread_mentions()
    assert not left.mentions
    assert left.unread_count == 0
    for bad in ([], ["nonsense"], [ids[0]] * 101):
        with pytest.raises(Failure) as failure:
            await mark(bob, *bad)
        assert failure.value.fields == ["mention_ids"]


async def test_unread_mentions_are_a_queue_and_all_of_them_a_history(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(7):
        await ada.send("general", f"@bob {number}")
    for unread_only, order in [(True, range(7)), (False, range(6, -1, -1))]:
        seen, token = [], ""
        while True:
            page = await bob.mentions.ListMentions(
                mention_service_pb2.ListMentionsRequest(
                    unread_only=unread_only, page_size=3, page_token=token
                )
            )
            assert page.unread_count == 7
            seen += [mention.content for mention in page.mentions]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"@bob {number}" for number in order]


async def test_a_direct_message_is_public_and_starts_with_its_target(board: Board) -> None:
    ada, bob, eve = await board.agents("ada", "bob", "eve")
    for target, content, stored in [
        ("bob", "hello", "@bob hello"),
        ("@Bob", "hello", "@bob hello"),
        ("bob", "@bob, hello", "@bob, hello"),
        ("bob", "@BOB hello", "@BOB hello"),
        ("bob", "@bobby hello", "@bob @bobby hello"),
        ("bob", "x" * 32_000, "@bob " + "x" * 32_000),
    ]:
        sent = await ada.direct(target, content)
        assert sent.message.content == stored
        assert sent.message.channel_name == "direct-messages"
        assert sent.mentioned[0].name == "bob"
    assert len((await eve.read("direct-messages")).messages) == 6
    assert (await bob.unread_mentions()).unread_count == 6


async def test_a_direct_message_to_nobody_is_refused_and_writes_nothing(board: Board) -> None:
    ada, _ = await board.agents("ada", "sleepy")
    await board.admin.DeactivateAgent(admin_service_pb2.DeactivateAgentRequest(agent="sleepy"))
    for target, code, reason in [
        ("ghost", StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        ("sleepy", StatusCode.FAILED_PRECONDITION, "AGENT_DEACTIVATED"),
        ("ada", StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        ("", StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        ("no such name", StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    ]:
        with pytest.raises(Failure) as failure:
            await ada.direct(target, "hello")
        assert (failure.value.code, failure.value.reason) == (code, reason)
    assert not (await ada.read("direct-messages")).messages


async def test_mentions_in_a_hostile_text_cost_little(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for content in (
        "@" * 32_000,
        "@a-" * 10_000,
        "@" + "a-" * 15_000,
        "@bob " * 6_000,
        "_" * 31_990 + "@bob",
    ):
        request = SendMessageRequest(channel="general", content=content)
        await ada.messages.SendMessage(request, timeout=5)
    assert (await bob.unread_mentions()).unread_count == 2
