"""What a call may state of its caller: keys and names, good ones in the wrong place, and anything else."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st

from tests.fuzz.fuzzed_board import Metadata
from tests.fuzz.methods import METHODS, Method
from tests.fuzz.oracle import Oracle
from tests.fuzz.properties import few_and_many, for_all
from tests.fuzz.wire import TWISTS, Known, Repeated

# One of each kind of call: all of a kind pass the same interceptors.
_CALLED = {
    "CreateMachineKey",
    "GetCurrentAgent",
    "SendMessage",
    "UploadFile",
    "DownloadFile",
    "WatchMessages",
}

_texts = st.one_of(
    st.builds(Known, st.sampled_from(["keys", "agents", "machines"]), st.integers(0, 5)),
    st.builds(
        Known,
        st.sampled_from(["keys", "agents", "machines"]),
        st.integers(0, 5),
        st.sampled_from(sorted(TWISTS.keys() - {"NUL", "line feed", "wide digits"})),
    ),
    st.sampled_from(
        ["", "-", "A", "ack_", "aca_x", "aak_", "forge-new", "harbor-new", "free-name", "x y", "@a"]
    ),
    st.builds(Repeated, st.just("k"), st.sampled_from([2, 100, 101, 512, 513, 4000, 10_000])),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
)
_entries = st.one_of(
    st.tuples(st.sampled_from(["x-agent-api-key", "x-agent-name", "x-admin-key", "x-request-id"]), _texts),
    st.tuples(
        st.sampled_from(["x-agent-api-key-bin", "x-agent-name-bin", "grpc-trace-bin"]), st.binary(max_size=20)
    ),
)


@few_and_many
@pytest.mark.parametrize("method", [m for m in METHODS if m.descriptor.name in _CALLED], ids=str)
def test_whatever_a_call_says_of_its_caller_it_is_known_or_refused_with_a_reason(
    method: Method, examples: int, runner: asyncio.Runner, oracle: Oracle
) -> None:
    async def check(entries: list[tuple[str, bytes | Known | Repeated | str]]) -> None:
        metadata: Metadata = tuple((key, _resolved(oracle, value)) for key, value in entries)
        await oracle.check(method, [b""], metadata, oversize=True)

    for_all(runner, (examples + 1) // 2, check, entries=st.lists(_entries, max_size=4))


def _resolved(oracle: Oracle, value: bytes | Known | Repeated | str) -> str | bytes:
    return value if isinstance(value, str | bytes) else value.text(oracle.board.knowledge)
