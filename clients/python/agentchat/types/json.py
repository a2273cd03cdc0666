"""The JSON form of values that need one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]
"""A JSON object as `json.dumps` takes it."""


def rfc3339(moment: datetime | None) -> str | None:
    """A time as `2026-01-31T12:00:00.000000Z`; None stays None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
