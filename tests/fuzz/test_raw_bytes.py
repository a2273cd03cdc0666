"""Every method, also of health and reflection, called with bytes that are no message, or a damaged one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st

from tests.fuzz.methods import METHODS, OTHER_METHODS, Method
from tests.fuzz.oracle import Oracle
from tests.fuzz.properties import few_and_many, for_all
from tests.fuzz.strategies import plans
from tests.fuzz.wire import Plan, delimited, encode


def _flip(data: bytes, place: int) -> bytes:
    if not data:
        return b"\x80"
    place %= len(data) * 8
    return data[: place // 8] + bytes((data[place // 8] ^ 1 << place % 8,)) + data[place // 8 + 1 :]


DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "one bit flipped": _flip,
    "cut short": lambda data, place: data[: place % (len(data) + 1)],
    "a byte lost": lambda data, place: data[: place % (len(data) + 1)] + data[place % (len(data) + 1) + 1 :],
    "a byte more": lambda data, place: data + bytes((place % 256,)),
    "twice": lambda data, _place: data + data,
    "backwards": lambda data, _place: data[::-1],
    "within a field": lambda data, place: delimited(place % 20 + 1, data),
    "behind zeros": lambda data, place: bytes(place % 20) + data,
}

_damages = st.lists(st.tuples(st.sampled_from(sorted(DAMAGE)), st.integers(0, 5000)), min_size=1, max_size=3)


@few_and_many
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_bytes_that_are_no_message_are_refused_with_a_reason(
    method: Method, examples: int, runner: asyncio.Runner, oracle: Oracle
) -> None:
    async def check(noise: bytes | None, plan: Plan, damages: list[tuple[str, int]], caller: int) -> None:
        data = encode(method.input, plan, oracle.board.knowledge) if noise is None else noise
        if noise is None:
            for damage, place in damages:
                data = DAMAGE[damage](data, place)
        note(f"{method} with {data[:1000]!r}")
        metadata = oracle.board.metadata_for(method, caller)
        await oracle.check(method, [data], metadata, oversize=True)

    for_all(
        runner,
        (examples + 1) // 2,
        check,
        noise=st.none() | st.binary(max_size=200),
        plan=plans(method.input),
        damages=_damages,
        caller=st.integers(0, 2),
    )


@few_and_many
@pytest.mark.parametrize("method", OTHER_METHODS, ids=str)
def test_the_services_of_grpc_itself_survive_it_too(
    method: Method, examples: int, runner: asyncio.Runner, oracle: Oracle
) -> None:
    async def check(requests: list[bytes]) -> None:
        outcome = await oracle.board.call(method, requests, ())
        oracle.judge_service_of_grpc(outcome)

    def requests(data: Any) -> Any:
        return st.lists(data, min_size=1, max_size=3 if method.client_streaming else 1)

    for_all(runner, examples, check, requests=requests(st.binary(max_size=50)))
