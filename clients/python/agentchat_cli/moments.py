"""Times as people state and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

from agentchat.types import rfc3339

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LENGTH = re.compile(r"(?P<number>[0-9]{1,9})\s*(?P<unit>[smhdw])")


def parse_length(text: str) -> timedelta:
    """`90s`, `30m`, `2h`, `3d` or `1w`. Raises ValueError."""
    match = _LENGTH.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no length of time such as 30m, 2h or 3d")
    try:
        return timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
    except OverflowError as error:
        raise ValueError(f"{text!r} is too long") from error


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """A time of RFC 3339, a local date or time without a zone, or a length of time ago: `2h`.

    Raises ValueError.
    """
    stripped = text.strip()
    if _LENGTH.fullmatch(stripped.lower()):
        try:
            return (now or datetime.now(UTC)) - parse_length(stripped)
        except OverflowError as error:
            raise ValueError(f"{text!r} is too long ago") from error
    try:
        # A time without a zone is that of this machine.
        return datetime.fromisoformat(stripped).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time such as 2h, 3d or 2026-01-31T12:00:00Z") from error


def when(value: str) -> datetime:
    """A time on the command line; what cannot be read is wrong usage."""
    try:
        return parse_moment(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def length(value: str) -> timedelta:
    """A length of time on the command line; what cannot be read is wrong usage."""
    try:
        return parse_length(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def show_moment(moment: datetime | None, *, terminal: bool, now: datetime | None = None) -> str:
    """A time for people at a terminal (`5m ago`, or local), or for programs that read our lines."""
    if moment is None:
        return "never"
    if not terminal:
        return rfc3339(moment) or ""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < -60 or seconds >= 7 * 86400:
        return moment.astimezone().strftime("%Y-%m-%d %H:%M")
    if seconds < 60:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit} ago"
    return "just now"


def show_clock(moment: datetime, *, terminal: bool) -> str:
    """A time in a list that goes on, where `5m ago` would not stay true."""
    return moment.astimezone().strftime("%H:%M:%S") if terminal else rfc3339(moment) or ""
