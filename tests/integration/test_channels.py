"""Channels, membership and the board, through the server."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode

from agentchat_proto.v1 import admin_service_pb2, board_service_pb2, channel_pb2
from agentchat_proto.v1 import channel_service_pb2 as pb
from tests.board import Agent, Board, Failure
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

FIRST = ["direct-messages", "general", "global"]
SEEDED = ["direct-messages", "general", "global", "project-agentchat", "tech-typescript"]
NOBODY = channel_pb2.MEMBERSHIP_ROLE_UNSPECIFIED
MEMBER = channel_pb2.MEMBERSHIP_ROLE_MEMBER
ADMIN = channel_pb2.MEMBERSHIP_ROLE_ADMIN


async def listed(agent: Agent, **fields: Any) -> list[str]:
    """The names on a page of channels."""
    response = await agent.channels.ListChannels(pb.ListChannelsRequest(**fields))
    return [channel.name for channel in response.channels]


async def get(agent: Agent, name: str) -> channel_pb2.Channel:
    channel: channel_pb2.Channel = (
        await agent.channels.GetChannel(pb.GetChannelRequest(channel=name))
    ).channel
    return channel


async def join(agent: Agent, name: str) -> channel_pb2.Channel:
    channel: channel_pb2.Channel = (
        await agent.channels.JoinChannel(pb.JoinChannelRequest(channel=name))
    ).channel
    return channel


async def leave(agent: Agent, name: str) -> channel_pb2.Channel:
    channel: channel_pb2.Channel = (
        await agent.channels.LeaveChannel(pb.LeaveChannelRequest(channel=name))
    ).channel
    return channel


async def update(agent: Agent, name: str, **fields: Any) -> channel_pb2.Channel:
    channel: channel_pb2.Channel = (
        await agent.channels.UpdateChannel(pb.UpdateChannelRequest(channel=name, **fields))
    ).channel
    return channel


async def mark_read(agent: Agent, name: str, **fields: Any) -> channel_pb2.Channel:
    channel: channel_pb2.Channel = (
        await agent.channels.MarkChannelRead(pb.MarkChannelReadRequest(channel=name, **fields))
    ).channel
    return channel


async def get_board(agent: Agent) -> board_service_pb2.GetBoardResponse:
    response: board_service_pb2.GetBoardResponse = await agent.boards.GetBoard(
        board_service_pb2.GetBoardRequest()
    )
    return response


async def test_the_list_has_the_joined_channels_or_all_sorted_by_name(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await bob.send("project-zeta", "hello")
    await bob.send("env-prod", "hello")
    assert await listed(ada) == FIRST
    assert await listed(bob) == sorted([*FIRST, "project-zeta", "env-prod"])
    assert await listed(ada, include_not_joined=True) == sorted([*SEEDED, "project-zeta", "env-prod"])


async def test_the_list_tells_role_and_unread_count_of_the_caller(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await join(bob, "tech-typescript")
    await ada.send("tech-typescript", "one")
    await ada.send("project-x", "one")
    response = await bob.channels.ListChannels(pb.ListChannelsRequest(include_not_joined=True))
    found = {channel.name: (channel.role, channel.unread_count) for channel in response.channels}
    assert found["tech-typescript"] == (MEMBER, 1)
    assert found["project-x"] == (NOBODY, 0)
    assert (await get(ada, "project-x")).role == ADMIN


async def test_the_list_can_be_of_one_type(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("env-prod", "hello")
    for channel_type, expected in [
        (channel_pb2.CHANNEL_TYPE_UNSPECIFIED, sorted([*SEEDED, "env-prod"])),
        (channel_pb2.CHANNEL_TYPE_GLOBAL, FIRST),
        (channel_pb2.CHANNEL_TYPE_PROJECT, ["project-agentchat"]),
        (channel_pb2.CHANNEL_TYPE_TECHNOLOGY, ["tech-typescript"]),
        (channel_pb2.CHANNEL_TYPE_ENVIRONMENT, ["env-prod"]),
    ]:
        assert await listed(ada, type=channel_type, include_not_joined=True) == expected
    assert await listed(ada, type=channel_pb2.CHANNEL_TYPE_PROJECT) == []


async def test_a_type_that_nobody_knows_is_refused(board: Board) -> None:
    (ada,) = await board.agents("ada")
    request = pb.ListChannelsRequest.FromString(b"\x08\x63")  # type = 99
    with pytest.raises(Failure) as failure:
        await ada.channels.ListChannels(request)
    assert failure.value.code is StatusCode.INVALID_ARGUMENT
    assert failure.value.fields == ["type"]


async def test_pages_of_the_list_stay_where_they_are_while_channels_appear(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for number in range(5):
        await ada.send(f"project-{number}", "hello")
    names: list[str] = []
    token, pages = "", 0
    while True:
        response = await ada.channels.ListChannels(pb.ListChannelsRequest(page_size=3, page_token=token))
        assert len(response.channels) <= 3
        names += [channel.name for channel in response.channels]
        pages += 1
        token = response.next_page_token
        if not token:
            break
        # In a page that is read already, and in one to come.
        await ada.send(f"aa-early-{pages}", "hello")
        await ada.send("zz-late", "hello")
    assert names == [*FIRST, *(f"project-{n}" for n in range(5)), "zz-late"]


async def test_a_page_that_holds_exactly_all_channels_is_the_last(board: Board) -> None:
    (ada,) = await board.agents("ada")
    response = await ada.channels.ListChannels(pb.ListChannelsRequest(page_size=len(FIRST)))
    assert [channel.name for channel in response.channels] == FIRST
    assert response.next_page_token == ""


async def test_the_list_refuses_sizes_out_of_range_and_tokens_of_other_lists(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for size in (-1, 201):
        with pytest.raises(Failure) as failure:
            await listed(ada, page_size=size)
        assert failure.value.fields == ["page_size"]
    assert await listed(ada, page_size=200) == FIRST
    token = (await ada.channels.ListChannels(pb.ListChannelsRequest(page_size=1))).next_page_token
    for fields in [
        {"include_not_joined": True, "page_token": token},
        {"type": channel_pb2.CHANNEL_TYPE_GLOBAL, "page_token": token},
        {"page_token": token[:-4]},
        {"page_token": "no token"},
    ]:
        with pytest.raises(Failure) as failure:
            await listed(ada, **fields)
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_channel_can_be_looked_at_without_joining_it(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    sent = (await ada.send("project-x", "hello")).message
    channel = await get(bob, "project-x")
    assert (channel.id, channel.name) == (sent.channel_id, "project-x")
    assert channel.created_by_agent_id == sent.author_agent_id
    assert (channel.message_count, channel.unread_count, channel.role) == (1, 0, NOBODY)
    assert (channel.description, channel.archived) == ("", False)
    assert channel.HasField("created_at")
    assert await listed(bob) == FIRST
    seeded = await get(bob, "general")
    assert seeded.created_by_agent_id == ""
    assert seeded.description == "General discussion"


async def test_a_channel_that_is_not_there_is_not_found_and_a_string_that_is_no_name_refused(
    board: Board,
) -> None:
    (ada,) = await board.agents("ada")
    for call in (get, join, leave, update, mark_read):
        with pytest.raises(Failure) as failure:
            await call(ada, "project-nowhere")
        assert failure.value.code is StatusCode.NOT_FOUND
        assert failure.value.reason == "CHANNEL_NOT_FOUND"
        assert failure.value.metadata == {"channel": "project-nowhere"}
        for name in ("", "x", "Upper", "nul\x00", "a" * 101):
            with pytest.raises(Failure) as failure:
                await call(ada, name)
            assert failure.value.code is StatusCode.INVALID_ARGUMENT
            assert failure.value.fields == ["channel"]


async def test_joining_leaves_nothing_unread_and_is_idempotent(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(3):
        await ada.send("project-x", f"{number}")
    joined = await join(bob, "project-x")
    assert (joined.role, joined.unread_count, joined.message_count) == (MEMBER, 0, 3)
    await ada.send("project-x", "news")
    again = await join(bob, "project-x")
    assert (again.role, again.unread_count) == (MEMBER, 1)
    assert (await join(ada, "project-x")).role == ADMIN


async def test_leaving_takes_the_role_and_is_idempotent(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("project-x", "mine")
    for _ in range(2):
        left = await leave(ada, "project-x")
        assert (left.role, left.unread_count) == (NOBODY, 0)
    assert "project-x" not in await listed(ada)
    assert (await join(ada, "project-x")).role == MEMBER
    with pytest.raises(Failure) as failure:
        await update(ada, "project-x", description="no longer mine")
    assert failure.value.reason == "CHANNEL_ADMIN_REQUIRED"


async def test_mentions_arrive_from_channels_that_were_left(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await leave(bob, "general")
    await ada.send("general", "@bob are you there?")
    (mention,) = (await bob.unread_mentions()).mentions
    assert mention.content == "@bob are you there?"
    assert (await get(bob, "general")).role == NOBODY
    assert "general" not in await listed(bob)


async def test_an_admin_describes_a_channel(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("project-x", "mine")
    changed = await update(ada, "project-x", description="ünïcode 🎉")
    assert (changed.description, changed.archived, changed.role) == ("ünïcode 🎉", False, ADMIN)
    assert (await get(bob, "project-x")).description == "ünïcode 🎉"
    # Nothing is present, so nothing changes.
    assert (await update(ada, "project-x")).description == "ünïcode 🎉"
    assert (await update(ada, "project-x", description="🎉" * 500)).description == "🎉" * 500
    assert (await update(ada, "project-x", description="")).description == ""


async def test_an_admin_archives_a_channel_and_takes_it_back(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("project-x", "mine")
    await update(ada, "project-x", description="stays")
    for _ in range(2):
        archived = await update(ada, "project-x", archived=True)
        assert (archived.archived, archived.description) == (True, "stays")
    with pytest.raises(Failure) as failure:
        await bob.send("project-x", "refused")
    assert failure.value.reason == "CHANNEL_ARCHIVED"
    # It is still read, listed, joined and left.
    assert [message.content for message in (await bob.read("project-x")).messages] == ["mine"]
    assert "project-x" in await listed(bob)
    assert (await leave(bob, "project-x")).archived
    assert (await join(bob, "project-x")).archived
    assert not (await update(ada, "project-x", archived=False)).archived
    await bob.send("project-x", "taken")


async def test_only_an_admin_of_the_channel_changes_it(board: Board) -> None:
    ada, bob, eve = await board.agents("ada", "bob", "eve")
    await ada.send("project-x", "mine")
    await join(bob, "project-x")
    await eve.send("project-y", "an admin of another channel is a stranger here")
    for agent in (bob, eve):
        for fields in ({"description": "mine now"}, {"archived": True}, {}):
            with pytest.raises(Failure) as failure:
                await update(agent, "project-x", **fields)
            assert failure.value.code is StatusCode.PERMISSION_DENIED
            assert failure.value.reason == "CHANNEL_ADMIN_REQUIRED"
            assert failure.value.metadata == {"channel": "project-x"}
    # A channel that nobody created has no admin.
    with pytest.raises(Failure) as failure:
        await update(ada, "general", description="mine")
    assert failure.value.reason == "CHANNEL_ADMIN_REQUIRED"
    unchanged = await get(ada, "project-x")
    assert (unchanged.description, unchanged.archived) == ("", False)


async def test_direct_messages_cannot_be_archived(board: Board) -> None:
    (ada,) = await board.agents("ada")
    with pytest.raises(Failure) as failure:
        await update(ada, "direct-messages", archived=True)
    assert failure.value.code is StatusCode.FAILED_PRECONDITION
    assert failure.value.reason == "CHANNEL_NOT_ARCHIVABLE"
    with pytest.raises(Failure) as failure:
        await board.admin.ArchiveChannel(admin_service_pb2.ArchiveChannelRequest(channel="direct-messages"))
    assert failure.value.reason == "CHANNEL_NOT_ARCHIVABLE"
    assert not (await get(ada, "direct-messages")).archived


async def test_a_description_of_501_characters_or_with_a_nul_is_refused(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("project-x", "mine")
    for description in ("x" * 501, "nul \x00"):
        with pytest.raises(Failure) as failure:
            await update(ada, "project-x", description=description, archived=True)
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.fields == ["description"]
    unchanged = await get(ada, "project-x")
    assert (unchanged.description, unchanged.archived) == ("", False)


async def test_a_channel_is_read_up_to_a_message_and_never_unread_again(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("project-x", "seen by joining")
    await join(bob, "project-x")
    for number in range(5):
        await ada.send("project-x", f"{number}")
    assert (await mark_read(bob, "project-x", through_ordinal=3)).unread_count == 3
    assert (await mark_read(bob, "project-x", through_ordinal=2)).unread_count == 3
    assert (await mark_read(bob, "project-x", through_ordinal=1)).unread_count == 3
    assert (await mark_read(bob, "project-x", through_ordinal=5)).unread_count == 1
    assert (await mark_read(bob, "project-x")).unread_count == 0
    assert (await mark_read(bob, "project-x", through_ordinal=3)).unread_count == 0
    # The others' counts are their own.
    assert (await get(ada, "project-x")).unread_count == 0


async def test_reading_past_the_end_reads_to_the_end_and_nothing_that_comes_after(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await join(bob, "tech-typescript")
    await ada.send("tech-typescript", "one")
    assert (await mark_read(bob, "tech-typescript", through_ordinal=2**63 - 1)).unread_count == 0
    await ada.send("tech-typescript", "two")
    assert (await get(bob, "tech-typescript")).unread_count == 1


async def test_marking_an_empty_channel_read_is_fine(board: Board) -> None:
    (ada,) = await board.agents("ada")
    marked = await mark_read(ada, "tech-typescript")
    assert (marked.unread_count, marked.message_count, marked.role) == (0, 0, MEMBER)
    assert (await mark_read(ada, "tech-typescript", through_ordinal=1)).unread_count == 0


async def test_marking_read_up_to_an_ordinal_below_1_is_refused(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for ordinal in (0, -1, -(2**63)):
        with pytest.raises(Failure) as failure:
            await mark_read(ada, "general", through_ordinal=ordinal)
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.fields == ["through_ordinal"]


async def test_marking_read_joins(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("project-x", "hello")
    marked = await mark_read(bob, "project-x")
    assert (marked.role, marked.unread_count) == (MEMBER, 0)
    assert "project-x" in await listed(bob)


async def test_marking_read_up_to_a_message_joins_with_nothing_unread(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(3):
        await ada.send("project-x", f"{number}")
    marked = await mark_read(bob, "project-x", through_ordinal=1)
    assert (marked.role, marked.unread_count) == (MEMBER, 0)


async def test_the_board_of_an_agent_without_channels_still_counts_mentions(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for name in FIRST:
        await leave(bob, name)
    await ada.send("general", f"@{bob.name} hello")
    response = await get_board(bob)
    assert (len(response.channels), response.unread_mention_count) == (0, 1)


async def test_the_board_of_a_new_agent_has_its_empty_first_channels(board: Board) -> None:
    (ada,) = await board.agents("ada")
    response = await get_board(ada)
    assert [entry.channel.name for entry in response.channels] == FIRST
    assert not any(entry.HasField("latest_message") for entry in response.channels)
    assert response.unread_mention_count == 0


async def test_the_board_has_the_liveliest_channel_first_and_the_empty_ones_last(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for name in ("general", "project-x", "global", "project-not-joined"):
        await ada.send(name, f"hello {name}")
    await join(bob, "project-x")
    response = await get_board(bob)
    assert [entry.channel.name for entry in response.channels] == [
        *("global", "project-x", "general"),
        "direct-messages",
    ]
    await ada.send("general", "again")
    assert [entry.channel.name for entry in (await get_board(bob)).channels][:2] == ["general", "global"]


async def test_the_board_shows_the_beginning_of_the_latest_message(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("general", "first")
    sent = (await ada.send("general", "🎉" * 201)).message
    entry = (await get_board(bob)).channels[0]
    assert entry.latest_message == board_service_pb2.MessagePreview(
        id=sent.id,
        author_agent_id=sent.author_agent_id,
        author_name="ada",
        author_kind=sent.author_kind,
        content="🎉" * 200,
        content_length=201,
        created_at=sent.created_at,
    )
    await ada.send("general", "x" * 200)
    preview = (await get_board(bob)).channels[0].latest_message
    assert (preview.content, preview.content_length) == ("x" * 200, 200)


async def test_the_board_counts_what_is_unread_and_marks_nothing_read(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(3):
        await ada.send("general", f"@bob {number}")
    await ada.send("project-x", "@bob from a channel that bob has not joined")
    for response in [await get_board(bob), await get_board(bob)]:
        counts = {entry.channel.name: entry.channel.unread_count for entry in response.channels}
        assert counts == {"general": 3, "global": 0, "direct-messages": 0}
        assert response.unread_mention_count == 4
        assert {entry.channel.role for entry in response.channels} == {MEMBER}
    assert (await get_board(ada)).unread_mention_count == 0
    await bob.read("general")
    assert (await get_board(bob)).channels[0].channel.unread_count == 0


async def test_the_board_leaves_archived_and_left_channels_out(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("project-x", "hello")
    await ada.send("project-y", "hello")
    await update(ada, "project-x", archived=True)
    await leave(ada, "project-y")
    assert [entry.channel.name for entry in (await get_board(ada)).channels] == FIRST
    await update(ada, "project-x", archived=False)
    assert [entry.channel.name for entry in (await get_board(ada)).channels] == ["project-x", *FIRST]
