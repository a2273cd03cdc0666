"""What is sent, written out byte by byte, so that it may be what no generated class would write.

A plan says what a message holds: a sequence of fields with their values, in the order of the wire, any field
any number of times. Text may stand for something that only the board knows, a `Known`, so that a plan means
the same on every board, and hypothesis can repeat it. A plan prints as it is written here.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.struct_pb2 import Struct

# By kind, as `fuzzed_board` fills it: channels, agents, messages, page_tokens, …
Knowledge: TypeAlias = Mapping[str, Sequence[str]]

TWISTS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "upper case": str.upper,
    "one more": lambda text: text + text[-1:],
    "one less": lambda text: text[:-1],
    "line feed": lambda text: text + "\n",
    "NUL": lambda text: text + "\x00",
    "space": lambda text: " " + text,
    "wide digits": lambda text: text.translate({ord("0") + n: 0xFF10 + n for n in range(10)}),
    "another version": lambda text: text[:14] + "9" + text[15:],
    "one bit": lambda text: text[:5] + chr(ord(text[5]) ^ 1) + text[6:] if len(text) > 5 else text,
    "braces": lambda text: "{" + text + "}",
    "no hyphens": lambda text: text.replace("-", ""),
    "up": lambda text: "../" + text,
}
"""What may be done to something known: nearly right is where checks go wrong."""


@dataclass(frozen=True)
class Known:
    """Something of the board, by kind and place, possibly twisted."""

    kind: str
    index: int
    twist: str = "as it is"

    def text(self, knowledge: Knowledge) -> str:
        known = knowledge[self.kind]
        return TWISTS[self.twist](known[self.index % len(known)])


@dataclass(frozen=True)
class Repeated:
    """A long text, printed short."""

    unit: str
    count: int

    def text(self, _knowledge: Knowledge) -> str:
        return self.unit * self.count


@dataclass(frozen=True)
class Forged:
    """A page token of the board that remembers something else, under the right checksum."""

    index: int
    body: bytes

    def text(self, knowledge: Knowledge) -> str:
        tokens = knowledge["page_tokens"]
        return forge(tokens[self.index % len(tokens)], self.body)


@dataclass(frozen=True)
class Nested:
    """A JSON object, nested so many levels deep, or a list in a list."""

    depth: int
    lists: bool = False


@dataclass(frozen=True)
class Unknown:
    """Bytes after the fields of a message: fields that nobody knows, or no fields at all."""

    data: bytes


Plan: TypeAlias = "tuple[tuple[str, Any] | Unknown, ...]"


def forge(token: str, body: bytes) -> str:
    """A page token with another body. The head is a version, what the list is, and a checksum of the body."""
    head = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[:5]
    return base64.urlsafe_b64encode(head + struct.pack(">I", zlib.crc32(body)) + body).rstrip(b"=").decode()


def damage(token: str, place: int) -> str:
    """A page token with another bit at a place."""
    data = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    data[place // 8 % len(data)] ^= 1 << place % 8
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def is_of_same_list(token: str, other: str) -> bool:
    """Whether two page tokens are of the same list with the same filters."""
    return token[:6] == other[:6]


def encode(descriptor: Descriptor, plan: Plan, knowledge: Knowledge) -> bytes:
    """The bytes of a message."""
    parts = []
    for entry in plan:
        if isinstance(entry, Unknown):
            parts.append(entry.data)
        else:
            name, value = entry
            parts.append(_field(descriptor.fields_by_name[name], value, knowledge))
    return b"".join(parts)


def _field(field: FieldDescriptor, value: Any, knowledge: Knowledge) -> bytes:
    match field.type:
        case FieldDescriptor.TYPE_STRING | FieldDescriptor.TYPE_BYTES:
            return delimited(field.number, _text(value, knowledge))
        case FieldDescriptor.TYPE_MESSAGE if field.message_type.full_name == Struct.DESCRIPTOR.full_name:
            return delimited(field.number, _struct(value))
        case FieldDescriptor.TYPE_MESSAGE:
            return delimited(field.number, encode(field.message_type, value, knowledge))
        case FieldDescriptor.TYPE_DOUBLE:
            return _varint(field.number << 3 | 1) + struct.pack("<d", value)
        case FieldDescriptor.TYPE_FLOAT:
            return _varint(field.number << 3 | 5) + struct.pack("<f", value)
        case _:
            return _varint(field.number << 3) + _varint(int(value))


def _text(value: Any, knowledge: Knowledge) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case _:
            text: str = value.text(knowledge)
            return text.encode()


def _struct(value: Any) -> bytes:
    if not isinstance(value, Nested):
        made = Struct()
        made.update(value)
        return made.SerializeToString()
    # A Value with null; then, from the inside out, a Struct in a Value, or a list in one.
    inner = _varint(1 << 3) + _varint(0)
    for _ in range(value.depth - 1):
        inner = delimited(6, delimited(1, inner)) if value.lists else delimited(5, _object(inner))
    return _object(inner)


def _object(value: bytes) -> bytes:
    return delimited(1, delimited(1, b"k") + delimited(2, value))


def delimited(number: int, data: bytes) -> bytes:
    """A field with a length in front."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
