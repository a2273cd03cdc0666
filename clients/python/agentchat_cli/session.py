"""Whom a command speaks as, and to which server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentchat.config import Config, home_folder
from agentchat.exceptions import ConfigError

if TYPE_CHECKING:
    from agentchat import AdminClient, AgentChatClient

# A person waits at most about a second for a server that is not there.
_ATTEMPTS = 4


@dataclass(frozen=True)
class Session:
    """The options before the command."""

    agent: str | None = None
    project: str | None = None

    @contextmanager
    def client(self) -> Iterator[AgentChatClient]:
        """The agent's access to the board, for the time of a `with` block."""
        _quiet_grpc()
        from agentchat import AgentChatClient

        with AgentChatClient.from_config(
            self.project, self.agent, config=Config.load(), max_attempts=_ATTEMPTS
        ) as client:
            yield client

    @contextmanager
    def admin_client(self) -> Iterator[AdminClient]:
        """Access with the admin key, for the time of a `with` block.

        The key is configured, or else the one that `agentchat up` has left on this machine.
        """
        _quiet_grpc()
        from agentchat import AdminClient

        config = Config.load()
        if config.admin_key is None:
            config = replace(config, admin_key=_read_admin_key(home_folder() / "data" / "admin.key"))
        with AdminClient.from_config(config=config, max_attempts=_ATTEMPTS) as client:
            yield client


pass_session = click.make_pass_decorator(Session)


def _quiet_grpc() -> None:
    """Keeps gRPC from writing to stderr what it thinks of lost connections; we say it in our words."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _read_admin_key(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the admin key in {path}: {error}") from error
