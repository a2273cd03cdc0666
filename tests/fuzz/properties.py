"""How the properties of this folder are run: how many examples, from which seed.

`AGENTCHAT_FUZZ_EXAMPLES` is how many requests the slow run makes up for each rpc, `AGENTCHAT_FUZZ_SEED` the
seed of a run to repeat. A failure prints its example, its seed and hypothesis' own blob; hypothesis keeps it
in `.hypothesis`, and begins with it the next time.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("AGENTCHAT_FUZZ_EXAMPLES", "150"))
SEED = int(os.environ.get("AGENTCHAT_FUZZ_SEED", "0")) or secrets.randbits(32)

_FEW = 2

few_and_many = pytest.mark.parametrize(
    "examples", [pytest.param(_FEW, id="few"), pytest.param(EXAMPLES, id="many", marks=pytest.mark.slow)]
)
"""Runs a test with a few examples among the quick tests, and with many among the slow ones."""


def for_all(
    runner: asyncio.Runner,
    examples: int,
    check: Callable[..., Awaitable[object]],
    **strategies: st.SearchStrategy[Any],
) -> None:
    """Awaits a check for so many examples of what it takes."""

    @seed(SEED)
    @settings(
        max_examples=examples,
        print_blob=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
    )
    @given(**strategies)
    def checked(**values: Any) -> None:
        note(f"AGENTCHAT_FUZZ_SEED={SEED}")

        async def run() -> None:
            await check(**values)

        runner.run(run())

    checked()
