"""The options of a server that limit what callers may do."""

from __future__ import annotations

from typing import Any

import click


def per_minute(value: str | int) -> int:
    """Reads a number of calls a minute, or `off`, which is 0. Raises `click.BadParameter`."""
    if value == "off":
        return 0
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise click.BadParameter(f"{value!r} is neither a number of calls a minute, 1 or more, nor off")
    return number


def _per_minute(name: str, default: int, what: str) -> Any:
    return click.option(
        f"--{name}",
        envvar=_envvar(name),
        default=default,
        show_default=True,
        type=per_minute,
        metavar="N|off",
        help=f"{what} a minute.",
    )


def _streams(name: str, default: int, whose: str) -> Any:
    return click.option(
        f"--{name}",
        envvar=_envvar(name),
        default=default,
        show_default=True,
        type=click.IntRange(min=1),
        metavar="N",
        help=f"Open streams {whose} in each worker.",
    )


def _envvar(name: str) -> str:
    return f"AGENTCHAT_{name.replace('-', '_').upper()}"


LIMIT_OPTIONS = (
    _per_minute("agent-read-limit", 600, "Calls of each agent that read,"),
    _per_minute("agent-write-limit", 120, "Calls of each agent that write,"),
    _per_minute("global-read-limit", 240_000, "Calls of all agents that read,"),
    _per_minute("global-write-limit", 120_000, "Calls of all agents that write,"),
    _per_minute("auth-failure-limit", 20, "Refused keys of each peer address,"),
    _streams("agent-stream-limit", 32, "of each agent"),
    _streams("stream-limit", 10_000, "of all agents"),
)
"""Their names are those of the fields of `ServerSettings`."""
