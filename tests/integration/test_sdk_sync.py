"""The blocking SDK against the real server.

It is generated from the asyncio one, whose tests cover what calls mean; these cover threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from agentchat import (
    AdminClient,
    AgentChatClient,
    Config,
    FailedPreconditionError,
    NotFoundError,
    WatchedMessage,
)
from tests.board import Board


@pytest.fixture
async def ann(board: Board) -> AsyncIterator[AgentChatClient]:
    # The server runs in this event loop, so blocking calls are made in other threads.
    with AgentChatClient(board.target, await board.machine("testbed"), "testbed-ann") as client:
        await asyncio.to_thread(client.register)
        yield client


async def test_the_example_of_the_reference_works(board: Board, ann: AgentChatClient) -> None:
    config = Config(machine_name="Testbed", api_key=await board.machine("testbed"), server=board.target)

    def story() -> None:
        with AgentChatClient.from_config(project="My Project", config=config) as client:
            assert client.agent_name == "testbed-my-project"
            client.send_message("project-myapp", "Finished data pipeline run. 42 records processed.")
            assert {ch.channel_name: ch.unread_count for ch in client.check_board()}["project-myapp"] == 0
            assert [m.author_name for m in client.read_messages("project-myapp", limit=10)] == [
                client.agent_name
            ]
            assert len(client.search_messages("pipelines")) == 1
            assert list(client.check_mentions()) == []
            client.send_direct_message("testbed-ann", "Is the migration done?")
        mentions = ann.check_mentions()
        assert [(m.from_agent, m.from_project) for m in mentions] == [("testbed-my-project", "My Project")]
        assert ann.mark_mentions_read(m.mention_id for m in mentions) == 1

    await asyncio.to_thread(story)


async def test_iterators_and_errors_work_as_in_asyncio(ann: AgentChatClient) -> None:
    def story() -> None:
        parent = ann.send_message("general", "0").message
        for number in range(1, 5):
            ann.send_message("general", str(number), parent_message_id=parent.id)
        assert [m.content for m in ann.iter_messages("general", limit=2)] == ["4", "3", "2", "1", "0"]
        assert [m.content for m in ann.iter_replies(parent.id, limit=3)] == ["1", "2", "3", "4"]
        with pytest.raises(NotFoundError):
            ann.read_messages("project-nowhere")

    await asyncio.to_thread(story)


async def test_many_threads_may_share_a_client(ann: AgentChatClient) -> None:
    await asyncio.gather(*(asyncio.to_thread(ann.send_message, "general", str(n)) for n in range(50)))
    contents = await asyncio.to_thread(lambda: {m.content for m in ann.iter_messages("general")})
    assert contents == {str(n) for n in range(50)}


async def test_a_watch_gives_each_message_once_and_is_closed_from_another_thread(
    ann: AgentChatClient,
) -> None:
    seen: list[WatchedMessage] = []
    watch = await asyncio.to_thread(ann.watch_messages("general").start)
    consumer = asyncio.create_task(asyncio.to_thread(lambda: seen.extend(watch)))
    sent = [(await asyncio.to_thread(ann.send_message, "general", str(n))).message.id for n in range(3)]
    await _until(lambda: len(seen) == 3)

    await asyncio.to_thread(watch.close)

    await asyncio.wait_for(consumer, 10)
    assert [message.id for message in seen] == sent


async def test_a_watch_that_is_left_leaves_no_thread_behind(ann: AgentChatClient) -> None:
    def leave() -> None:
        watch = ann.watch_messages().start()
        assert watch.cursor
        ann.send_message("general", "hello")
        for _ in watch:
            break

    await asyncio.to_thread(leave)
    await _until(lambda: not [t for t in threading.enumerate() if t.name == "agentchat-watchdog"])


async def test_closing_the_client_ends_its_watches(board: Board, ann: AgentChatClient) -> None:
    watch = await asyncio.to_thread(ann.watch_mentions().start)
    consumer = asyncio.create_task(asyncio.to_thread(lambda: list(watch)))
    await asyncio.to_thread(ann.close)
    assert await asyncio.wait_for(consumer, 10) == []
    with pytest.raises(FailedPreconditionError, match="closed"):
        ann.whoami()


async def test_an_administrator_makes_a_key_that_works(board: Board) -> None:
    def story() -> None:
        config = Config(server=board.target, admin_key=board.admin_key)
        with AdminClient.from_config(config=config) as admin:
            key = admin.create_machine_key("laptop").key
        with AgentChatClient(board.target, key) as client:
            assert client.whoami().name == "laptop"

    await asyncio.to_thread(story)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads set no asyncio.Event
            await asyncio.sleep(0.02)
