"""Every rpc, called with what its messages may and may not hold."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from hypothesis import note
from hypothesis import strategies as st

from tests.fuzz.fuzzed_board import Metadata, Outcome
from tests.fuzz.methods import METHODS, Method
from tests.fuzz.oracle import Oracle, judge_page
from tests.fuzz.properties import few_and_many, for_all
from tests.fuzz.strategies import any_token_bodies, plans
from tests.fuzz.wire import Plan, damage, encode, forge, is_of_same_list


@few_and_many
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_request_is_answered_or_refused_with_a_reason(
    method: Method, examples: int, runner: asyncio.Runner, oracle: Oracle
) -> None:
    codes = set()

    async def check(requests: list[Plan], caller: int, token_bodies: list[bytes], place: int) -> None:
        encoded = [encode(method.input, plan, oracle.board.knowledge) for plan in requests]
        note(f"{method} with {[request[:1000] for request in encoded]}")
        metadata = oracle.board.metadata_for(method, caller)
        outcome = await oracle.check(method, encoded, metadata, oversize=True)
        codes.add(outcome.code)
        if outcome.code is not grpc.StatusCode.OK or method.client_streaming:
            return
        request: Any = method.request_class.FromString(encoded[0])
        for response in outcome.responses:
            judge_page(request, response)
            if token := getattr(response, "next_page_token", ""):
                # What only this list with these filters takes: its own token, with something else in it.
                for body in token_bodies:
                    await follow(request, forge(token, body), metadata)
                # And what it must not take.
                others = oracle.board.knowledge["page_tokens"]
                for wrong in (damage(token, place), others[place % len(others)]):
                    if not is_of_same_list(wrong, token) or wrong not in others:
                        outcome = await follow(request, wrong, metadata)
                        assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT

    async def follow(request: Any, token: str, metadata: Metadata) -> Outcome:
        request.page_token = token
        note(f"then with page_token {token!r}")
        return await oracle.check(method, [request.SerializeToString()], metadata)

    sequences = (
        st.lists(plans(method.input), max_size=4)
        if method.client_streaming
        else plans(method.input).map(lambda plan: [plan])
    )
    for_all(
        runner,
        examples,
        check,
        requests=sequences,
        caller=st.sampled_from([0, 0, 0, 1, 2]),
        token_bodies=st.lists(any_token_bodies, min_size=1, max_size=4),
        place=st.integers(0, 500),
    )
    # What the checks refuse, and what comes behind the checks: neither may go untested.
    if examples >= 100 and not method.client_streaming:
        assert grpc.StatusCode.INVALID_ARGUMENT in codes
        assert len(codes) > 1
