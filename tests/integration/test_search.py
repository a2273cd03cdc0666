"""Full-text search, through the server."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from agentchat_proto.v1 import admin_service_pb2
from agentchat_proto.v1 import search_service_pb2 as pb
from tests.board import Agent, Board, Failure
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres


async def search(agent: Agent, query: str, **fields: Any) -> pb.SearchMessagesResponse:
    response: pb.SearchMessagesResponse = await agent.search.SearchMessages(
        pb.SearchMessagesRequest(query=query, **fields)
    )
    return response


async def found(agent: Agent, query: str, **fields: Any) -> list[str]:
    """The contents of what a query finds."""
    return [result.message.content for result in (await search(agent, query, **fields)).results]


def moved(moment: Timestamp, *, microseconds: int) -> Timestamp:
    """A moment, later or earlier."""
    result = Timestamp()
    result.FromMicroseconds(moment.ToMicroseconds() + microseconds)
    return result


async def test_queries_are_as_in_a_web_search(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for content in ("the quick brown fox", "a fox and a hound", "badgers were running"):
        await ada.send("general", content)
    for query, expected in [
        ("fox", {"the quick brown fox", "a fox and a hound"}),
        ("FOX", {"the quick brown fox", "a fox and a hound"}),
        # All words, in any order.
        ("fox quick", {"the quick brown fox"}),
        ("fox badger", set()),
        ('"quick brown"', {"the quick brown fox"}),
        ('"brown quick"', set()),
        ("hound or badger", {"a fox and a hound", "badgers were running"}),
        ("fox -hound", {"the quick brown fox"}),
        ('fox -"quick brown"', {"a fox and a hound"}),
        # Stemming, in both directions.
        ("badger run", {"badgers were running"}),
        ("foxes", {"the quick brown fox", "a fox and a hound"}),
        # Only whole words.
        ("bad", set()),
    ]:
        assert set(await found(ada, query)) == expected, query


async def test_a_result_is_the_whole_message_and_marks_nothing_read(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    parent = (await ada.send("project-x", "where is the needle?")).message
    sent = (
        await ada.send(
            "project-x", "in the haystack: @bob", metadata={"project": "x"}, parent_message_id=parent.id
        )
    ).message
    (result,) = (await search(bob, "haystack")).results
    assert result.message == sent
    assert result.rank > 0
    assert (await bob.unread_mentions()).unread_count == 1


async def test_results_come_from_archived_channels_and_ones_not_joined(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    await ada.send("project-x", "needle")
    await board.admin.ArchiveChannel(admin_service_pb2.ArchiveChannelRequest(channel="project-x"))
    assert await found(bob, "needle") == ["needle"]


async def test_results_can_be_of_one_channel_and_one_author(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for agent in (ada, bob):
        for channel in ("general", "project-x"):
            await agent.send(channel, f"needle of {agent.name} in {channel}")
    assert set(await found(ada, "needle", channel="general")) == {
        "needle of ada in general",
        "needle of bob in general",
    }
    assert set(await found(ada, "needle", author="bob")) == {
        "needle of bob in general",
        "needle of bob in project-x",
    }
    assert await found(ada, "needle", channel="project-x", author="ada") == ["needle of ada in project-x"]
    assert await found(ada, "needle", channel="tech-typescript") == []


async def test_before_and_after_bound_results_exactly(board: Board) -> None:
    (ada,) = await board.agents("ada")
    times = [(await ada.send("general", f"needle {n}")).message.created_at for n in range(5)]
    assert await found(ada, "needle", after=times[1], before=times[3]) == ["needle 2"]
    assert await found(ada, "needle", before=times[1]) == ["needle 0"]
    assert await found(ada, "needle", after=times[3]) == ["needle 4"]
    assert await found(ada, "needle", before=moved(times[1], microseconds=1)) == ["needle 1", "needle 0"]
    assert await found(ada, "needle", after=moved(times[3], microseconds=-1)) == ["needle 4", "needle 3"]
    assert await found(ada, "needle", before=times[0]) == []
    assert await found(ada, "needle", after=times[4]) == []
    assert await found(ada, "needle", after=times[3], before=times[1]) == []
    assert len(await found(ada, "needle", after=Timestamp(), before=moved(times[4], microseconds=1))) == 5
    # Half a microsecond more includes a message, half a microsecond does not exclude the next.
    later = Timestamp(seconds=times[1].seconds, nanos=times[1].nanos + 500)
    assert await found(ada, "needle", before=later) == ["needle 1", "needle 0"]
    assert await found(ada, "needle", after=later) == ["needle 4", "needle 3", "needle 2"]


async def test_the_first_and_the_last_moment_of_the_calendar_are_bounds_like_others(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("general", "needle")
    first, last = Timestamp(), Timestamp()
    first.FromDatetime(datetime(1, 1, 1, tzinfo=UTC))
    last.FromDatetime(datetime.max.replace(tzinfo=UTC))
    assert await found(ada, "needle", after=first, before=last) == ["needle"]
    assert await found(ada, "needle", before=first) == []
    assert await found(ada, "needle", after=last) == []


async def test_a_moment_that_is_none_is_refused(board: Board) -> None:
    (ada,) = await board.agents("ada")
    moments = (Timestamp(nanos=-1), Timestamp(nanos=10**9), Timestamp(seconds=2**62))
    for field, moment in itertools.product(("before", "after"), moments):
        with pytest.raises(Failure) as failure:
            await search(ada, "needle", **{field: moment})
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.fields == [field]


async def test_a_snippet_marks_every_hit(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("general", "Deploying is easy, deploy early; undeployed stays")
    (result,) = (await search(ada, "deployed")).results
    assert result.snippet == "**Deploying** is easy, **deploy** early; undeployed stays"


async def test_a_snippet_of_a_long_message_has_the_passages_that_match(board: Board) -> None:
    (ada,) = await board.agents("ada")
    filler = " ".join(f"word{n}" for n in range(300))
    await ada.send("general", f"{filler} needle {filler} needle {filler}")
    (result,) = (await search(ada, "needle")).results
    assert result.snippet.count("**needle**") == 2
    assert result.snippet.count(" … ") == 1
    assert len(result.snippet.replace(" … ", " ").split()) <= 60


async def test_a_snippet_has_at_most_2000_characters_whatever_the_message(board: Board) -> None:
    (ada,) = await board.agents("ada")
    contents = [
        "needle " + "x" * 30_000,
        "x" * 30_000 + " needle",
        ("🎉" * 1_500 + " needle ") * 20,
        "needle " + "https://example.com/" + "a/" * 10_000,
        "needle" + " \n" * 10_000 + "needle",
    ]
    for content in contents:
        await ada.send("general", content)
    results = (await search(ada, "needle")).results
    assert {result.message.content for result in results} == set(contents)
    assert all(len(result.snippet) <= 2_000 for result in results)
    assert any("**needle**" in result.snippet for result in results)


async def test_the_best_match_comes_first_and_among_equals_the_newest(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for content in ("needle one", "needle needle needle", "needle two", "needle tree"):
        await ada.send("general", content)
    response = await search(ada, "needle")
    assert [result.message.content for result in response.results] == [
        "needle needle needle",
        "needle tree",
        "needle two",
        "needle one",
    ]
    ranks = [result.rank for result in response.results]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks[1:])) == 1


async def test_pages_have_every_result_once_while_others_post(board: Board) -> None:
    ada, bob = await board.agents("ada", "bob")
    for number in range(7):
        # Some rank alike, some do not.
        await ada.send("general", "needle " * (number % 3 + 1) + f"{number}")
    expected = await found(ada, "needle")
    pages: list[list[str]] = []
    token = ""
    while True:
        response = await search(ada, "needle", page_size=2, page_token=token)
        pages.append([result.message.content for result in response.results])
        token = response.next_page_token
        if not token:
            break
        await bob.send("general", "needle needle needle needle, a better one")
        await bob.send("general", "needle, a worse one")
    assert [len(page) for page in pages] == [2, 2, 2, 1]
    assert [content for page in pages for content in page] == expected
    assert len(await found(ada, "needle")) == 7 + 6


async def test_a_page_that_holds_exactly_all_results_is_the_last(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for number in range(4):
        await ada.send("general", f"needle {number}")
    first = await search(ada, "needle", page_size=2)
    second = await search(ada, "needle", page_size=2, page_token=first.next_page_token)
    assert len(second.results) == 2
    assert second.next_page_token == ""


async def test_a_page_of_large_results_ends_below_the_limit_of_grpc(board: Board) -> None:
    (ada,) = await board.agents("ada")
    # 40 times 125 KiB is more than the 4 MiB that a client takes.
    for number in range(40):
        await ada.send("general", f"needle {number:02} " + "🎉" * 31_000)
    contents: list[str] = []
    token, pages = "", 0
    while True:
        response = await search(ada, "needle", page_size=50, page_token=token)
        contents += [result.message.content[7:9] for result in response.results]
        pages += 1
        token = response.next_page_token
        if not token:
            break
    assert contents == [f"{number:02}" for number in reversed(range(40))]
    assert pages > 1


async def test_a_page_has_20_results_by_default_and_at_most_50(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for number in range(51):
        await ada.send("general", f"needle {number}")
    assert len(await found(ada, "needle")) == 20
    assert len(await found(ada, "needle", page_size=50)) == 50
    for size in (-1, 51):
        with pytest.raises(Failure) as failure:
            await search(ada, "needle", page_size=size)
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.fields == ["page_size"]


async def test_a_token_of_other_filters_or_another_list_is_refused(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for number in range(2):
        await ada.send("general", f"needle {number}")
    sent = await ada.send("general", "needle 2")
    token = (await search(ada, "needle", page_size=1)).next_page_token
    of_a_channel = (await ada.read("general", page_size=1)).next_page_token
    moment = moved(sent.message.created_at, microseconds=1)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("needles", {"page_token": token}),
        ("needle", {"page_token": token, "channel": "general"}),
        ("needle", {"page_token": token, "author": "ada"}),
        ("needle", {"page_token": token, "before": moment}),
        ("needle", {"page_token": token, "after": Timestamp()}),
        ("needle", {"page_token": token[:-2]}),
        ("needle", {"page_token": of_a_channel}),
        ("needle", {"page_token": "ünïcode"}),
        ("needle", {"page_token": "x" * 10_000}),
    ]
    for query, fields in refused:
        with pytest.raises(Failure) as failure:
            await search(ada, query, **fields)
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.reason == "PAGE_TOKEN_INVALID"
    # Only the size may change.
    assert await found(ada, "needle", page_token=token, page_size=5) == ["needle 1", "needle 0"]


async def test_a_query_that_breaks_a_limit_is_refused(board: Board) -> None:
    (ada,) = await board.agents("ada")
    for query in ("", " \t\n ", "x" * 501, "nul \x00 inside"):
        with pytest.raises(Failure) as failure:
            await search(ada, query)
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.reason == "FIELD_INVALID"
        assert failure.value.fields == ["query"]


async def test_a_query_of_500_characters_is_taken(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("general", "needle")
    assert await found(ada, ("needle " * 100)[:500]) == []
    assert await found(ada, ("needle " * 100)[:497]) == ["needle"]
    assert await found(ada, "🎉" * 500) == []


async def test_odd_syntax_never_fails_and_finds_nothing_without_a_searchable_word(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("general", "the needle and the haystack, and it is all there")
    await ada.send("general", "something else")
    for query in ("-needle", "-the", '-"the needle"', "-needle -haystack", "-needle or -haystack", "-absent"):
        assert await found(ada, query) == [], query
    for query in ("the", "and the of", "is it", "🎉", "!!!", '""', "-", "--", "or", "or or", '"', "()", "\\"):
        assert await found(ada, query) == [], query
    for query in (
        '"unclosed & ( ! :*',
        "needle & ( ! :*",
        "needle:*",
        "'needle' | !haystack",
        "needle <-> haystack",
        "needle or",
        "or needle",
        '-"needle',
        "needle\\",
        "%s %(query)s %",
        "'; drop table agentchat.messages; --",
        "$1 :name {curly}",
        "\u202e\u200b needle \ufffe",
        "a:b c:d,A",
        "((((((((((" * 50,
        "- " * 250,
    ):
        await search(ada, query)
    assert len(await found(ada, "needle &")) == 1


async def test_a_filter_that_names_nothing_is_not_found(board: Board) -> None:
    (ada,) = await board.agents("ada")
    with pytest.raises(Failure) as failure:
        await search(ada, "needle", channel="project-nowhere")
    assert failure.value.code is StatusCode.NOT_FOUND
    assert failure.value.reason == "CHANNEL_NOT_FOUND"
    assert failure.value.metadata == {"channel": "project-nowhere"}
    with pytest.raises(Failure) as failure:
        await search(ada, "needle", author="nobody")
    assert failure.value.code is StatusCode.NOT_FOUND
    assert failure.value.reason == "AGENT_NOT_FOUND"
    assert failure.value.metadata == {"agent": "nobody"}
    for field in ("channel", "author"):
        with pytest.raises(Failure) as failure:
            await search(ada, "needle", **{field: "No Name"})
        assert failure.value.code is StatusCode.INVALID_ARGUMENT
        assert failure.value.fields == [field]


async def test_a_bound_in_the_future_is_no_bound(board: Board) -> None:
    (ada,) = await board.agents("ada")
    await ada.send("general", "needle")
    tomorrow = Timestamp()
    tomorrow.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    assert await found(ada, "needle", before=tomorrow) == ["needle"]
    assert await found(ada, "needle", after=tomorrow) == []
