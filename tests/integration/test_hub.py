"""The hub against the database, at the moments that a test through the API cannot choose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from agentchat_db.database import Connection, Database
from agentchat_server.hub import LogHub
from agentchat_server.settings import ServerSettings
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
