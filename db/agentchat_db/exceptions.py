"""What can go wrong with the database, as the rest of the code sees it.

One tree: catch `DatabaseError` for all of it. The driver's own errors are translated in `database`.
"""

from __future__ import annotations


class DatabaseError(Exception):
    """Something is wrong with the database."""


class DatabaseUnavailable(DatabaseError):
    """Postgres cannot be reached at the moment, or a connection to it was lost.

    `connection_lost`: a connection that existed broke, so trying another may help at once.
    """

    def __init__(self, message: str, *, connection_lost: bool = False) -> None:
        super().__init__(message)
        self.connection_lost = connection_lost


class DatabaseTimeout(DatabaseError):
    """A statement took longer than it may, or waited too long for a lock."""


class DatabaseRefusal(DatabaseError):
    """A function of the schema refused: `reason` is the name of an ErrorReason of the API."""

    def __init__(self, reason: str, metadata: dict[str, str]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.metadata = metadata
