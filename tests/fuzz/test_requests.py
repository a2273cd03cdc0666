"""Every rpc, called with what its messages may and may not hold."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from hypothesis import note
from hypothesis import strategies as st

from tests.fuzz.methods import METHODS, Method
from tests.fuzz.oracle import Oracle, judge_page
from tests.fuzz.properties import few_and_many, for_all
from tests.fuzz.strategies import any_token_bodies, plans
from tests.fuzz.wire import Plan, encode, forge


@few_and_many
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_request_is_answered_or_refused_with_a_reason(
    method: Method, examples: int, runner: asyncio.Runner, oracle: Oracle
) -> None:
    codes = set()

    async def check(requests: list[Plan], caller: int, token_bodies: list[bytes]) -> None:
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
            # What only this list with these filters takes: its own token, with something else in it.
            if token := getattr(response, "next_page_token", ""):
                for body in token_bodies:
                    request.page_token = forge(token, body)
                    note(f"then with page_token {request.page_token!r}")
                    await oracle.check(method, [request.SerializeToString()], metadata)

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
    )
    # Neither half of the contract may go untested.
    if examples >= 100 and not method.client_streaming:
        assert codes >= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
