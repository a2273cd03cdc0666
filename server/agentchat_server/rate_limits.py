"""How many calls are taken: a limit for each agent and one for all, reads and writes apart.

Each limit is a token bucket, kept as one number: the moment from which on the bucket is full (the generic
cell rate algorithm). A call moves that moment on by the time that one token takes; when it would lie further
ahead than the bucket is deep, the call is refused, and the difference is exactly how long until it would be
taken. A bucket whose moment has passed is full, like one that was never used, so forgetting it loses nothing.

A worker knows only its own calls. It holds 1/N of each rate, N being the number of workers, but buckets of
full depth: what an agent gets lies between 1/N of its limit, when all its calls come over one connection and
so to one worker, and the whole limit. A bucket is as deep as what its limit gives in ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import ServiceDescriptor

from agentchat_server.refusals import Refusal
from agentchat_server.settings import ServerSettings

BURST_SECONDS = 10
"""A bucket holds what its limit gives in this time, and one call at least."""

# Reading a channel also joins it and marks what was read, so its rpc is not free of side effects. It is what
# agents do most, and a read to everybody but the contract.
_READS_WITH_SIDE_EFFECTS = frozenset({"ListMessages"})
# Full buckets are looked for when there are this many, and again whenever their number has doubled.
_MANY_BUCKETS = 1024


class RateLimiter:
    """Token buckets of one rate and depth, one for each key, made on its first use."""

    def __init__(self, per_minute: float, *, burst: float) -> None:
        """`per_minute` tokens flow into each bucket; it holds `burst` of them, one at least."""
        self._interval = 60 / per_minute
        # A millionth of a token more, lest rounding costs the last one of the burst.
        self._tolerance = (max(burst, 1) - 1 + 1e-6) * self._interval
        # From when on each bucket is full, on the clock of those who ask.
        self._full_at: dict[Hashable, float] = {}
        self._sweep_at = _MANY_BUCKETS

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds until the key has a token; 0 or less when it has one. Takes none."""
        return self._full_at.get(key, now) - now - self._tolerance

    def take(self, key: Hashable, now: float) -> None:
        """Takes a token, also one that is not there: then the next is further away."""
        full_at = self._full_at.get(key)
        if full_at is None:
            self._make_room(now)
        self._full_at[key] = (now if full_at is None or full_at < now else full_at) + self._interval

    def admit(self, key: Hashable, now: float) -> float:
        """Takes a token if there is one and returns 0; returns the seconds until there is one if not."""
        full_at = self._full_at.get(key)
        if full_at is None:
            self._make_room(now)
            full_at = now
        elif full_at < now:
            full_at = now
        elif (wait := full_at - now - self._tolerance) > 0:
            return wait
        self._full_at[key] = full_at + self._interval
        return 0.0

    def __len__(self) -> int:
        return len(self._full_at)

    def _make_room(self, now: float) -> None:
        """Before another bucket is made: forgets the full ones, when there are many."""
        if len(self._full_at) >= self._sweep_at:
            self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
            self._sweep_at = max(_MANY_BUCKETS, 2 * len(self._full_at))


class RateLimits:
    """The limits of a worker. A limit of 0 is none."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

        def limiter(per_minute: float) -> RateLimiter | None:
            if not per_minute:
                return None
            return RateLimiter(per_minute / settings.workers, burst=per_minute * BURST_SECONDS / 60)

        # By whether the call writes: the limit of each agent, and of all together.
        self._agent = (limiter(settings.agent_read_limit), limiter(settings.agent_write_limit))
        self._global = (limiter(settings.global_read_limit), limiter(settings.global_write_limit))

    def check(self, agent: str | None, *, writes: bool) -> None:
        """Counts a call of an agent (None: of nobody's, which only the global limit holds).

        Raises:
            Refusal: RATE_LIMITED, with the time until it would be taken. It is not counted then.
        """
        of_agent = self._agent[writes] if agent is not None else None
        of_all = self._global[writes]
        if of_agent is None and of_all is None:
            return
        now = self._clock()
        if of_all is not None and (wait := of_all.wait(None, now)) > 0:
            raise Refusal("RATE_LIMITED", retry_after=wait, scope="global")
        if of_agent is not None and (wait := of_agent.admit(agent, now)) > 0:
            raise Refusal("RATE_LIMITED", retry_after=wait, scope="agent")
        if of_all is not None:
            of_all.take(None, now)


def writing_methods(*services: ServiceDescriptor) -> frozenset[str]:
    """The methods (`/package.Service/Method`) that count as writes; all others are reads."""
    return frozenset(
        f"/{service.full_name}/{method.name}"
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
        and method.name not in _READS_WITH_SIDE_EFFECTS
    )
