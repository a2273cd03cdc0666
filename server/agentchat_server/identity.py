"""Who is calling.

A call states a key and, with a machine key, a name. The database resolves both to an agent (and makes the
agent on the first use of its name); the answer is kept for a second, so that a busy agent costs one look-up
a second and worker. A notification empties the cache when a key or an agent changes.

Handlers ask `current_caller()`, or `current_admin_key_hash()` in AdminService; the authentication
interceptor sets both for the task that serves the call.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from agentchat_db import queries
from agentchat_db.database import Database, Statement
from agentchat_proto.v1 import agent_pb2
from agentchat_server import fields
from agentchat_server.authentication_limits import AGENT_FAILURES, AuthenticationLimits
from agentchat_server.conversion import AGENT_KINDS
from agentchat_server.peers import peer_of
from agentchat_server.refusals import Refusal

_SQL = queries.load("caller")
_MAX_CACHED = 10_000
_MAX_KEY_LENGTH = 512


@dataclass(frozen=True)
class Caller:
    """An agent, and the key it calls with."""

    agent_id: UUID
    name: str
    machine: str
    kind: agent_pb2.AgentKind.ValueType
    key_hash: bytes
    # From when on the key is refused.
    expires_at: datetime | None

    def is_expired(self) -> bool:
        """Whether the key's time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


_caller: ContextVar[Caller] = ContextVar("caller")
_admin_key_hash: ContextVar[bytes] = ContextVar("admin_key_hash")


def current_caller() -> Caller:
    """The agent whose call the present task serves."""
    return _caller.get()


def current_admin_key_hash() -> bytes:
    """The hash of the admin key that came with the call. The database checks it."""
    return _admin_key_hash.get()


def set_current_caller(caller: Caller) -> None:
    """Says who calls, for the rest of the present task."""
    _caller.set(caller)


def set_current_admin_key_hash(key_hash: bytes) -> None:
    """Says which admin key came with the call, for the rest of the present task."""
    _admin_key_hash.set(key_hash)


def hash_key(key: str) -> bytes:
    """SHA-256 of a key, the form in which keys are stored and looked up."""
    return hashlib.sha256(key.encode()).digest()


class Authenticator:
    """Resolves keys and names to callers."""

    def __init__(self, database: Database, limits: AuthenticationLimits, *, cache_time: float) -> None:
        self._database = database
        self._limits = limits
        self._cache_time = cache_time
        self._cache: dict[tuple[str, str | None], tuple[float, Caller]] = {}
        # Look-ups under way, by peer, so that a burst of calls of one agent makes one.
        self._lookups: dict[tuple[str, str | None, str], asyncio.Task[Caller]] = {}
        self._generation = 0
        # How many calls were answered from the cache, and how many were not.
        self.cache_hits = 0
        self.cache_misses = 0

    async def authenticate(self, key: str | None, name: str | None, grpc_peer: Callable[[], str]) -> Caller:
        """The agent behind a key and a stated name (None: none stated).

        `grpc_peer` is the `peer` of the call's context, asked when the answer is not at hand.

        Raises:
            Refusal: with the reasons that AgentService lists.
        """
        identity = (key or "", name)
        cached = self._cache.get(identity)
        if cached is not None and time.monotonic() < cached[0] and not cached[1].is_expired():
            self.cache_hits += 1
            return cached[1]
        self.cache_misses += 1
        if not key:
            raise Refusal("API_KEY_MISSING")
        if len(key) > _MAX_KEY_LENGTH or not key.isascii():
            raise Refusal("API_KEY_INVALID")
        if name is not None and not fields.is_name(name):
            raise Refusal("AGENT_NAME_INVALID")

        attempt = (key, name, peer_of(grpc_peer()))
        lookup = self._lookups.get(attempt)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(*attempt))
            self._lookups[attempt] = lookup
            lookup.add_done_callback(partial(self._settle, attempt))
        # A caller that goes away does not take the look-up from those who wait for it too.
        return await asyncio.shield(lookup)

    def forget(self) -> None:
        """Empties the cache; also keeps what is being looked up at the moment out of it."""
        self._cache.clear()
        self._lookups.clear()
        self._generation += 1

    def _settle(self, attempt: tuple[str, str | None, str], lookup: asyncio.Task[Caller]) -> None:
        if self._lookups.get(attempt) is lookup:
            del self._lookups[attempt]
        # When all who waited have gone, nobody else takes note of how it failed.
        if not lookup.cancelled():
            lookup.exception()

    async def _look_up(self, key: str, name: str | None, peer: str) -> Caller:
        key_hash = hash_key(key)
        async with self._limits.attempt(peer, (key_hash, name), AGENT_FAILURES):
            generation = self._generation
            asked_at = time.monotonic()
            row = await self._database.fetch_row(
                Statement(_SQL["authenticate"], {"key_hash": key_hash, "name": name})
            )
            if row.refusal is not None:
                raise Refusal(row.refusal, **(row.refusal_metadata or {}))
        caller = Caller(
            agent_id=row.agent_id,
            name=row.agent_name,
            machine=row.machine or "",
            kind=AGENT_KINDS[row.kind],
            key_hash=key_hash,
            expires_at=row.expires_at,
        )
        if generation == self._generation:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[key, name] = (asked_at + self._cache_time, caller)
        return caller


@dataclass(frozen=True)
class CallerCheck:
    """Whether the caller of an open stream may go on, and until when at most."""

    refusal: Refusal | None
    expires_at: datetime | None


async def check_callers(
    database: Database, callers: Iterable[Caller]
) -> dict[tuple[bytes, UUID], CallerCheck]:
    """Checks the callers of open streams, and notes that they are online."""
    distinct = {(caller.key_hash, caller.agent_id): caller for caller in callers}
    rows = await database.fetch_all(
        Statement(
            _SQL["check_callers"],
            {
                "key_hashes": [key_hash for key_hash, _ in distinct],
                "agent_ids": [agent_id for _, agent_id in distinct],
            },
        )
    )
    return {
        (row.key_hash, row.agent_id): CallerCheck(
            refusal=row.refusal and Refusal(row.refusal, agent=distinct[row.key_hash, row.agent_id].name),
            expires_at=row.expires_at,
        )
        for row in rows
    }
