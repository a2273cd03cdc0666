"""The checks of request fields: what passes, what is refused and with which words."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from agentchat_server import fields
from agentchat_server.refusals import InvalidField
from tests.board import as_struct

HOUR = timedelta(hours=1)


def problem(check: Any, *arguments: Any, **options: Any) -> str:
    """What a check says of a value that it refuses."""
    with pytest.raises(InvalidField) as refusal:
        check(*arguments, **options)
    return refusal.value.message


@pytest.mark.parametrize("value", ["ab", "a1", "0-", "server-x", "a" * 100, "a--b"])
def test_names_are_taken(value: str) -> None:
    assert fields.is_name(value)
    assert fields.name("channel", value) == value


@pytest.mark.parametrize(
    "value", ["a", "-a", "A1", "a_b", "a.b", "a b", "ab\n", "\nab", "ünï", "٣٣", "a" * 101, "ab\x00"]
)
def test_what_is_no_name_is_refused(value: str) -> None:
    assert not fields.is_name(value)
    assert problem(fields.name, "channel", value).startswith("channel: must be 2 to 100 lower-case letters")


def test_what_is_missing_is_said_to_be_required() -> None:
    assert problem(fields.name, "channel", "") == "channel: required"
    assert problem(fields.uuid, "message_id", "") == "message_id: required"


@given(st.uuids())
def test_uuids_are_taken_in_either_case(value: UUID) -> None:
    assert fields.uuid("id", str(value)) == value
    assert fields.uuid("id", str(value).upper()) == value


@pytest.mark.parametrize(
    "value",
    [
        "1234",
        "0199d2a55f7c7e648d0f3a4b5c6d7e8f",
        "{0199d2a5-5f7c-7e64-8d0f-3a4b5c6d7e8f}",
        "urn:uuid:0199d2a5-5f7c-7e64-8d0f-3a4b5c6d7e8f",
        "0199d2a5-5f7c-7e64-8d0f-3a4b5c6d7e8f\n",
        "0199d2a5-5f7c-7e64-8d0f-3a4b5c6d7e8g",
        "0199d2a5-5f7c-7e64-8d0f-3a4b5c6d7e٣٣",
    ],
)
def test_other_forms_of_a_uuid_are_refused(value: str) -> None:
    assert problem(fields.uuid, "id", value) == "id: must be a UUID"


def test_a_text_has_a_limit_in_characters_and_no_nul() -> None:
    assert fields.text("description", "", 500) == ""
    assert fields.text("description", "🎉" * 500, 500) == "🎉" * 500
    assert (
        problem(fields.text, "description", "x" * 1501, 1500)
        == "description: must be at most 1,500 characters, not 1,501"
    )
    assert problem(fields.text, "description", "\x00", 5) == "description: must not contain NUL characters"


def test_content_is_taken_as_it_is() -> None:
    for value in (" x ", "\u200b", "🎉" * 32_000):
        assert fields.content(value) == value


@pytest.mark.parametrize("value", ["", " ", "\n\t\r", "\u00a0\u2003", "x" * 32_001, "a\x00"])
def test_content_that_is_empty_too_long_or_has_a_nul_is_refused(value: str) -> None:
    assert problem(fields.content, value).startswith("content: must ")


def test_a_query_has_1_to_500_characters() -> None:
    assert fields.query("x" * 500) == "x" * 500
    for value in ("", " ", "x" * 501, "\x00"):
        assert problem(fields.query, value).startswith("query: must ")


def test_a_page_size_of_0_is_the_default() -> None:
    assert fields.page_size(0, default=20, maximum=200) == 20
    assert fields.page_size(1, default=20, maximum=200) == 1
    assert fields.page_size(200, default=20, maximum=200) == 200
    for value in (-1, 201, 2**31 - 1):
        assert (
            problem(fields.page_size, value, default=20, maximum=200)
            == "page_size: must be 1 to 200, or 0 for the default of 20"
        )


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_moment_comes_back_to_the_microsecond(value: datetime) -> None:
    stamp = Timestamp()
    stamp.FromDatetime(value)
    assert fields.moment("before", stamp) == value


def test_a_moment_is_cut_to_microseconds() -> None:
    assert fields.moment("before", Timestamp(seconds=1, nanos=1_999)) == datetime(
        1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC
    )


@pytest.mark.parametrize("stamp", [Timestamp(nanos=-1), Timestamp(nanos=1_000_000_000)])
def test_a_moment_with_impossible_nanoseconds_is_refused(stamp: Timestamp) -> None:
    assert problem(fields.moment, "before", stamp) == "before: must be a valid timestamp"


@pytest.mark.parametrize("seconds", [253_402_300_800, -62_135_596_801, 2**63 - 1, -(2**63)])
def test_a_moment_outside_the_calendar_is_refused(seconds: int) -> None:
    stamp = Timestamp(seconds=seconds)
    assert problem(fields.moment, "before", stamp) == "before: must be between the years 1 and 9999"


def test_an_upper_bound_is_rounded_up_to_microseconds() -> None:
    second = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert fields.upper_bound("before", Timestamp(seconds=1)) == second
    assert fields.upper_bound("before", Timestamp(seconds=1, nanos=1)) == second.replace(microsecond=1)
    assert fields.upper_bound("before", Timestamp(seconds=1, nanos=1_000)) == second.replace(microsecond=1)
    assert problem(fields.upper_bound, "before", Timestamp(nanos=-1)) == "before: must be a valid timestamp"


def test_just_after_is_a_microsecond_later_while_there_is_one() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert fields.just_after(moment) - moment == timedelta(microseconds=1)
    last = datetime.max.replace(tzinfo=UTC)
    assert fields.just_after(last) == last


def test_a_duration_within_its_bounds_is_taken() -> None:
    for duration, expected in [
        (Duration(seconds=1), timedelta(seconds=1)),
        (Duration(seconds=3600), HOUR),
        (Duration(seconds=1, nanos=500_000_000), timedelta(seconds=1.5)),
    ]:
        assert fields.duration("lease", duration, least=timedelta(seconds=1), most=HOUR) == expected


@pytest.mark.parametrize(
    "duration",
    [
        Duration(),
        Duration(seconds=-1),
        Duration(seconds=3600, nanos=1_000),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
    ],
)
def test_a_duration_out_of_bounds_is_refused(duration: Duration) -> None:
    said = problem(fields.duration, "lease", duration, least=timedelta(seconds=1), most=HOUR)
    assert said == "lease: must be between 1 second and 1 hour"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(max_size=8).map(
        lambda text: "".join(c for c in text if c != "\x00" and not "\ud800" <= c <= "\udfff")
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["project", "a b", "ü"]), json_values))
def test_metadata_comes_back_as_json_with_whole_numbers(value: dict[str, Any]) -> None:
    encoded = fields.metadata(as_struct(value))
    assert json.loads(encoded) == value
    assert ".0" not in encoded or any(".0" in text for text in _texts(value))


def _texts(value: Any) -> list[str]:
    match value:
        case dict():
            return [text for inner in value.values() for text in _texts(inner)]
        case list():
            return [text for inner in value for text in _texts(inner)]
        case str():
            return [value]
        case _:
            return []


def test_metadata_keeps_fractions_and_an_empty_object() -> None:
    assert fields.metadata(Struct()) == "{}"
    assert json.loads(fields.metadata(as_struct({"n": 0.1, "big": 2.0**60}))) == {"n": 0.1, "big": 2.0**60}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_metadata_with_a_number_that_json_lacks_is_refused(number: float) -> None:
    for value in ({"n": number}, {"deep": [{"n": number}]}):
        assert problem(fields.metadata, as_struct(value)) == "metadata: numbers must be finite"


def test_metadata_with_a_nul_anywhere_is_refused() -> None:
    for value in ({"a": "\x00"}, {"\x00": 1}, {"a": [{"b": "\x00"}]}, {"a": {"\x00": 1}}):
        assert problem(fields.metadata, as_struct(value)) == "metadata: must not contain NUL characters"


def test_metadata_has_4096_bytes_at_most() -> None:
    frame = len('{"a":""}')
    assert len(fields.metadata(as_struct({"a": "x" * (4096 - frame)}))) == 4096
    for text in ("x" * (4097 - frame), "ü" * ((4098 - frame) // 2)):
        assert (
            problem(fields.metadata, as_struct({"a": text}))
            == "metadata: must be at most 4,096 bytes as JSON"
        )
