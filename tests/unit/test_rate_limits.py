"""Token buckets, on a clock that the tests move."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentchat_proto.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    board_service_pb2,
    channel_service_pb2,
    file_service_pb2,
    mention_service_pb2,
    message_service_pb2,
    search_service_pb2,
)
from agentchat_server.rate_limits import RateLimiter, RateLimits, writing_methods
from agentchat_server.refusals import Refusal
from agentchat_server.settings import ServerSettings


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 123_456.789) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def limits(clock: Clock, **limits: Any) -> RateLimits:
    """The limits that are stated, and no others."""
    settings = ServerSettings(
        database_url="", agent_read_limit=0, agent_write_limit=0, global_read_limit=0, global_write_limit=0
    )
    return RateLimits(dataclasses.replace(settings, **limits), clock)


def refusal_of(limits: RateLimits, agent: str | None, *, writes: bool = False) -> Refusal:
    with pytest.raises(Refusal) as refused:
        limits.check(agent, writes=writes)
    return refused.value


def wait_of(limits: RateLimits, agent: str) -> float:
    try:
        limits.check(agent, writes=True)
    except Refusal as refusal:
        return refusal.retry_after or 0.0
    return 0.0


def test_a_burst_is_taken_and_then_the_rate() -> None:
    limiter = RateLimiter(60, burst=10)
    assert [limiter.admit("ada", 0.0) for _ in range(10)] == [0.0] * 10
    assert limiter.admit("ada", 0.0) == pytest.approx(1.0, abs=1e-4)
    assert limiter.admit("ada", 0.25) == pytest.approx(0.75, abs=1e-4)
    assert limiter.admit("ada", 1.0) == 0.0
    assert limiter.admit("ada", 1.0) == pytest.approx(1.0, abs=1e-4)
    assert limiter.admit("bob", 1.0) == 0.0


def test_a_bucket_fills_up_but_does_not_overflow() -> None:
    limiter = RateLimiter(60, burst=3)
    for _ in range(3):
        assert limiter.admit("ada", 0.0) == 0.0
    for _ in range(3):
        assert limiter.admit("ada", 1000.0) == 0.0
    assert limiter.admit("ada", 1000.0) > 0


def test_waiting_takes_no_token_and_taking_may_go_into_debt() -> None:
    limiter = RateLimiter(60, burst=2)
    for _ in range(5):
        assert limiter.wait("peer", 0.0) <= 0
    for _ in range(4):
        limiter.take("peer", 0.0)
    assert limiter.wait("peer", 0.0) == pytest.approx(3.0, abs=1e-4)
    assert limiter.wait("peer", 3.0) <= 0


@given(
    per_minute=st.floats(min_value=0.5, max_value=1e6),
    burst=st.integers(1, 1000),
    pauses=st.lists(st.floats(min_value=0, max_value=120), max_size=200),
)
def test_never_more_than_the_burst_and_the_rate_and_never_less(
    per_minute: float, burst: int, pauses: list[float]
) -> None:
    limiter, now, tokens = RateLimiter(per_minute, burst=burst), 1000.0, float(burst)
    for pause in pauses:
        now += pause
        tokens = min(burst, tokens + pause * per_minute / 60)
        wait = limiter.admit("ada", now)
        slack = 1e-5 + 1e-9 * per_minute
        if wait == 0:
            assert tokens >= 1 - slack
            tokens -= 1
        else:
            assert tokens < 1 + slack
            assert wait * per_minute / 60 == pytest.approx(1 - tokens, abs=2 * slack)


@given(agents=st.lists(st.integers(0, 5), max_size=60), limit=st.integers(6, 60))
def test_coming_back_after_the_stated_time_is_taken(agents: list[int], limit: int) -> None:
    clock = Clock()
    held = limits(clock, agent_write_limit=limit, global_write_limit=2 * limit)
    for agent in agents:
        # At most once for each of the two limits.
        for _ in range(3):
            wait = wait_of(held, f"agent-{agent}")
            clock.now += math.ceil(wait * 1000) / 1000
            if not wait:
                break
        else:
            pytest.fail("refused again and again")


def test_idle_buckets_are_forgotten_and_busy_ones_kept() -> None:
    limiter = RateLimiter(60, burst=5)
    for _ in range(5):
        limiter.admit("busy", 0.0)
    for number in range(1022):
        limiter.admit(number, 0.0)
    assert len(limiter) == 1023
    for number in range(20_000):
        limiter.admit(f"later-{number}", 2.0 + number * 0.0001)
    assert limiter.wait("busy", 2.0) <= 0 < limiter.wait("busy", 0.9)
    for number in range(1_000_000, 1_100_000):
        limiter.admit(number, 10.0 + number)
    assert len(limiter) < 5000


def test_reads_and_writes_are_counted_apart_and_agents_too() -> None:
    clock = Clock()
    held = limits(clock, agent_read_limit=60, agent_write_limit=6)
    held.check("ada", writes=True)
    assert refusal_of(held, "ada", writes=True).metadata == {"scope": "agent"}
    for _ in range(10):
        held.check("ada", writes=False)
    refusal = refusal_of(held, "ada")
    assert refusal.reason == "RATE_LIMITED"
    assert refusal.retry_after == pytest.approx(1.0, abs=1e-4)
    held.check("bob", writes=False)


def test_the_global_limit_holds_agents_together_and_those_without_a_name() -> None:
    held = limits(Clock(), agent_read_limit=600, global_read_limit=18)
    for agent in ("ada", "bob", None):
        held.check(agent, writes=False)
    for agent in ("ada", "cyd", None):
        assert refusal_of(held, agent).metadata == {"scope": "global"}
    held.check(None, writes=True)


def test_a_refused_call_counts_for_nobody() -> None:
    clock = Clock()
    held = limits(clock, agent_read_limit=6, global_read_limit=12)
    held.check("ada", writes=False)
    for _ in range(100):
        assert refusal_of(held, "ada").metadata == {"scope": "agent"}
    held.check("bob", writes=False)
    for _ in range(100):
        assert refusal_of(held, "cyd").metadata == {"scope": "global"}
    clock.now += 5.001
    held.check("cyd", writes=False)


def test_a_worker_of_four_holds_a_quarter_of_the_rate_and_the_whole_burst() -> None:
    clock = Clock()
    held = limits(clock, agent_write_limit=120, workers=4)
    for _ in range(20):
        held.check("ada", writes=True)
    assert refusal_of(held, "ada", writes=True).retry_after == pytest.approx(2.0, abs=1e-3)


def test_which_methods_write() -> None:
    services = [
        service
        for module in (
            admin_service_pb2,
            agent_service_pb2,
            board_service_pb2,
            channel_service_pb2,
            file_service_pb2,
            mention_service_pb2,
            message_service_pb2,
            search_service_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    writes = writing_methods(*services)
    assert writes < {
        f"/{service.full_name}/{name}" for service in services for name in service.methods_by_name
    }
    assert {method.rpartition("/")[2] for method in writes if "AdminService" not in method} == {
        "RegisterAgent",
        "JoinChannel",
        "LeaveChannel",
        "UpdateChannel",
        "MarkChannelRead",
        "UploadFile",
        "MarkMentionsRead",
        "ClaimMention",
        "RenewClaim",
        "ReleaseClaim",
        "CompleteClaim",
        "SendMessage",
        "SendDirectMessage",
    }
