"""Opaque strings that clients hand back: page tokens and cursors.

Both are URL-safe base64 of a few packed numbers. They are not secret and not signed: a forged one can
only point at another place of what its bearer may read anyway. They are checked, so that one which was
cut, mistyped or taken from another list is refused instead of misread.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from dataclasses import dataclass
from uuid import UUID

from agentchat_server.refusals import Refusal

_VERSION = 1
_CURSOR = struct.Struct(">B16sqI")
_HEAD = struct.Struct(">BII")
MAX_BIGINT = 2**63 - 1


@dataclass(frozen=True)
class Cursor:
    """A place in a log: behind the message with this seq."""

    log_id: UUID
    seq: int

    def encode(self) -> str:
        """The cursor as clients see it."""
        body = struct.pack(">B16sq", _VERSION, self.log_id.bytes, self.seq)
        return _to_text(body + struct.pack(">I", zlib.crc32(body)))

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Reads what `encode` wrote.

        Raises:
            Refusal: CURSOR_INVALID.
        """
        data = _to_bytes(text)
        if data is None or len(data) != _CURSOR.size:
            raise Refusal("CURSOR_INVALID")
        version, log_id, seq, checksum = _CURSOR.unpack(data)
        if version != _VERSION or zlib.crc32(data[:-4]) != checksum or seq < 0:
            raise Refusal("CURSOR_INVALID")
        return cls(UUID(bytes=log_id), seq)


class PageTokens:
    """Page tokens of one list.

    `layout` is a `struct` layout of what the token remembers, its last part possibly `s`, a name of any
    length. `filters` are what must not change between pages: a token made with others is refused.
    """

    def __init__(self, kind: str, layout: str, *filters: object) -> None:
        self._fingerprint = zlib.crc32(repr((kind, *filters)).encode())
        self._with_name = layout.endswith("s")
        self._layout = struct.Struct(">" + layout.removesuffix("s"))

    def encode(self, *position: float | str) -> str:
        """A token that remembers a position."""
        numbers = position[:-1] if self._with_name else position
        body = self._layout.pack(*numbers)
        if self._with_name:
            body += str(position[-1]).encode()
        return _to_text(_HEAD.pack(_VERSION, self._fingerprint, zlib.crc32(body)) + body)

    def decode(self, text: str) -> tuple[float | str, ...] | None:
        """The position in a token, None for no token.

        Raises:
            Refusal: PAGE_TOKEN_INVALID.
        """
        if not text:
            return None
        data = _to_bytes(text)
        least = _HEAD.size + self._layout.size
        if data is None or len(data) < least or (len(data) > least and not self._with_name):
            raise Refusal("PAGE_TOKEN_INVALID")
        version, fingerprint, checksum = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if version != _VERSION or fingerprint != self._fingerprint or zlib.crc32(body) != checksum:
            raise Refusal("PAGE_TOKEN_INVALID")
        position: tuple[float | str, ...] = self._layout.unpack_from(body)
        if self._with_name:
            try:
                name = body[self._layout.size :].decode()
            except UnicodeDecodeError:
                raise Refusal("PAGE_TOKEN_INVALID") from None
            if "\x00" in name:
                raise Refusal("PAGE_TOKEN_INVALID")
            position = (*position, name)
        return position


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _to_bytes(text: str) -> bytes | None:
    if len(text) > 512:
        return None
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        return None
