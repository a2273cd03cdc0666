"""What comes over a connection that is no call at all, or one that gRPC itself answers.

gRPC refuses some calls before AgentChat sees them, with a status of its own and no reason: methods that
do not exist, messages and metadata that are too large, frames that are wrong. Nothing of that may disturb the
others, or the board.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import strategies as st

from tests.board import DEADLINE
from tests.fuzz.methods import METHODS
from tests.fuzz.oracle import Oracle
from tests.fuzz.properties import few_and_many, for_all
from tests.fuzz.wire import encode

_SEND = next(method for method in METHODS if method.descriptor.name == "SendMessage")
_HELLO = (("channel", "general"), ("content", "hello"))

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
# How long the server is given to answer nonsense, in seconds.
_PATIENCE = 0.02


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name: bytes, value: bytes) -> bytes:
    """A header as HPACK has it, literal and not to be indexed."""
    return bytes((0, len(name))) + name + bytes((len(value),)) + value


def _call(path: str, frames: list[bytes]) -> bytes:
    """A connection with one call, written by hand. It has no key, so it can do nothing."""
    headers = b"".join(
        _header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )
    return b"".join(
        (_PREFACE, _frame(_SETTINGS, 0, 0, b""), _frame(_HEADERS, _END_HEADERS, 1, headers), *frames)
    )


# The prefix of a message in gRPC: compressed or not, and its length, which may be a lie.
_prefixes = st.builds(
    struct.pack,
    st.just(">BI"),
    st.sampled_from([0, 1, 2, 255]),
    st.sampled_from([0, 1, 5, 6, 2**31, 2**32 - 1]),
)
_messages = st.builds(bytes.__add__, _prefixes, st.binary(max_size=20))
_frames = st.builds(
    _frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 2**31 - 1, 2**31]),
    st.binary(max_size=40),
)
_data_frames = st.builds(_frame, st.just(_DATA), st.sampled_from([0, _END_STREAM]), st.just(1), _messages)
_nonsense = st.one_of(
    st.binary(max_size=100),
    st.sampled_from(
        [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", _PREFACE[:10], _PREFACE]
    ),
    st.lists(_frames, max_size=5).map(lambda frames: _PREFACE + b"".join(frames)),
    st.lists(_frames, max_size=5).map(
        lambda frames: _PREFACE + _frame(_SETTINGS, 0, 0, b"") + b"".join(frames)
    ),
    st.builds(
        _call,
        st.sampled_from([method.path for method in METHODS]),
        st.lists(_data_frames | _frames, max_size=4),
    ),
)


@pytest.fixture
def open_connections(runner: asyncio.Runner) -> Iterator[list[asyncio.StreamWriter]]:
    """Connections that stay half open until the test is over."""
    writers: list[asyncio.StreamWriter] = []
    yield writers

    async def close() -> None:
        for writer in writers:
            writer.transport.abort()

    runner.run(close())


@few_and_many
def test_nonsense_on_a_connection_disturbs_nobody(
    examples: int,
    runner: asyncio.Runner,
    oracle: Oracle,
    open_connections: list[asyncio.StreamWriter],
) -> None:
    host, port = oracle.board.target.split(":")

    async def check(nonsense: bytes, hang_up: bool) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(nonsense)
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_PATIENCE):
                while await reader.read(4096):
                    pass
        if hang_up:
            writer.transport.abort()
        else:
            open_connections.append(writer)
        assert oracle.unchanged()
        data = encode(_SEND.input, _HELLO, oracle.board.knowledge)
        outcome = await oracle.check(_SEND, [data], oracle.board.metadata_for(_SEND, 0))
        assert outcome.code is grpc.StatusCode.OK

    for_all(runner, examples, check, nonsense=_nonsense, hang_up=st.booleans())


@pytest.mark.parametrize(
    "path",
    [
        "/agentchat.v1.MessageService/NoSuchMethod",
        "/agentchat.v2.MessageService/SendMessage",
        "/agentchat.v1.MessageService/SendMessage/",
        "/agentchat.",
        "/",
        "/" + "x" * 5000,
    ],
)
def test_a_method_that_does_not_exist_is_unimplemented(
    path: str, runner: asyncio.Runner, oracle: Oracle
) -> None:
    async def call() -> None:
        channel: Any
        async with grpc.aio.insecure_channel(oracle.board.target) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(path)(b"", timeout=DEADLINE)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED

    runner.run(call())
    assert oracle.unchanged()


def test_a_message_that_is_too_large_is_refused_by_grpc(runner: asyncio.Runner, oracle: Oracle) -> None:
    data = encode(_SEND.input, (*_HELLO, ("content", "x" * 1_200_000)), oracle.board.knowledge)
    checked = oracle.check(_SEND, [data], oracle.board.metadata_for(_SEND, 0), oversize=True)
    assert runner.run(checked).code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_compressed_message_is_read(runner: asyncio.Runner, oracle: Oracle) -> None:
    async def call() -> None:
        channel: Any
        async with grpc.aio.insecure_channel(
            oracle.board.target, compression=grpc.Compression.Gzip
        ) as channel:
            await channel.unary_unary(_SEND.path)(
                encode(_SEND.input, (*_HELLO, ("content", "x" * 30_000)), oracle.board.knowledge),
                metadata=oracle.board.metadata_for(_SEND, 0),
                timeout=DEADLINE,
            )

    runner.run(call())
