"""The asyncio SDK against the real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from agentchat import (
    AgentChatError,
    AlreadyExistsError,
    AsyncAdminClient,
    AsyncAgentChatClient,
    CursorError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from tests.board import Board

UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
async def key(board: Board) -> str:
    return await board.machine("testbed")


@pytest.fixture
async def ann(board: Board, key: str) -> AsyncIterator[AsyncAgentChatClient]:
    async with AsyncAgentChatClient(board.target, key, "testbed-ann") as client:
        await client.register()
        yield client


@pytest.fixture
async def ben(board: Board, key: str) -> AsyncIterator[AsyncAgentChatClient]:
    async with AsyncAgentChatClient(board.target, key, "testbed-ben", project="web-shop") as client:
        await client.register()
        yield client


@pytest.fixture
async def admin(board: Board) -> AsyncIterator[AsyncAdminClient]:
    async with AsyncAdminClient(board.target, board.admin_key) as client:
        yield client


async def test_a_message_comes_back_as_it_was_sent(ann: AsyncAgentChatClient) -> None:
    metadata = {"ticket": 42, "ratio": 0.5, "tags": ["a", {"b": None}], "done": True}
    sent = await ann.send_message("project-shop", "Grüße 🎉\nline two", metadata=metadata)

    page = await ann.read_messages("project-shop")

    assert list(page) == [sent.message]
    assert page.next_page_token is None
    message = sent.message
    assert message.content == "Grüße 🎉\nline two"
    assert message.metadata == metadata
    assert isinstance(message.metadata["ticket"], int)
    assert (message.author_name, message.author_kind, message.ordinal) == ("testbed-ann", "agent", 1)
    assert message.parent_message_id is None
    assert abs(message.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert await ann.get_message(message.id) == message


async def test_a_mention_reaches_its_agent_with_the_project_of_its_author(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    sent = await ben.send_message("general", "@testbed-ann and @nobody-here: look")

    page = await ann.check_mentions()

    assert [agent.name for agent in sent.mentioned] == ["testbed-ann"]
    assert sent.unknown_mentions == ("nobody-here",)
    assert page.unread_count == 1
    mention = page[0]
    assert mention.message_id == sent.message.id
    assert (mention.from_agent, mention.from_project, mention.from_kind) == (
        "testbed-ben",
        "web-shop",
        "agent",
    )
    assert (mention.channel, mention.read, mention.timestamp) == ("general", False, sent.message.created_at)
    assert await ann.mark_mentions_read([mention.mention_id, mention.mention_id]) == 1
    assert await ann.mark_mentions_read(mention.mention_id) == 0
    assert await ann.mark_mentions_read([]) == 0
    assert len(await ann.check_mentions()) == 0
    assert [(m.mention_id, m.read) async for m in ann.iter_mentions(unread_only=False)] == [
        (mention.mention_id, True)
    ]


async def test_more_than_a_hundred_mentions_are_marked_read_in_one_call(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    await asyncio.gather(*(ben.send_message("general", f"@testbed-ann {n}") for n in range(120)))

    ids = [mention.mention_id async for mention in ann.iter_mentions(limit=50)]

    assert len(set(ids)) == 120
    assert await ann.mark_mentions_read(ids) == 120


async def test_a_metadata_project_of_the_caller_wins_over_that_of_the_client(
    ben: AsyncAgentChatClient,
) -> None:
    assert (await ben.send_message("general", "one")).message.metadata == {"project": "web-shop"}
    own = {"project": "other", "x": 1}
    assert (await ben.send_message("general", "two", metadata=own)).message.metadata == own


async def test_the_board_shows_unread_counts_latest_messages_and_unread_mentions(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    await ben.send_message("general", "first")
    sent = await ben.send_message("general", "@testbed-ann " + "x" * 300)

    board = await ann.check_board()

    assert board.unread_mentions == 1
    general = next(channel for channel in board if channel.channel_name == "general")
    assert board[0] == general
    assert (general.unread_count, general.role, general.channel_type) == (2, "member", "global")
    assert general.latest_message is not None
    assert general.latest_message.id == sent.message.id
    assert len(general.latest_message.content) == 200
    assert general.latest_message.content_length == len(sent.message.content)
    await ann.read_messages("general")
    assert {channel.unread_count for channel in await ann.check_board()} == {0}


async def test_iterating_yields_every_message_once_in_either_direction(ann: AsyncAgentChatClient) -> None:
    for number in range(7):
        await ann.send_message("general", str(number))

    backward = [m.content async for m in ann.iter_messages("general", limit=3)]
    forward = [m.content async for m in ann.iter_messages("general", limit=3, direction="forward")]

    assert backward == ["6", "5", "4", "3", "2", "1", "0"]
    assert forward == backward[::-1]


async def test_time_bounds_are_exclusive(ann: AsyncAgentChatClient) -> None:
    one, two, three = [(await ann.send_message("general", str(n))).message for n in (1, 2, 3)]

    assert list(await ann.read_messages("general", before=three.created_at, after=one.created_at)) == [two]


async def test_peeking_marks_nothing_read(ann: AsyncAgentChatClient, ben: AsyncAgentChatClient) -> None:
    await ben.send_message("general", "news")
    await ann.read_messages("general", peek=True)
    assert (await ann.get_channel("general")).unread_count == 1


async def test_replies_are_listed_under_their_parent(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    parent = (await ann.send_message("general", "question")).message
    answers = [
        (await ben.send_message("general", f"answer {n}", parent_message_id=parent.id)).message
        for n in (1, 2, 3)
    ]

    assert list(await ann.list_replies(parent.id)) == answers
    assert [reply async for reply in ann.iter_replies(parent.id, limit=2)] == answers
    assert answers[0].parent_message_id == parent.id


async def test_search_finds_ranks_and_marks_hits(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    await ann.send_message("general", "the deployment failed with an error")
    await ben.send_message("project-shop", "deployments are fine")
    await ben.send_message("general", "unrelated")

    results = await ann.search_messages("deployment")

    assert {result.channel_name for result in results} == {"general", "project-shop"}
    assert all("**deployment" in result.snippet and result.rank > 0 for result in results)
    by_ben = await ann.search_messages("deployment", author="testbed-ben")
    assert [result.author_name for result in by_ben] == ["testbed-ben"]
    assert len(await ann.search_messages("deployment", channel="general")) == 1
    assert len([result async for result in ann.iter_search("deployment", limit=1)]) == 2


async def test_a_direct_message_mentions_its_target(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    sent = await ann.send_direct_message("testbed-ben", "is it done?")

    assert sent.message.channel_name == "direct-messages"
    assert sent.message.content == "@testbed-ben is it done?"
    assert [mention.content for mention in await ben.check_mentions()] == [sent.message.content]
    with pytest.raises(NotFoundError) as unknown:
        await ann.send_direct_message("testbed-nobody", "hello")
    assert unknown.value.reason == "AGENT_NOT_FOUND"
    assert unknown.value.metadata == {"agent": "testbed-nobody"}


async def test_the_same_request_id_posts_once(ann: AsyncAgentChatClient) -> None:
    request_id = "3f2b8a52-6f0e-4e5e-9d3e-2a0a7f2d9c11"
    first = await ann.send_message("general", "once", request_id=request_id)
    again = await ann.send_message("general", "once", request_id=request_id)

    assert (first.replayed, again.replayed) == (False, True)
    assert again.message == first.message
    with pytest.raises(AlreadyExistsError) as reused:
        await ann.send_message("general", "other", request_id=request_id)
    assert reused.value.reason == "REQUEST_ID_REUSED"


async def test_channels_can_be_joined_described_archived_and_left(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    await ann.send_message("project-shop", "hello")
    assert "project-shop" not in {channel.name for channel in await ben.list_channels()}
    assert "project-shop" in {channel.name for channel in await ben.list_channels(all=True)}
    assert {channel.type for channel in await ann.list_channels("project", all=True)} == {"project"}

    joined = await ben.join_channel("project-shop")
    assert (joined.role, joined.unread_count, joined.message_count) == ("member", 0, 1)
    with pytest.raises(PermissionDeniedError) as denied:
        await ben.update_channel("project-shop", description="mine")
    assert denied.value.reason == "CHANNEL_ADMIN_REQUIRED"
    changed = await ann.update_channel("project-shop", description="The shop", archived=True)
    assert (changed.description, changed.archived, changed.role) == ("The shop", True, "admin")
    with pytest.raises(FailedPreconditionError) as archived:
        await ben.send_message("project-shop", "too late")
    assert archived.value.reason == "CHANNEL_ARCHIVED"
    assert (await ben.leave_channel("project-shop")).role is None


async def test_marking_a_channel_read_leaves_what_came_later(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    messages = [(await ben.send_message("general", str(n))).message for n in range(3)]
    assert (await ann.mark_channel_read("general", messages[0].ordinal)).unread_count == 2
    assert (await ann.mark_channel_read("general")).unread_count == 0


async def test_whoami_register_and_list_agents_agree(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    registered = await ann.register("Builds things", ["python", "docker"])
    me = await ann.whoami()

    assert (me.id, me.name, me.machine) == (registered.id, "testbed-ann", "testbed")
    assert me.description == "Builds things"
    assert me.capabilities == ("docker", "python")
    assert me.server_version
    assert [agent.name for agent in await ben.list_agents(online=True)] == ["testbed-ann", "testbed-ben"]
    assert [agent.name for agent in await ben.list_agents(active=False)] == []
    assert (await ann.register(capabilities=[])).capabilities == ()


async def test_a_wrong_key_and_a_foreign_name_are_told_apart(
    board: Board, key: str, admin: AsyncAdminClient
) -> None:
    async with AsyncAgentChatClient(board.target, "ack_wrong", "testbed-x") as client:
        with pytest.raises(UnauthenticatedError) as wrong:
            await client.whoami()
        assert wrong.value.reason == "API_KEY_INVALID"
    other = await admin.create_machine_key("elsewhere")
    async with AsyncAgentChatClient(board.target, other.key, "testbed-x") as client:
        with pytest.raises(PermissionDeniedError) as reserved:
            await client.check_board()
        assert reserved.value.reason == "AGENT_NAME_RESERVED"


async def test_refused_fields_are_named(ann: AsyncAgentChatClient) -> None:
    with pytest.raises(InvalidArgumentError) as empty:
        await ann.send_message("general", "")
    assert [violation.field for violation in empty.value.violations] == ["content"]
    with pytest.raises(InvalidArgumentError):
        await ann.get_message("no-uuid")
    with pytest.raises(InvalidArgumentError):
        await ann.read_messages("general", limit=201)


async def test_a_message_of_the_largest_size_and_a_full_page_arrive(ann: AsyncAgentChatClient) -> None:
    content = "😀" * 32_000
    for _ in range(30):
        await ann.send_message("general", content, timeout=30)

    contents = [m.content async for m in ann.iter_messages("general", limit=200, timeout=30)]

    assert contents == [content] * 30


async def test_watching_messages_misses_nothing_after_start(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    async with ann.watch_messages(["general"]) as watch:
        await watch.start()
        sent = [(await ben.send_message("general", f"n{n}")).message for n in range(3)]
        await ben.send_message("project-other", "not followed")
        mentioning = await ben.send_message("general", "hi @testbed-ann")
        seen = [await anext(watch) for _ in range(4)]

    assert [event.id for event in seen] == [message.id for message in [*sent, mentioning.message]]
    assert [event.mention_id is not None for event in seen] == [False, False, False, True]
    async with ann.watch_messages("general", cursor=seen[1].cursor) as resumed:
        assert [(await anext(resumed)).id, (await anext(resumed)).id] == [seen[2].id, seen[3].id]


async def test_watching_mentions_starts_with_the_unread_ones(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    before = await ben.send_message("general", "@testbed-ann one")
    async with ann.watch_mentions() as watch:
        first = await anext(watch)
        after = await ben.send_message("general", "@testbed-ann two")
        second = await anext(watch)

    assert [first.message_id, second.message_id] == [before.message.id, after.message.id]
    assert not first.redelivered
    assert watch.cursor == second.cursor


async def test_a_mention_is_claimed_renewed_released_and_completed(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    asked = (await ann.send_message("general", "@testbed-ben is it done?")).message
    async with ben.watch_mentions() as watch:
        mention = await anext(watch)
        assert (mention.redelivered, mention.claimed_until) == (False, None)
        given_up = await ben.claim_mention(mention.mention_id, timedelta(minutes=5))
        assert given_up.mention.message_id == asked.id
        assert given_up.mention.claimed_until == given_up.claimed_until
        assert timedelta(minutes=4) < given_up.claimed_until - datetime.now(UTC) <= timedelta(minutes=5)
        with pytest.raises(FailedPreconditionError) as taken:
            await ben.claim_mention(mention.mention_id)
        assert taken.value.reason == "MENTION_CLAIMED"
        await ben.release_claim(given_up)
        again = await anext(watch)
        assert (again.mention_id, again.redelivered) == (mention.mention_id, True)
        # A watch that connects anew at its cursor is sent what nobody works on.
        async with ben.watch_mentions(watch.cursor) as resumed:
            assert await anext(resumed) == again

    claim = await ben.claim_mention(mention.mention_id)
    renewed = await ben.renew_claim(claim, timedelta(hours=1))
    assert (renewed.token, renewed.mention) == (claim.token, claim.mention)
    assert renewed.claimed_until > claim.claimed_until + timedelta(minutes=50)
    for call in (ben.renew_claim(given_up), ben.release_claim(given_up), ben.complete_claim(given_up, "no")):
        with pytest.raises(FailedPreconditionError) as lost:
            await call
        assert lost.value.reason == "CLAIM_LOST"
        assert lost.value.metadata == {"mention_id": mention.mention_id}
    sent = await ben.complete_claim(claim, "@testbed-ann yes, says @nobody-here", metadata={"x": 1})
    assert (sent.message.parent_message_id, sent.message.hops) == (asked.id, 1)
    assert sent.message.metadata == {"project": "web-shop", "x": 1}
    assert [agent.name for agent in sent.mentioned] == ["testbed-ann"]
    assert sent.unknown_mentions == ("nobody-here",)
    assert list(await ben.check_mentions()) == []
    repeated = await ben.complete_claim(renewed, "@testbed-ann yes, says @nobody-here", metadata={"x": 1})
    assert (repeated.message, sent.replayed, repeated.replayed) == (sent.message, False, True)
    with pytest.raises(AlreadyExistsError):
        await ben.complete_claim(claim, "something else")
    with pytest.raises(NotFoundError):
        await ann.claim_mention(mention.mention_id)
    for lease in (timedelta(seconds=4), timedelta(hours=2), timedelta.max, -timedelta(seconds=60)):
        with pytest.raises(InvalidArgumentError) as wrong:
            await ben.claim_mention(mention.mention_id, lease)
        assert [violation.field for violation in wrong.value.violations] == ["lease"]


async def test_a_consumer_may_stop_waiting_and_ask_again(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient
) -> None:
    async with ann.watch_messages() as watch:
        await watch.start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.05)
        sent = await ben.send_message("general", "here")
        assert (await anext(watch)).id == sent.message.id


async def test_closing_a_watch_ends_the_loop_of_its_consumer(ann: AsyncAgentChatClient) -> None:
    watch = await ann.watch_messages().start()

    async def consume() -> int:
        return len([event async for event in watch])

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    await watch.close()
    assert await asyncio.wait_for(consumer, 5) == 0


async def test_closing_the_client_ends_its_watches(board: Board, key: str) -> None:
    client = AsyncAgentChatClient(board.target, key, "testbed-ann")
    watch = await client.watch_mentions().start()
    await client.close()
    assert [event async for event in watch] == []
    with pytest.raises(FailedPreconditionError, match="closed"):
        await client.whoami()
    await client.close()


async def test_a_cursor_of_another_board_is_an_error_that_tells_the_head(
    database_url: str, owner_url: str
) -> None:
    async with Board.serve(database_url, owner_url) as original:
        key = await original.machine("testbed")
        async with AsyncAgentChatClient(original.target, key, "testbed-ann") as ann:
            cursor = (await ann.watch_messages().start()).cursor
        async with original.sql() as connection:
            await connection.execute("update agentchat.log_position set log_id = gen_random_uuid()")
    async with (
        Board.serve(database_url, owner_url) as replaced,
        AsyncAgentChatClient(replaced.target, key, "testbed-ann") as ann,
    ):
        with pytest.raises(CursorError) as foreign:
            await anext(ann.watch_messages(cursor=cursor))

        assert foreign.value.reason == "CURSOR_FOREIGN"
        over = await ann.watch_messages(cursor=foreign.value.head).start()
        sent = await ann.send_message("general", "after the change")
        assert (await anext(over)).id == sent.message.id


async def test_a_watch_of_an_unknown_channel_raises(ann: AsyncAgentChatClient) -> None:
    with pytest.raises(NotFoundError) as unknown:
        await anext(ann.watch_messages("project-nowhere"))
    assert unknown.value.reason == "CHANNEL_NOT_FOUND"


async def test_a_revoked_key_ends_a_watch_with_an_error(
    ann: AsyncAgentChatClient, admin: AsyncAdminClient
) -> None:
    watch = await ann.watch_mentions().start()
    assert await admin.revoke_machine_key(machine="testbed") == 1
    with pytest.raises(UnauthenticatedError):
        await asyncio.wait_for(anext(watch), 10)


async def test_keys_are_made_listed_rotated_and_revoked(admin: AsyncAdminClient) -> None:
    in_a_day = datetime.now(UTC) + timedelta(days=1)
    made = await admin.create_machine_key("laptop", expires_at=in_a_day)
    rotated = await admin.rotate_machine_key("laptop", grace_period=timedelta(hours=1))

    assert made.key.startswith("ack_")
    assert made.key not in repr(made)
    assert made.machine_key.expires_at == in_a_day
    assert rotated.old_keys_expire_at is not None
    assert rotated.old_keys_expire_at < in_a_day
    keys = [key for key in await admin.list_machine_keys() if key.machine == "laptop"]
    assert [key.id for key in keys] == [rotated.machine_key.id, made.machine_key.id]
    assert await admin.revoke_machine_key(key_id=made.machine_key.id) == 1
    with pytest.raises(NotFoundError) as unknown:
        await admin.revoke_machine_key(key_id=UNKNOWN_ID)
    assert unknown.value.reason == "MACHINE_KEY_NOT_FOUND"
    with pytest.raises(InvalidArgumentError):
        await admin.revoke_machine_key()


async def test_an_agent_key_speaks_for_its_agent_without_a_name(
    board: Board, admin: AsyncAdminClient
) -> None:
    made = await admin.create_agent_key("lone-agent")
    assert made.agent.machine is None
    async with AsyncAgentChatClient(board.target, made.key) as client:
        assert (await client.whoami()).name == "lone-agent"


async def test_agents_are_deactivated_activated_and_removed(
    ann: AsyncAgentChatClient, ben: AsyncAgentChatClient, admin: AsyncAdminClient
) -> None:
    assert not (await admin.deactivate_agent("testbed-ben")).active
    with pytest.raises(FailedPreconditionError) as deactivated:
        await ann.send_direct_message("testbed-ben", "there?")
    assert deactivated.value.reason == "AGENT_DEACTIVATED"
    with pytest.raises(PermissionDeniedError):
        await _until_refused(ben)
    assert (await admin.activate_agent("testbed-ben")).active
    await admin.remove_agent("testbed-ben")
    assert "testbed-ben" not in {agent.name for agent in await ann.list_agents()}


async def test_an_administrator_archives_a_channel_and_takes_it_back(admin: AsyncAdminClient) -> None:
    assert (await admin.archive_channel("general")).archived
    assert not (await admin.unarchive_channel("general")).archived
    with pytest.raises(FailedPreconditionError):
        await admin.archive_channel("direct-messages")


async def test_an_admin_key_is_checked(board: Board) -> None:
    async with AsyncAdminClient(board.target, "aca_wrong") as client:
        with pytest.raises(UnauthenticatedError) as wrong:
            await client.list_machine_keys()
        assert wrong.value.reason == "ADMIN_KEY_INVALID"


async def test_a_watch_survives_a_restart_of_the_server(database_url: str, owner_url: str) -> None:
    async with Board.serve(database_url, owner_url) as first:
        port = int(first.target.rpartition(":")[2])
        key = await first.machine("testbed")
        client = AsyncAgentChatClient(first.target, key, "testbed-ann")
        lost: list[AgentChatError] = []
        watch = await client.watch_messages(on_reconnect=lambda error, _: lost.append(error)).start()
        await client.send_message("general", "before")
        assert (await anext(watch)).content == "before"
    async with Board.serve(database_url, owner_url, port=port):
        await client.send_message("general", "after")
        assert (await asyncio.wait_for(anext(watch), 20)).content == "after"
        await client.close()
    assert lost
    assert all(isinstance(error, UnavailableError) for error in lost)


async def _until_refused(client: AsyncAgentChatClient) -> None:
    """Calls until a change of the caller's rights has taken effect, which it does within a second."""
    async with asyncio.timeout(5):
        while True:
            await client.whoami()
            await asyncio.sleep(0.05)
