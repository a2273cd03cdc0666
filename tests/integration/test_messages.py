"""Posting and reading, through the server."""

from __future__ import annotations

import asyncio
import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from agentchat_proto.v1 import admin_service_pb2, channel_pb2, message_service_pb2
from agentchat_proto.v1.channel_service_pb2 import GetChannelRequest
from agentchat_proto.v1.search_service_pb2 import SearchMessagesRequest
from tests.board import Agent, Board, Failure, as_struct
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

FORWARD = message_service_pb2.PAGE_DIRECTION_FORWARD


async def test_a_message_comes_back_as_it_was_written(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    content = "  two\nlines, ünïcode 🎉, \\escapes\\ and <b>tags</b>\t "
    sent = await ada.send("general", content, metadata={"project": "x", "n": 1, "deep": {"a": [True, None]}})
    (read,) = (await bob.read("general")).messages
    assert read == sent.message
    assert read.content == content
    assert read.author_name == "ada"
    assert dict(read.metadata)["n"] == 1
    assert (read.seq, read.ordinal, read.hops) == (1, 1, 0)
    assert not read.HasField("parent_message_id")
    assert not sent.replayed


async def test_posting_creates_a_channel_whose_type_follows_from_its_name(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for name, kind in [
        ("project-x", channel_pb2.CHANNEL_TYPE_PROJECT),
        ("tech-rust", channel_pb2.CHANNEL_TYPE_TECHNOLOGY),
        ("env-prod", channel_pb2.CHANNEL_TYPE_ENVIRONMENT),
        ("lounge", channel_pb2.CHANNEL_TYPE_GLOBAL),
        ("projects", channel_pb2.CHANNEL_TYPE_GLOBAL),
    ]:
        await ada.send(name, "hello")
        channel = (await ada.channels.GetChannel(GetChannelRequest(channel=name))).channel
        assert channel.type == kind
        assert channel.role == channel_pb2.MEMBERSHIP_ROLE_ADMIN
        assert channel.message_count == 1
        assert channel.unread_count == 0


async def test_an_agent_creates_at_most_20_channels(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(20):
        await ada.send(f"lounge-{number}", "hello")
    with pytest.raises(Failure) as failure:
        await ada.send("lounge-20", "one too many")
    assert failure.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert failure.value.reason == "CHANNEL_LIMIT_REACHED"
    assert failure.value.metadata == {"limit": "20"}
    await ada.send("lounge-3", "an old one still takes posts")
    await bob.send("lounge-20", "somebody else may")


def nested(levels: int, *, lists: bool = False) -> Struct:
    """Metadata that nests objects, or lists in one object, so many levels deep."""
    value: dict[str, Any] = {}
    inner: Any = value
    for _ in range(levels - 1):
        step: Any = [] if lists else {}
        inner.append(step) if isinstance(inner, list) else inner.update(a=step)
        inner = step
    return as_struct(value)


@pytest.mark.parametrize("lists", [False, True])
async def test_the_deepest_metadata_comes_back_through_every_call(board: Board, lists: bool) -> None:
    (ada,) = await board.agents("ada")
    deepest = nested(16, lists=lists)
    async with ada.watch_messages() as watch:
        await watch.until_live()
        sent = await ada.messages.SendMessage(
            message_service_pb2.SendMessageRequest(channel="general", content="needle", metadata=deepest)
        )
        received = await watch.next_event()
    request = SearchMessagesRequest(query="needle")
    (result,) = (await ada.search.SearchMessages(request)).results
    (read,) = (await ada.read("general")).messages
    for message in (sent.message, received.message_posted.message, result.message, read):
        assert message.metadata == deepest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channel", ""),
        ("channel", "x"),
        ("channel", "-leading"),
        ("channel", "Upper"),
        ("channel", "under_score"),
        ("channel", "a" * 101),
        ("channel", "new\nline"),
        ("channel", "nul\x00"),
        ("content", ""),
        ("content", " \n\t "),
        ("content", "x" * 32_001),
        ("content", "nul \x00 inside"),
        ("parent_message_id", "not-a-uuid"),
        ("parent_message_id", ""),
        ("request_id", "1234"),
        ("metadata", as_struct({"n": math.nan})),
        ("metadata", as_struct({"n": math.inf})),
        ("metadata", as_struct({"long": "x" * 4096})),
        ("metadata", as_struct({"wide": [1e300] * 500})),
        ("metadata", as_struct({"narrow": [1e-300] * 500})),
        ("metadata", nested(17)),
        ("metadata", nested(17, lists=True)),
        ("metadata", as_struct({"nul": "\x00"})),
        ("metadata", as_struct({"nul \x00": 1})),
    ],
)
async def test_a_bad_field_is_refused_by_name_and_writes_nothing(
    board: Board, field: str, value: object
) -> None:
    (ada,) = await board.agents("ada")
    request: dict[str, Any] = {"channel": "project-new", "content": "hello", field: value}
    with pytest.raises(Failure) as failure:
        await ada.messages.SendMessage(message_service_pb2.SendMessageRequest(**request))
    assert failure.value.code is StatusCode.INVALID_ARGUMENT
    assert failure.value.reason == "FIELD_INVALID"
    assert failure.value.fields == [field]
    with pytest.raises(Failure, match="no channel is named project-new"):
        await ada.read("project-new")


async def test_the_largest_content_and_metadata_fit(board: Board) -> None:
    (ada,) = await board.agents("ada")
    sent = await ada.send("general", "🎉" * 32_000, metadata={"text": "x" * 4_080})
    assert (await ada.read("general")).messages[0] == sent.message


async def test_replies_are_listed_oldest_first_in_pages(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    parent = (await ada.send("general", "question")).message
    replies = [
        (await bob.send("general", f"answer {number}", parent_message_id=parent.id)).message
        for number in range(5)
    ]
    await ada.send("general", "something else")
    seen, token = [], ""
    while True:
        page = await ada.messages.ListReplies(
            message_service_pb2.ListRepliesRequest(message_id=parent.id, page_size=2, page_token=token)
        )
        seen += page.replies
        token = page.next_page_token
        if not token:
            break
    assert seen == replies
    assert all(reply.parent_message_id == parent.id for reply in seen)


async def test_a_parent_must_be_in_the_same_channel(board: Board) -> None:
    (ada,) = await board.agents("ada")
    parent = (await ada.send("general", "here")).message
    for channel, parent_id in [
        ("global", parent.id),
        ("project-new", parent.id),
        ("general", str(uuid.uuid4())),
    ]:
        with pytest.raises(Failure) as failure:
            await ada.send(channel, "there", parent_message_id=parent_id)
        assert failure.value.code is StatusCode.NOT_FOUND
        assert failure.value.reason == "MESSAGE_NOT_FOUND"
        assert failure.value.metadata == {"message_id": parent_id}
    with pytest.raises(Failure, match="no channel is named"):
        await ada.read("project-new")


async def test_one_message_can_be_fetched_by_its_id(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    sent = (await ada.send("general", "find me")).message
    found = await bob.messages.GetMessage(message_service_pb2.GetMessageRequest(message_id=sent.id))
    assert found.message == sent
    with pytest.raises(Failure) as failure:
        await bob.messages.GetMessage(message_service_pb2.GetMessageRequest(message_id=str(uuid.uuid4())))
    assert failure.value.reason == "MESSAGE_NOT_FOUND"


async def test_pages_go_backward_and_forward_without_gap_or_overlap(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(23):
        await ada.send("general", f"message {number}")
        await ada.send("global", "between")
    for direction in (message_service_pb2.PAGE_DIRECTION_BACKWARD, FORWARD):
        pages, token = [], ""
        while True:
            page = await bob.read("general", page_size=5, page_token=token, direction=direction)
            pages.append([message.ordinal for message in page.messages])
            assert pages[-1] == sorted(pages[-1])
            token = page.next_page_token
            if not token:
                break
            await ada.send("project-noise", "more meanwhile")
        assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
        ordered = pages if direction == FORWARD else pages[::-1]
        assert [ordinal for page in ordered for ordinal in page] == list(range(1, 24))


async def test_a_page_size_out_of_range_and_a_foreign_token_are_refused(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for number in range(3):
        await ada.send("general", f"{number}")
        await ada.send("global", f"{number}")
    token = (await ada.read("general", page_size=1)).next_page_token
    for size in (-1, 201):
        with pytest.raises(Failure) as failure:
            await ada.read("general", page_size=size)
        assert failure.value.fields == ["page_size"]
    for fields in (
        {"channel": "global", "page_token": token},
        {"channel": "general", "page_token": token, "direction": FORWARD},
        {"channel": "general", "page_token": token[:-2]},
        {"channel": "general", "page_token": "ünïcode"},
        {"channel": "general", "page_token": "A" * 10_000},
    ):
        with pytest.raises(Failure) as failure:
            await ada.read(**fields)
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.reason == "PAGE_TOKEN_INVALID"


async def test_before_and_after_bound_a_page_by_time_exactly(board: Board) -> None:
    (ada,) = await board.agents("ada")
    sent = [(await ada.send("general", f"{number}")).message for number in range(10)]

    async def contents(**bounds: Timestamp) -> list[str]:
        return [message.content for message in (await ada.read("general", **bounds)).messages]

    assert await contents(before=sent[4].created_at) == ["0", "1", "2", "3"]
    assert await contents(after=sent[6].created_at) == ["7", "8", "9"]
    assert await contents(after=sent[2].created_at, before=sent[5].created_at) == ["3", "4"]
    assert await contents(before=sent[0].created_at) == []
    later = Timestamp(seconds=sent[1].created_at.seconds, nanos=sent[1].created_at.nanos + 500)
    assert await contents(before=later) == ["0", "1"]
    assert await contents(after=later, before=sent[3].created_at) == ["2"]
    assert await contents(after=sent[9].created_at) == []
    future = Timestamp()
    future.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    assert len(await contents(before=future)) == 10
    page = await ada.read("general", before=sent[8].created_at, page_size=3)
    assert [message.content for message in page.messages] == ["5", "6", "7"]
    page = await ada.read("general", before=sent[8].created_at, page_size=3, page_token=page.next_page_token)
    assert [message.content for message in page.messages] == ["2", "3", "4"]


async def test_a_page_of_large_messages_ends_below_the_limit_of_grpc(board: Board) -> None:
    (ada,) = await board.agents("ada")
    large = "🎉" * 32_000
    await asyncio.gather(*(ada.send("general", large) for _ in range(40)))
    ordinals: list[int] = []
    token = ""
    pages = 0
    while True:
        page = await ada.read("general", page_size=200, page_token=token)
        assert page.ByteSize() < 4 * 1024 * 1024
        ordinals = [message.ordinal for message in page.messages] + ordinals
        pages += 1
        token = page.next_page_token
        if not token:
            break
    assert ordinals == list(range(1, 41))
    assert pages == 2


async def test_a_page_of_numbers_in_metadata_ends_below_the_limit_of_grpc(board: Board) -> None:
    (ada,) = await board.agents("ada")
    numbers = {"a": [1] * 2030}
    await asyncio.gather(*(ada.send("general", "hello", metadata=numbers) for _ in range(200)))
    ordinals: set[int] = set()
    token = "first"
    while token:
        page = await ada.read("general", page_size=200, page_token=token.removeprefix("first"))
        assert page.ByteSize() < 4 * 1024 * 1024
        ordinals.update(message.ordinal for message in page.messages)
        token = page.next_page_token
    assert ordinals == set(range(1, 201))


async def unread(agent: Agent, channel: str) -> int:
    count: int = (await agent.channels.GetChannel(GetChannelRequest(channel=channel))).channel.unread_count
    return count


async def test_unread_counts_follow_posts_and_reads(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await bob.send("project-x", "old")
    await ada.read("project-x", peek=True)
    assert await unread(ada, "project-x") == 0  # not joined
    await ada.read("project-x")
    assert await unread(ada, "project-x") == 0
    for number in range(3):
        await bob.send("project-x", f"{number}")
    assert await unread(ada, "project-x") == 3
    assert await unread(bob, "project-x") == 0  # who posts when caught up stays caught up
    await ada.read("project-x", peek=True)
    await ada.read("project-x", direction=FORWARD)
    assert await unread(ada, "project-x") == 3
    await ada.send("project-x", "not caught up, so my own counts too")
    assert await unread(ada, "project-x") == 4
    assert await unread(bob, "project-x") == 1
    await ada.read("project-x", page_size=1)
    assert await unread(ada, "project-x") == 0


async def test_joining_starts_with_nothing_unread(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(5):
        await ada.send("project-x", f"{number}")
    await bob.send("project-x", "joins by posting")
    assert await unread(bob, "project-x") == 0
    (late,) = [board.agent(bob.key, "late")]
    await ada.send("general", "before late came")
    assert await unread(late, "general") == 0
    await ada.send("general", "after")
    assert await unread(late, "general") == 1


async def test_an_archived_channel_refuses_posts_but_replays_what_it_has(board: Board) -> None:
    (ada,) = await board.agents("ada")
    request_id = str(uuid.uuid4())
    first = await ada.send("project-x", "kept", request_id=request_id)
    await board.admin.ArchiveChannel(admin_service_pb2.ArchiveChannelRequest(channel="project-x"))
    with pytest.raises(Failure) as failure:
        await ada.send("project-x", "refused")
    assert failure.value.code is StatusCode.FAILED_PRECONDITION
    assert failure.value.reason == "CHANNEL_ARCHIVED"
    again = await ada.send("project-x", "kept", request_id=request_id)
    assert again.replayed
    assert again.message == first.message
    await board.admin.UnarchiveChannel(admin_service_pb2.UnarchiveChannelRequest(channel="project-x"))
    assert (await ada.send("project-x", "taken")).message.ordinal == 2


async def test_a_request_id_posts_once_and_refuses_other_content(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(
        *(
            ada.send("general", "once @bob @ghost", metadata={"a": 1}, request_id=request_id)
            for _ in range(20)
        )
    )
    assert len({answer.message.id for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 19
    assert all([one.name for one in answer.mentioned] == ["bob"] for answer in answers)
    assert all(answer.unknown_mentions == ["ghost"] for answer in answers)
    assert len((await bob.read("general")).messages) == 1

    for channel, content, metadata in [
        ("general", "twice", {"a": 1}),
        ("global", "once @bob @ghost", {"a": 1}),
        ("general", "once @bob @ghost", {"a": 2}),
        ("general", "once @bob @ghost", None),
    ]:
        with pytest.raises(Failure) as failure:
            await ada.send(channel, content, metadata=metadata, request_id=request_id)
        assert failure.value.code is StatusCode.ALREADY_EXISTS
        assert failure.value.reason == "REQUEST_ID_REUSED"
        assert failure.value.metadata == {"request_id": request_id}
    # Another author's ids are its own.
    assert not (await bob.send("general", "mine", request_id=request_id)).replayed
    assert len((await bob.read("general")).messages) == 2


async def test_the_same_request_id_at_once_with_other_content_posts_one_of_them(board: Board) -> None:
    (ada,) = await board.agents("ada")
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(
        *(ada.send("general", f"version {n}", request_id=request_id) for n in range(20)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, Failure)]
    assert len(refused) == 19
    assert {failure.reason for failure in refused} == {"REQUEST_ID_REUSED"}
    assert len((await ada.read("general")).messages) == 1


async def test_reading_a_channel_that_does_not_exist_is_not_found(board: Board) -> None:
    (ada,) = await board.agents("ada")
    with pytest.raises(Failure) as failure:
        await ada.read("project-nowhere")
    assert failure.value.code is StatusCode.NOT_FOUND
    assert failure.value.reason == "CHANNEL_NOT_FOUND"
    assert failure.value.metadata == {"channel": "project-nowhere"}
