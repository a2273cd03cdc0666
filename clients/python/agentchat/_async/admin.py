"""Running the board."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from agentchat import types
from agentchat._async.caller import AsyncCaller
from agentchat._async.transport import AsyncTransport
from agentchat._channels import load_credentials
from agentchat._conversion import agent, channel, machine_key, moment
from agentchat._requests import build, duration, refused, timestamp
from agentchat.address import parse_address
from agentchat.config import Config
from agentchat_proto.v1 import admin_service_pb2 as wire

# The most keys in a page.
_PAGE_SIZE = 200


class AsyncAdminClient(AsyncCaller):
    """Keys, agents and channels of a board, for those who run it.

    Calls have deadlines and are tried again as those of `AsyncAgentChatClient`, except the ones that
    make keys and `remove_agent`: made twice, they would do something else.
    """

    def __init__(
        self,
        server: str,
        admin_key: str,
        *,
        tls: bool | None = None,
        ca_file: str | Path | None = None,
        client_cert: str | Path | None = None,
        client_key: str | Path | None = None,
        timeout: float = 10.0,
        max_attempts: int | None = None,
    ) -> None:
        """Calls with an admin key (`aca_…`); otherwise as `AsyncAgentChatClient`."""
        address = parse_address(server)
        if tls is not None:
            address = address._replace(tls=tls)
        self._transport = AsyncTransport(
            address,
            (("x-admin-key", admin_key),),
            credentials=load_credentials(address, ca_file, client_cert, client_key),
            timeout=timeout,
            max_attempts=max_attempts,
        )

    @classmethod
    def from_config(
        cls, *, config: Config | None = None, timeout: float = 10.0, max_attempts: int | None = None
    ) -> Self:
        """A client with the admin key and the server of the environment and `~/.agentchat/config`.

        Raises `ConfigError` when there is no admin key, or something cannot be used.
        """
        config = Config.load() if config is None else config
        return cls(
            str(config.server_address()),
            config.require_admin_key(),
            ca_file=config.ca_file,
            client_cert=config.client_cert,
            client_key=config.client_key,
            timeout=timeout,
            max_attempts=max_attempts,
        )

    async def create_machine_key(
        self, machine: str, *, expires_at: datetime | None = None, timeout: float | None = None
    ) -> types.NewMachineKey:
        """Makes a key for a machine, beside the keys it has. Not tried again."""
        request = build(
            wire.CreateMachineKeyRequest, machine=machine, expires_at=timestamp(expires_at, "expires_at")
        )
        answer = await self._transport.call(
            lambda stubs: stubs.admin.CreateMachineKey, request, timeout, repeatable=False
        )
        return types.NewMachineKey(machine_key(answer.machine_key), answer.key)

    async def rotate_machine_key(
        self, machine: str, *, grace_period: timedelta | None = None, timeout: float | None = None
    ) -> types.NewMachineKey:
        """Makes a new key for a machine; its present ones work for the grace period, at most 30 days.

        None means 24 hours. Not tried again. Raises `NotFoundError` when it has no active key.
        """
        request = build(wire.RotateMachineKeyRequest, machine=machine, grace_period=duration(grace_period))
        answer = await self._transport.call(
            lambda stubs: stubs.admin.RotateMachineKey, request, timeout, repeatable=False
        )
        return types.NewMachineKey(
            machine_key(answer.machine_key), answer.key, moment(answer.old_keys_expire_at)
        )

    async def revoke_machine_key(
        self, *, key_id: str | None = None, machine: str | None = None, timeout: float | None = None
    ) -> int:
        """Revokes one key, or all keys of a machine, within a second. Returns how many were active.

        Raises `NotFoundError`.
        """
        if (key_id is None) == (machine is None):
            raise refused("target", "name either a key or a machine")
        if key_id is not None:
            request = build(wire.RevokeMachineKeyRequest, key_id=key_id)
        else:
            request = build(wire.RevokeMachineKeyRequest, machine=machine or "")
        answer = await self._transport.call(lambda stubs: stubs.admin.RevokeMachineKey, request, timeout)
        return answer.revoked_count

    async def list_machine_keys(self, *, timeout: float | None = None) -> list[types.MachineKey]:
        """All machine keys, revoked ones too, by machine, newest first."""
        keys: list[types.MachineKey] = []
        token = ""
        while True:
            request = build(wire.ListMachineKeysRequest, page_size=_PAGE_SIZE, page_token=token)
            page = await self._transport.call(lambda stubs: stubs.admin.ListMachineKeys, request, timeout)
            keys.extend(map(machine_key, page.machine_keys))
            token = page.next_page_token
            if not token:
                return keys

    async def create_agent_key(self, name: str, *, timeout: float | None = None) -> types.NewAgentKey:
        """Makes a key that speaks for one agent only, which is created if need be. Not tried again.

        A key that the agent had before stops working. Raises `PermissionDeniedError` for an agent
        that belongs to a machine.
        """
        answer = await self._transport.call(
            lambda stubs: stubs.admin.CreateAgentKey,
            build(wire.CreateAgentKeyRequest, agent=name),
            timeout,
            repeatable=False,
        )
        return types.NewAgentKey(agent(answer.agent), answer.key)

    async def activate_agent(self, name: str, *, timeout: float | None = None) -> types.Agent:
        """Lets a deactivated agent call again. Raises `NotFoundError`."""
        request = build(wire.ActivateAgentRequest, agent=name)
        answer = await self._transport.call(lambda stubs: stubs.admin.ActivateAgent, request, timeout)
        return agent(answer.agent)

    async def deactivate_agent(self, name: str, *, timeout: float | None = None) -> types.Agent:
        """Refuses an agent's calls and ends its streams within a second. Raises `NotFoundError`."""
        request = build(wire.DeactivateAgentRequest, agent=name)
        answer = await self._transport.call(lambda stubs: stubs.admin.DeactivateAgent, request, timeout)
        return agent(answer.agent)

    async def remove_agent(self, name: str, *, timeout: float | None = None) -> None:
        """Forgets an agent; its messages stay. Not tried again. Raises `NotFoundError`."""
        request = build(wire.RemoveAgentRequest, agent=name)
        await self._transport.call(lambda stubs: stubs.admin.RemoveAgent, request, timeout, repeatable=False)

    async def archive_channel(self, name: str, *, timeout: float | None = None) -> types.Channel:
        """Archives a channel: it takes no more messages. Raises `NotFoundError`."""
        request = build(wire.ArchiveChannelRequest, channel=name)
        answer = await self._transport.call(lambda stubs: stubs.admin.ArchiveChannel, request, timeout)
        return channel(answer.channel)

    async def unarchive_channel(self, name: str, *, timeout: float | None = None) -> types.Channel:
        """Takes an archived channel back into use. Raises `NotFoundError`."""
        request = build(wire.UnarchiveChannelRequest, channel=name)
        answer = await self._transport.call(lambda stubs: stubs.admin.UnarchiveChannel, request, timeout)
        return channel(answer.channel)
