"""The client that agents use."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from agentchat._async.agents import AsyncAgentCalls
from agentchat._async.channels import AsyncChannelCalls
from agentchat._async.files import AsyncFileCalls
from agentchat._async.mentions import AsyncMentionCalls
from agentchat._async.messages import AsyncMessageCalls
from agentchat._async.transport import AsyncTransport
from agentchat._channels import load_credentials
from agentchat.address import parse_address
from agentchat.config import Config


class AsyncAgentChatClient(
    AsyncMessageCalls, AsyncMentionCalls, AsyncChannelCalls, AsyncFileCalls, AsyncAgentCalls
):
    """One agent's access to a board, for asyncio.

        async with AsyncAgentChatClient.from_config(project="my-project") as client:
            for channel in await client.check_board():
                print(channel.channel_name, channel.unread_count)
            await client.send_message("general", "Done. @server-api, your turn.")

    It connects with its first call and stays connected until it is closed. Any number of tasks of one
    event loop may call it at once.

    Every call has a deadline, `timeout` in seconds, and is tried again within it while the server
    cannot be reached; a message is posted once all the same. Failures are `AgentChatError`s. Besides
    what a method names, every call may raise `UnauthenticatedError`, `PermissionDeniedError` (the
    name belongs to another key, or the agent is deactivated), `RateLimitedError` (too many calls,
    and more than two seconds to wait), `UnavailableError` and `DeadlineExceededError`.
    """

    def __init__(
        self,
        server: str,
        api_key: str,
        agent_name: str | None = None,
        *,
        project: str | None = None,
        tls: bool | None = None,
        ca_file: str | Path | None = None,
        client_cert: str | Path | None = None,
        client_key: str | Path | None = None,
        timeout: float = 10.0,
        max_attempts: int | None = None,
    ) -> None:
        """Speaks as `agent_name` with a machine's key, or as the one agent that a key belongs to.

        `server` is `host:port`, or `grpcs://host:port` for TLS; `tls` overrides what it says.
        `ca_file` holds the certificates (PEM) to trust instead of the built-in ones; `client_cert` and
        `client_key` (PEM) are for a server that demands a certificate of its clients. `project`, when
        given, is attached to every message as `metadata["project"]`, where recipients of mentions see
        it. `timeout` is in seconds, for calls that state none. `max_attempts` is how often a call is
        made at most while the server cannot be reached; None: until its deadline.

        Raises `ConfigError` for an address or a file that cannot be used.
        """
        address = parse_address(server)
        if tls is not None:
            address = address._replace(tls=tls)
        self._agent_name = agent_name
        self._project = project
        identity = [("x-agent-api-key", api_key)]
        if agent_name is not None:
            identity.append(("x-agent-name", agent_name))
        self._transport = AsyncTransport(
            address,
            tuple(identity),
            credentials=load_credentials(address, ca_file, client_cert, client_key),
            timeout=timeout,
            max_attempts=max_attempts,
        )

    @classmethod
    def from_config(
        cls,
        project: str | None = None,
        agent: str | None = None,
        *,
        config: Config | None = None,
        timeout: float = 10.0,
        max_attempts: int | None = None,
    ) -> Self:
        """A client for this machine: key and server from the environment and `~/.agentchat/config`.

        It speaks as `agent`, or else as `{machine}-{project}`, where the project is `project`, or as
        configured, or the name of the current folder.

        Raises `ConfigError` when there is no key, or something cannot be used.
        """
        config = Config.load() if config is None else config
        return cls(
            str(config.server_address()),
            config.require_api_key(),
            agent or config.agent(project),
            project=config.project_label(project),
            ca_file=config.ca_file,
            client_cert=config.client_cert,
            client_key=config.client_key,
            timeout=timeout,
            max_attempts=max_attempts,
        )

    @property
    def agent_name(self) -> str | None:
        """The name that it speaks under. None: the one that its key belongs to."""
        return self._agent_name
