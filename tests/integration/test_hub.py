"""The hub against the database, at the moments that a test through the API cannot choose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from agentchat_db.database import Connection, Database
from agentchat_server.hub import LogHub
from agentchat_server.settings import ServerSettings
from agentchat_server.subscription import LogEvent
from tests.board import DEADLINE, Board


class HeldHub(LogHub):
    """A hub that can be held where it is about to ask for the head."""

    holding = False

    async def _position(self, connection: Connection) -> tuple[UUID, int]:
        if self.holding:
            self.about_to.set()
            await self.go_on.wait()
        return await super()._position(connection)

    def hold(self) -> None:
        self.about_to, self.go_on = asyncio.Event(), asyncio.Event()
        self.holding = True


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[HeldHub]:
    database = Database(database_url)
    await database.open()
    settings = ServerSettings(database_url=database_url, hub_poll_interval=0.05)
    hub = HeldHub(database, settings, on_identities_changed=lambda: None, on_claims_changed=lambda _: None)
    await hub.open()
    yield hub
    await hub.close()
    await database.close()


async def test_a_stream_that_comes_while_an_idle_hub_looks_for_the_head_misses_nothing(
    hub: HeldHub, board: Board
) -> None:
    (ada,) = await board.agents("ada")
    async with asyncio.timeout(DEADLINE):
        hub.hold()
        await hub.about_to.wait()
        subscription = hub.subscribe()
        sent = [(await ada.send("general", f"{number}")).message.seq for number in range(3)]
        hub.go_on.set()
        taken: list[int] = []
        while len(taken) < len(sent):
            taken += [event.seq for event in await subscription.take(1.0) or []]
    assert taken == sent


async def test_a_hub_that_lags_behind_waits_before_it_judges_a_cursor(hub: HeldHub, board: Board) -> None:
    (ada,) = await board.agents("ada")
    async with asyncio.timeout(DEADLINE):
        # As if the cursor came from another worker, which has read further.
        seen = (await ada.send("general", "hello")).message.seq
        cursor = hub.cursor(seen)
        hub.head = 0
        await hub.catch_up()
    assert hub.resume_after(cursor) == seen


async def test_what_a_worker_wrote_itself_reaches_its_streams_without_a_notification(
    database_url: str, owner_url: str
) -> None:
    async with Board.serve(database_url, owner_url) as board:
        ada, bob = await board.agents("ada", "bob")
        async with ada.watch_messages() as messages, bob.watch_mentions() as mentions:
            await messages.until_live()
            await mentions.until_live()
            # From here on the hub neither hears nor reads.
            await board.application._hub.close()
            metadata = {"project": "x", "n": 1, "list": [True, None, 0.5]}
            sent = await ada.send("general", "@bob @nobody look", metadata=metadata)
            reply = await bob.send("general", "seen", parent_message_id=sent.message.id)
            posted = (await messages.next_event()).message_posted
            mention = (await mentions.next_event()).mention_received.mention
            answer = (await messages.next_event()).message_posted
        # It is what the table has.
        read = await ada.read("general")
        assert [posted.message, answer.message] == list(read.messages) == [sent.message, reply.message]
        assert [mention] == list((await bob.unread_mentions()).mentions)


async def test_a_batch_that_follows_a_gap_is_left_to_the_table(hub: HeldHub, board: Board) -> None:
    (ada,) = await board.agents("ada")
    subscription = hub.subscribe()
    async with asyncio.timeout(DEADLINE):
        sent = [(await ada.send("general", f"{number}")).message for number in range(3)]
        events = [LogEvent(message.seq, UUID(message.channel_id), message, {}) for message in sent]
        # As if the hub had not read on yet: what comes behind the first is not the next.
        hub.head = sent[0].seq - 1
        hub.append([events[1], events[2]])
        assert hub.head == sent[0].seq - 1
        hub.append([events[0], None, events[2]])
        assert hub.head == sent[0].seq
        taken: list[int] = []
        while sent[2].seq not in taken:
            taken += [event.seq for event in await subscription.take(1.0) or []]
    assert set(taken) == {message.seq for message in sent}
