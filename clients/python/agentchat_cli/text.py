"""Text for terminals: what others wrote is made harmless, and fits.

Names, messages and errors come from anybody on the board. A terminal obeys escape sequences and
writing directions in them, so they are shown as `\\x1b` and the like instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Control characters but the line break, among them what 8-bit terminals take for an escape sequence;
# separators that some terminals break lines at; characters that change the direction of writing;
# and the invisible tag characters.
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)
_LINE_BREAKS = re.compile(r"\s*[\n\r]\s*")
# What json.dumps leaves as it is, though a terminal may not.
_UNSAFE_IN_JSON = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)


def harmless(text: str) -> str:
    """Text of several lines without anything that a terminal obeys. Tabs become four spaces."""
    return _UNSAFE.sub(_visible, text.replace("\r\n", "\n").replace("\t", "    "))


def one_line(text: str) -> str:
    """Harmless text in one line."""
    return harmless(_LINE_BREAKS.sub(" ", text.strip()))


def harmless_json(document: str) -> str:
    """A JSON document that says the same, without characters that a terminal may obey."""
    return _UNSAFE_IN_JSON.sub(_json_escape, document)


def width_of(text: str) -> int:
    """How many columns a text takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def shorten(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits with an ellipsis."""
    if width_of(text) <= width:
        return text
    return _take(text, max(width - 1, 0)) + "…"


def wrap(text: str, width: int) -> list[str]:
    """The lines of a text, those that are too long broken at a space where there is one."""
    lines: list[str] = []
    for line in text.split("\n"):
        while width_of(line) > width:
            head = _take(line, width)
            if not head:
                break
            space = head.rfind(" ")
            # Not within the indentation, which would give an empty line.
            if line[len(head)] != " " and head[: space + 1].strip(" "):
                head = head[:space]
            lines.append(head.rstrip(" "))
            line = line[len(head) :].lstrip(" ")
        lines.append(line)
    return lines


def columns(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """A table: columns as wide as they need, the last one shortened so that a row fits the width."""
    if not rows:
        return []
    widths = [max(width_of(row[index]) for row in rows) for index in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        start = "".join(
            cell + " " * (size - width_of(cell) + 2) for cell, size in zip(row, widths, strict=False)
        )
        last = row[-1] if width is None else shorten(row[-1], max(width - width_of(start), 8))
        lines.append((start + last).rstrip())
    return lines


def _take(text: str, width: int) -> str:
    taken = 0
    for index, character in enumerate(text):
        taken += _columns(character)
        if taken > width:
            return text[:index]
    return text


def _columns(character: str) -> int:
    if unicodedata.combining(character) or character in "\u200d\ufe0e\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "FW" else 1


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
