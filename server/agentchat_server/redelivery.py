"""What a stream of mentions sends again: unread ones whose claim is over.

Woken by the `ClaimTimer`, a stream reads from the table which claims have ended since it last looked. So
however slow it is, it holds nothing but the moment of that look, and misses nothing.

A release takes its time before it commits, so a claim may turn up a little late among those that ended
earlier. Each look therefore goes back a minute, and what was sent of that minute is remembered, lest it be
sent twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_server.claims import ClaimTimer

_SQL = queries.load("mentions")
_DAWN = datetime.min.replace(tzinfo=UTC)
_OVERLAP = timedelta(minutes=1)
_READ_ROWS = 100


class Redelivery:
    """The ended claims that one stream has told of. A new one has told of none."""

    def __init__(self, database: Database, timer: ClaimTimer, agent_id: UUID, *, max_bytes: int) -> None:
        self._database = database
        self._timer = timer
        self._agent_id = agent_id
        self._max_bytes = max_bytes
        # Everything that ended up to here was sent; what was sent of the time after it is in `_sent`.
        self._settled = _DAWN
        self._sent: dict[UUID, datetime] = {}

    def note(self, row: Row) -> bool:
        """Takes note of a row of mention_view_v2 that is sent; returns whether its claim is over."""
        if row.claim_ends_at is None or row.claimed_until is not None:
            return False
        if row.claim_ends_at >= self._settled:
            self._sent[row.id] = row.claim_ends_at
        return True

    async def read(self, through: int) -> AsyncIterator[Row]:
        """The mentions up to a seq whose claim has ended since the last call, as rows to `note`."""
        ended_after, after = self._settled, 0
        self._settled, rows = await self._read_page(through, ended_after, after)
        while rows:
            for row in rows:
                if self._sent.get(row.id) != row.claim_ends_at:
                    yield row
            ended_after, after = rows[-1].claim_ends_at, rows[-1].seq
            _, rows = await self._read_page(through, ended_after, after)
        self._sent = {sent: ended for sent, ended in self._sent.items() if ended >= self._settled}

    async def _read_page(self, through: int, ended_after: datetime, after: int) -> tuple[datetime, list[Row]]:
        """The next rows, and up to which moment everything is settled when they are the last."""
        (times,), rows = await self._database.run(
            Statement(_SQL["get_claim_times"], {"agent_id": self._agent_id}),
            Statement(
                _SQL["list_ended_claims"],
                {
                    "agent_id": self._agent_id,
                    "through": through,
                    "ended_after": ended_after,
                    "after": after,
                    "limit": _READ_ROWS,
                    "max_bytes": self._max_bytes,
                },
            ),
            as_agent=self._agent_id,
        )
        if times.next_in is not None:
            self._timer.expect(times.next_in)
        return times.moment - _OVERLAP, rows
