"""What to send, found by looking at the messages of the contract, so that a new rpc is fuzzed unlisted.

Every field has good values, by its type and, for text, by its name, and hostile ones. Hostile alone seldom
comes far: one bad field is refused before the next is looked at. So a message is all good, or good but for
one field, or anything.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from tests.fuzz.wire import TWISTS, Forged, Known, Nested, Plan, Repeated, Unknown

Values: TypeAlias = "st.SearchStrategy[Any]"

# Text that means something, by the name of the field it is sent in.
_KINDS = {
    "agent": "agents",
    "author": "agents",
    "channel": "channels",
    "channels": "channels",
    "claim_token": "claim_tokens",
    "cursor": "cursors",
    "download_token": "download_tokens",
    "key_id": "machine_keys",
    "machine": "machines",
    "mention_id": "mentions",
    "mention_ids": "mentions",
    "message_id": "messages",
    "page_token": "page_tokens",
    "parent_message_id": "messages",
    "path": "paths",
    "request_id": "request_ids",
    "target_agent": "agents",
}
# Those of them that mean something else, or nothing, when they are empty.
_MAY_BE_EMPTY = {"author", "channel", "cursor", "page_token"}
_PLAIN_TEXT = {
    "content_type": ["", "text/plain", 'text/plain; charset="utf-8"'],
    "name": ["notes.txt", "Ünïcode 🚀.md"],
    "sha256": [""],
}
_WORDS = ["hello", "rocket", "@forge-beta please look", 'a -b or "c d"', "@nobody-here @harbor-gamma: go"]

_BOUNDS = [0, 1, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1]
EXTREME_INTEGERS = sorted({*_BOUNDS, *(-bound for bound in _BOUNDS), -(2**31), -(2**63)})

_HOSTILE_CHARACTERS = [*"\x00\x01\n\x7f\u00a0\u200b\u202e\u2028\ufeff🚀İß"]
hostile_text: Values = st.one_of(
    st.sampled_from(
        ["", " ", "\x00", "\t\n", "\u3000", "..", "/", "-", "@", "@@", "a", "null", "NaN", "%s%n"]
    ),
    st.sampled_from(["'; drop table agentchat.messages; --", "\\x00", "{}", "[]", "e\u0301" * 40]),
    st.text(max_size=40),
    st.builds(str.__add__, st.text(max_size=5), st.sampled_from(_HOSTILE_CHARACTERS)),
    st.builds(
        Repeated,
        st.sampled_from(["x", "-", "@a ", "é", "🚀", "\u202e", "((", '"', "a-"]),
        st.sampled_from([64, 65, 100, 101, 255, 256, 500, 501, 513, 10_000, 31_999, 32_000, 32_001, 40_000]),
    ),
    # No UTF-8.
    st.sampled_from([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]),
)
# What is first works best: the first mention has the first claim, the second has none.
_places = st.just(0) | st.just(1) | st.integers(0, 7)
_twists = st.sampled_from(sorted(TWISTS))
# Numbers as the tokens of the lists remember them, or anything.
any_token_bodies = st.one_of(
    st.sampled_from([number.to_bytes(8, "big", signed=True) for number in EXTREME_INTEGERS]),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: number.to_bytes(8, "big", signed=True)),
    st.sampled_from([b"\x7f\xc0\0\0", b"\x7f\x80\0\0", b"\xff\x80\0\0", b"\x3d\0\0\0"]).flatmap(
        lambda rank: st.binary(min_size=16, max_size=16).map(lambda rest: rank + rest)
    ),
    st.binary(min_size=16, max_size=16),
    st.binary(max_size=40),
)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.sampled_from([1e300, -1e-300, 2.0**53, -0.0])
    | st.text(max_size=10)
    | st.sampled_from(["\x00", "x" * 4096]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
unknown_fields = st.builds(
    Unknown,
    st.sampled_from(
        [b"\xc2\x3e\x03abc", b"\xd0\x3e\x05", b"\x0b\x0c", b"\x00", b"\xff\xff", b"\x0a\x7f", b"\x07"]
    ),
)


@st.composite
def plans(draw: st.DrawFn, descriptor: Descriptor) -> Plan:
    """A message of a type."""
    mood = draw(st.sampled_from(["good", "good", "one bad field", "one bad field", "anything"]))
    if mood == "anything":
        return draw(_any_plans(descriptor))
    bad = None
    if mood == "one bad field" and descriptor.fields:
        bad = draw(st.sampled_from([field.name for field in descriptor.fields]))
    return draw(_good_plans(descriptor, bad))


@st.composite
def _good_plans(draw: st.DrawFn, descriptor: Descriptor, bad: str | None = None) -> Plan:
    plan: list[tuple[str, Any]] = []
    chosen = {
        draw(st.sampled_from([field.name for field in oneof.fields]))
        for oneof in descriptor.oneofs
        if len(oneof.fields) > 1
    }
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1 and field.name not in chosen | {bad}:
            continue
        if field.name == bad:
            count = draw(st.sampled_from([0, 1, 1, 1, 3, 101])) if field.is_repeated else 1
            plan += [(field.name, draw(hostile_values(field)))] * count
        elif field.is_repeated:
            plan += [(field.name, value) for value in draw(st.lists(good_values(field), max_size=3))]
        elif not field.has_presence or field.name in chosen or draw(st.booleans()):
            plan.append((field.name, draw(good_values(field))))
    return tuple(plan)


@st.composite
def _any_plans(draw: st.DrawFn, descriptor: Descriptor) -> Plan:
    entries: Values = unknown_fields
    for field in descriptor.fields:
        either = good_values(field) | hostile_values(field)
        entries |= st.tuples(st.just(field.name), either)
    return tuple(draw(st.lists(entries, max_size=len(descriptor.fields) + 1)))


def good_values(field: FieldDescriptor) -> Values:
    """Values that a field may have, mostly."""
    match field.type:
        case FieldDescriptor.TYPE_STRING if field.name in _KINDS:
            known = st.builds(Known, st.just(_KINDS[field.name]), _places)
            return st.one_of(*[st.just("")] * 3, known) if field.name in _MAY_BE_EMPTY else known
        case FieldDescriptor.TYPE_STRING:
            return st.sampled_from(_PLAIN_TEXT.get(field.name, _WORDS))
        case FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=100)
        case FieldDescriptor.TYPE_MESSAGE:
            return _good_messages(field.message_type)
        case FieldDescriptor.TYPE_ENUM:
            return st.sampled_from(sorted(field.enum_type.values_by_number))
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return st.floats(0, 100, width=32)
        case _:
            return st.sampled_from([0, 1, 2, 50])


def hostile_values(field: FieldDescriptor) -> Values:
    """Values that a field had better not have."""
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            anything = st.builds(Known, st.sampled_from(sorted({*_KINDS.values()})), _places)
            if field.name not in _KINDS:
                return hostile_text | anything
            twisted: Values = st.builds(Known, st.just(_KINDS[field.name]), _places, _twists)
            if field.name == "page_token":
                twisted |= st.builds(Forged, _places, any_token_bodies)
            return hostile_text | anything | twisted
        case FieldDescriptor.TYPE_BYTES:
            return st.sampled_from([0, 1, 2**20, 2**20 + 1]).map(bytes)
        case FieldDescriptor.TYPE_MESSAGE:
            return _hostile_messages(field.message_type)
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return st.floats(width=32)
        case _:
            return st.sampled_from(EXTREME_INTEGERS) | st.integers(-(2**63), 2**63 - 1)


def _good_messages(descriptor: Descriptor) -> Values:
    match descriptor.full_name:
        case Timestamp.DESCRIPTOR.full_name:
            # The past, and the year 2100.
            return st.sampled_from([0, 1_700_000_000, 4_102_444_800]).map(lambda at: (("seconds", at),))
        case Duration.DESCRIPTOR.full_name:
            return st.integers(5, 3600).map(lambda seconds: (("seconds", seconds),))
        case Struct.DESCRIPTOR.full_name:
            return st.dictionaries(st.sampled_from(["project", "b"]), st.text(max_size=5) | st.integers(0, 9))
        case _:
            return _good_plans(descriptor)


def _hostile_messages(descriptor: Descriptor) -> Values:
    match descriptor.full_name:
        case Timestamp.DESCRIPTOR.full_name | Duration.DESCRIPTOR.full_name:
            # The first and the last second that a Timestamp may have, and that a Duration may have.
            edges = [-62_135_596_800, 253_402_300_799, 315_576_000_000, -315_576_000_000]
            seconds = st.sampled_from([*EXTREME_INTEGERS, *edges, *(edge + 1 for edge in edges)])
            nanos = st.sampled_from([0, 1, 999, 999_999_999, 10**9, -1, -(2**31), 2**31 - 1])
            return st.tuples(st.tuples(st.just("seconds"), seconds), st.tuples(st.just("nanos"), nanos))
        case Struct.DESCRIPTOR.full_name:
            depths = st.sampled_from([15, 16, 17, 31, 32, 33, 34, 50, 99, 1000])
            return st.dictionaries(st.text(max_size=5), _json, max_size=4) | st.builds(
                Nested, depths, st.booleans()
            )
        case _:
            return _any_plans(descriptor)
