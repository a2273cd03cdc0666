"""What callers get, and its JSON form."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from agentchat import InvalidArgumentError, Page
from agentchat._conversion import (
    agent,
    board,
    channel,
    claim,
    json_object,
    mention,
    sent_message,
    watched_mention,
    watched_message,
)
from agentchat._conversion import message as convert_message
from agentchat._requests import build, names, page_size, struct, timestamp
from agentchat.types import rfc3339
from agentchat_proto.v1 import (
    agent_pb2,
    board_service_pb2,
    channel_pb2,
    mention_pb2,
    mention_service_pb2,
    message_pb2,
    message_service_pb2,
)

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 120, tzinfo=UTC)
SHOWN = "2026-01-31T12:00:00.000120Z"


def wire_message(**fields: Any) -> message_pb2.Message:
    return message_pb2.Message(
        id="m1",
        seq=7,
        ordinal=3,
        channel_id="c1",
        channel_name="general",
        author_agent_id="a1",
        author_name="laptop-x",
        content="hi",
        created_at=timestamp(MOMENT, "created_at"),
        **fields,
    )


MESSAGE_JSON = {
    "id": "m1",
    "seq": 7,
    "channel_id": "c1",
    "channel_name": "general",
    "author_agent_id": "a1",
    "author_name": "laptop-x",
    "content": "hi",
    "created_at": SHOWN,
    "parent_message_id": None,
    "metadata": None,
}


def test_a_message_has_the_json_shape_of_the_http_interface() -> None:
    assert convert_message(wire_message()).to_json() == MESSAGE_JSON
    full = convert_message(wire_message(parent_message_id="m0", metadata=struct({"n": 1})))
    assert full.to_json() == {**MESSAGE_JSON, "parent_message_id": "m0", "metadata": {"n": 1}}
    assert list(full.to_json()) == list(MESSAGE_JSON)
    assert hash(full)


def test_an_author_of_unknown_kind_is_an_agent() -> None:
    assert convert_message(wire_message()).author_kind == "agent"
    assert convert_message(wire_message(author_kind=agent_pb2.AGENT_KIND_HUMAN)).author_kind == "human"


def test_a_sent_message_lists_whom_it_mentions() -> None:
    sent = sent_message(
        message_service_pb2.SendMessageResponse(
            message=wire_message(),
            mentioned=[message_service_pb2.MentionedAgent(agent_id="a2", name="ben")],
            unknown_mentions=["nobody"],
            replayed=True,
        )
    )
    assert sent.replayed
    assert sent.to_json() == {
        "message": MESSAGE_JSON,
        "mentioned": [{"agent_id": "a2", "name": "ben"}],
        "unknown_mentions": ["nobody"],
    }


def test_a_watched_message_says_whether_it_mentions_the_caller_and_a_checkpoint_is_none() -> None:
    posted = message_service_pb2.MessagePosted(message=wire_message(), mention_id="n1")
    event = watched_message(message_service_pb2.WatchMessagesResponse(message_posted=posted, cursor="k"))
    assert event is not None
    assert event.to_json() == {**MESSAGE_JSON, "mention_id": "n1", "cursor": "k"}
    checkpoint = message_service_pb2.WatchMessagesResponse(
        checkpoint=message_service_pb2.Checkpoint(), cursor="k"
    )
    assert watched_message(checkpoint) is None
    assert watched_message(message_service_pb2.WatchMessagesResponse(cursor="k")) is None


def test_a_mention_calls_its_author_from() -> None:
    wire = mention_pb2.Mention(
        id="n1",
        message_id="m1",
        channel_name="general",
        from_agent_name="ben",
        content="@ann",
        created_at=timestamp(MOMENT, "created_at"),
    )
    expected = {
        "mention_id": "n1",
        "message_id": "m1",
        "channel": "general",
        "from": "ben",
        "from_project": None,
        "content": "@ann",
        "timestamp": SHOWN,
        "read": False,
    }
    assert mention(wire).to_json() == expected
    event = watched_mention(
        mention_service_pb2.WatchMentionsResponse(
            mention_received=mention_service_pb2.MentionReceived(mention=wire, redelivered=True), cursor="k"
        )
    )
    assert event is not None
    assert event.to_json() == {**expected, "redelivered": True, "cursor": "k"}
    assert event.from_agent == "ben"
    wire.claimed_until.FromDatetime(MOMENT)
    won = claim(mention_service_pb2.ClaimMentionResponse(mention=wire, claim_token="t1"))
    assert won.to_json() == {"mention": expected, "claim_token": "t1", "claimed_until": SHOWN}
    wire.read_at.FromDatetime(MOMENT)
    assert mention(wire).read


def test_the_board_is_a_sequence_of_channels() -> None:
    wire = board_service_pb2.GetBoardResponse(
        channels=[
            board_service_pb2.BoardChannel(
                channel=channel_pb2.Channel(
                    id="c1",
                    name="tech-go",
                    type=channel_pb2.CHANNEL_TYPE_TECHNOLOGY,
                    role=channel_pb2.MEMBERSHIP_ROLE_ADMIN,
                    unread_count=2,
                )
            )
        ],
        unread_mention_count=5,
    )
    shown = board(wire)
    assert [(ch.channel_name, ch.unread_count) for ch in shown] == [("tech-go", 2)]
    assert len(shown) == 1
    assert shown[0].role == "admin"
    assert shown.to_json() == {
        "channels": [
            {
                "channel_id": "c1",
                "channel_name": "tech-go",
                "channel_type": "technology",
                "role": "admin",
                "unread_count": 2,
                "latest_message": None,
            }
        ],
        "unread_mentions": 5,
    }


def test_channels_and_agents_have_the_json_shape_of_the_http_interface() -> None:
    wire_channel = channel_pb2.Channel(id="c1", name="x", created_at=timestamp(MOMENT, "created_at"))
    assert channel(wire_channel).to_json() == {
        "id": "c1",
        "name": "x",
        "type": "global",
        "description": "",
        "role": None,
        "archived": False,
        "created_at": SHOWN,
    }
    wire_agent = agent_pb2.Agent(id="a1", name="ann", active=True)
    assert agent(wire_agent).to_json() == {
        "id": "a1",
        "name": "ann",
        "description": "",
        "active": True,
        "online": False,
        "last_seen_at": None,
    }


def test_times_are_shown_in_utc_with_microseconds() -> None:
    berlin = timezone(timedelta(hours=1))
    assert rfc3339(datetime(2026, 1, 1, 0, 30, tzinfo=berlin)) == "2025-12-31T23:30:00.000000Z"
    assert rfc3339(None) is None


def test_a_page_behaves_as_a_sequence() -> None:
    page = Page(("a", "b", "c"), "next")
    assert list(page) == ["a", "b", "c"]
    assert (page[0], page[-1], page[1:], len(page), "b" in page) == ("a", "c", ("b", "c"), 3, True)
    assert list(reversed(page)) == ["c", "b", "a"]
    assert not Page(())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=4))
def test_metadata_come_back_as_they_were(value: dict[str, Any]) -> None:
    sent = struct(value)
    assert sent is not None
    received = json_object(Struct.FromString(sent.SerializeToString()))
    assert received == value
    json.dumps(received, allow_nan=False)


@pytest.mark.parametrize(
    "value",
    [
        {"x": float("nan")},
        {"x": [float("inf")]},
        {"x": {1: 2}},
        {"x": b"bytes"},
        {"x": MOMENT},
        {"\ud800": 1},
        json.loads('{"x":' * 17 + "1" + "}" * 17),
        {"x": json.loads("[" * 200 + "]" * 200)},
    ],
)
def test_metadata_that_are_no_json_are_refused_before_they_are_sent(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="metadata"):
        struct(value)


def test_arguments_that_cannot_be_sent_are_refused_before_they_are_sent() -> None:
    with pytest.raises(InvalidArgumentError, match="time zone"):
        timestamp(datetime(2026, 1, 1), "before")  # noqa: DTZ001 - the point
    for limit in (0, -1, 2**40):
        with pytest.raises(InvalidArgumentError, match="limit"):
            page_size(limit)
    with pytest.raises(InvalidArgumentError):
        build(message_service_pb2.SendMessageRequest, channel="x", content="\ud800")


def test_a_name_alone_stands_for_a_list_of_one() -> None:
    assert names("general") == ["general"]
    assert names(["a", "b"]) == ["a", "b"]
    assert names(None) == []
