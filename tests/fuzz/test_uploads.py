"""Uploads that break the rules in every order, end too early, or are given up.

An upload is made honest, then changed in a few places. Only one that is still honest may succeed; and after
every other one the board has no file, no message and no channel more than before, and the store no object.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

import grpc
from hypothesis import note
from hypothesis import strategies as st

from tests.fuzz.fuzzed_board import MAX_FILE_BYTES
from tests.fuzz.methods import METHODS
from tests.fuzz.oracle import Oracle
from tests.fuzz.properties import few_and_many, for_all
from tests.fuzz.strategies import EXTREME_INTEGERS, good_values, hostile_text, hostile_values
from tests.fuzz.wire import Known, Plan, encode

_UPLOAD = next(method for method in METHODS if method.descriptor.name == "UploadFile")
_METADATA = _UPLOAD.input.fields_by_name["metadata"]
_MAX_CHUNK = 1024 * 1024

_LIES = {
    "size": st.sampled_from([-1, 1, *EXTREME_INTEGERS]),
    "sha256": st.sampled_from(["0" * 64, "0" * 63, "g" * 64, "0" * 65]) | hostile_text,
    "channel": st.builds(Known, st.just("channels"), st.just(4)) | hostile_text,
    "name": hostile_text
    | st.sampled_from(["../../etc/passwd", "a/b", "\u202egpj.exe", "x" * 256, ".", "\x7f"]),
    "content_type": hostile_text | st.sampled_from(["text/html\r\nx: y", "a/b;c", "text"]),
    "request_id": st.builds(Known, st.just("request_ids"), st.integers(0, 3)) | hostile_text,
}


@dataclass(frozen=True)
class Chunk:
    """A chunk, printed short."""

    size: int

    def plan(self) -> Plan:
        return (("chunk", b"z" * self.size),)


_chunks = st.lists(st.sampled_from([0, 1, 1000, 64 * 1024, 128 * 1024]).map(Chunk), max_size=3)
_edits = st.sampled_from(
    [
        "no metadata",
        "metadata again",
        "chunk first",
        "a chunk less",
        "a chunk more",
        "an empty part",
        "a chunk too large",
        "a part too large",
        "no message",
        "a hostile part",
    ]
)


@st.composite
def _metadata(draw: st.DrawFn, chunks: list[Chunk]) -> tuple[Plan, bool | None]:
    """Metadata of an upload, and whether they are honest: false bytes, or, None, some other lie."""
    content = b"".join(chunk.plan()[0][1] for chunk in chunks)  # type: ignore[index]
    fields: dict[str, Any] = {
        "channel": Known("channels", draw(st.integers(0, 3))),
        "name": draw(good_values(_METADATA.message_type.fields_by_name["name"])),
        "unannounced": draw(st.booleans()),
    }
    if draw(st.booleans()):
        fields["size"] = len(content)
    if draw(st.booleans()):
        fields["sha256"] = hashlib.sha256(content).hexdigest()
    honest: bool | None = len(content) <= MAX_FILE_BYTES
    if lie := draw(st.sampled_from(["", "", *_LIES])):
        fields[lie] = draw(_LIES[lie])
        honest = None
        if (lie == "size" and fields["size"] != len(content)) or (lie == "sha256" and fields["sha256"] != ""):
            honest = False
    return tuple(fields.items()), honest


@st.composite
def _uploads(draw: st.DrawFn) -> tuple[list[Plan | bytes], bool | None]:
    """The parts of an upload, and whether it is an honest one, as far as that is known."""
    chunks = draw(_chunks)
    metadata, honest = draw(_metadata(chunks))
    parts: list[Plan | bytes] = [(("metadata", metadata),), *(chunk.plan() for chunk in chunks)]
    for edit in draw(st.lists(_edits, max_size=2)):
        honest = None
        place = draw(st.integers(0, len(parts)))
        match edit:
            case "no metadata":
                parts = parts[1:]
            case "metadata again":
                parts.insert(place, (("metadata", metadata),))
            case "chunk first":
                parts.insert(0, Chunk(10).plan())
            case "a chunk less":
                parts = parts[:-1]
            case "a chunk more":
                parts.append(Chunk(1).plan())
            case "an empty part":
                parts.insert(place, ())
            case "a chunk too large":
                parts.insert(place, Chunk(_MAX_CHUNK + 1).plan())
            case "a part too large":
                parts.insert(place, Chunk(_MAX_CHUNK + 64 * 1024).plan())
            case "no message":
                parts.insert(place, b"\xff\xff\xff")
            case _:
                chunk = draw(hostile_values(_UPLOAD.input.fields_by_name["chunk"]))
                parts.insert(place, (("chunk", chunk), ("metadata", ())))
    return parts, honest


@few_and_many
def test_an_upload_is_published_whole_or_not_at_all(
    examples: int, runner: asyncio.Runner, oracle: Oracle
) -> None:
    codes = set()

    async def check(upload: tuple[list[Plan | bytes], bool | None], caller: int) -> None:
        parts, honest = upload
        encoded = [
            part if isinstance(part, bytes) else encode(_UPLOAD.input, part, oracle.board.knowledge)
            for part in parts
        ]
        note(f"parts of {[len(part) for part in encoded]} bytes")
        outcome = await oracle.check(
            _UPLOAD, encoded, oracle.board.metadata_for(_UPLOAD, caller), oversize=True
        )
        codes.add(outcome.code)
        if honest is not None:
            assert (outcome.code is grpc.StatusCode.OK) == honest, outcome

    for_all(runner, 3 * examples, check, upload=_uploads(), caller=st.integers(0, 2))
    if examples >= 100:
        assert codes >= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


@few_and_many
def test_an_upload_that_is_given_up_leaves_nothing(
    examples: int, runner: asyncio.Runner, oracle: Oracle
) -> None:
    async def check(upload: tuple[list[Plan | bytes], bool | None], kept: int, caller: int) -> None:
        parts = [
            part if isinstance(part, bytes) else encode(_UPLOAD.input, part, oracle.board.knowledge)
            for part in upload[0][: kept + 1]
        ]
        await oracle.check_given_up(_UPLOAD, parts, oracle.board.metadata_for(_UPLOAD, caller))

    for_all(runner, examples, check, upload=_uploads(), kept=st.integers(0, 4), caller=st.integers(0, 2))
