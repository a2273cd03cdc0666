"""AdminService. The functions of the database check the admin key that each call hands them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_proto.v1 import admin_service_pb2 as pb
from agentchat_proto.v1 import admin_service_pb2_grpc, agent_pb2, channel_pb2
from agentchat_server import conversion, fields
from agentchat_server.identity import current_admin_key_hash, hash_key
from agentchat_server.interceptors import Context
from agentchat_server.keys import AGENT_KEY, MACHINE_KEY, new_key
from agentchat_server.refusals import InvalidField
from agentchat_server.tokens import PageTokens

_SQL = queries.load("administration")
_AGENTS_SQL = queries.load("agents")
_CHANNELS_SQL = queries.load("channels")
_MAX_GRACE = timedelta(days=30)
_DEFAULT_GRACE = timedelta(hours=24)


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """Running the board."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def CreateMachineKey(
        self, request: pb.CreateMachineKeyRequest, context: Context
    ) -> pb.CreateMachineKeyResponse:
        """Makes a key for a machine."""
        expires_at = None
        if request.HasField("expires_at"):
            expires_at = fields.moment("expires_at", request.expires_at)
            if expires_at <= datetime.now(UTC):
                raise InvalidField("expires_at", "must be in the future")
        key = new_key(MACHINE_KEY)
        row = await self._call(
            "create_machine_key",
            machine=fields.name("machine", request.machine),
            key_hash=hash_key(key),
            expires_at=expires_at,
        )
        return pb.CreateMachineKeyResponse(machine_key=conversion.machine_key(row), key=key)

    async def RotateMachineKey(
        self, request: pb.RotateMachineKeyRequest, context: Context
    ) -> pb.RotateMachineKeyResponse:
        """Makes a new key for a machine and lets its others expire."""
        grace = _DEFAULT_GRACE
        if request.HasField("grace_period"):
            grace = fields.duration("grace_period", request.grace_period, least=timedelta(), most=_MAX_GRACE)
        key = new_key(MACHINE_KEY)
        row = await self._call(
            "rotate_machine_key",
            machine=fields.name("machine", request.machine),
            key_hash=hash_key(key),
            grace=grace,
        )
        return pb.RotateMachineKeyResponse(
            machine_key=conversion.machine_key(row),
            key=key,
            old_keys_expire_at=conversion.timestamp(row.old_keys_expire_at),
        )

    async def RevokeMachineKey(
        self, request: pb.RevokeMachineKeyRequest, context: Context
    ) -> pb.RevokeMachineKeyResponse:
        """Revokes one key, or all of a machine."""
        target = request.WhichOneof("target")
        if target is None:
            raise InvalidField("target", "state key_id or machine")
        row = await self._call(
            "revoke_machine_key",
            key_id=fields.uuid("key_id", request.key_id) if target == "key_id" else None,
            machine=fields.name("machine", request.machine) if target == "machine" else None,
        )
        return pb.RevokeMachineKeyResponse(revoked_count=row.revoked_count)

    async def ListMachineKeys(
        self, request: pb.ListMachineKeysRequest, context: Context
    ) -> pb.ListMachineKeysResponse:
        """Lists machine keys."""
        limit = fields.page_size(request.page_size, default=100, maximum=200)
        tokens = PageTokens("machine_keys", "QQ")
        position = tokens.decode(request.page_token)
        after_id = UUID(int=int(position[0]) << 64 | int(position[1])) if position else None
        rows = await self._database.fetch_all(
            Statement(
                _SQL["list_machine_keys"],
                {
                    "admin_key_hash": current_admin_key_hash(),
                    "after_id": after_id,
                    "limit": limit + 1,
                },
            )
        )
        token = ""
        if len(rows) > limit:
            number = rows[limit - 1].id.int
            token = tokens.encode(number >> 64, number & (1 << 64) - 1)
        return pb.ListMachineKeysResponse(
            machine_keys=[conversion.machine_key(row) for row in rows[:limit]],
            next_page_token=token,
        )

    async def CreateAgentKey(
        self, request: pb.CreateAgentKeyRequest, context: Context
    ) -> pb.CreateAgentKeyResponse:
        """Makes a key for one agent."""
        key = new_key(AGENT_KEY)
        row = await self._call(
            "create_agent_key", agent=fields.name("agent", request.agent), key_hash=hash_key(key)
        )
        return pb.CreateAgentKeyResponse(agent=await self._agent(row.agent_id), key=key)

    async def ActivateAgent(
        self, request: pb.ActivateAgentRequest, context: Context
    ) -> pb.ActivateAgentResponse:
        """Lets an agent call again."""
        return pb.ActivateAgentResponse(agent=await self._set_active(request.agent, active=True))

    async def DeactivateAgent(
        self, request: pb.DeactivateAgentRequest, context: Context
    ) -> pb.DeactivateAgentResponse:
        """Refuses an agent's calls."""
        return pb.DeactivateAgentResponse(agent=await self._set_active(request.agent, active=False))

    async def RemoveAgent(self, request: pb.RemoveAgentRequest, context: Context) -> pb.RemoveAgentResponse:
        """Forgets an agent."""
        await self._call("remove_agent", agent=fields.name("agent", request.agent))
        return pb.RemoveAgentResponse()

    async def ArchiveChannel(
        self, request: pb.ArchiveChannelRequest, context: Context
    ) -> pb.ArchiveChannelResponse:
        """Archives a channel."""
        return pb.ArchiveChannelResponse(channel=await self._set_archived(request.channel, archived=True))

    async def UnarchiveChannel(
        self, request: pb.UnarchiveChannelRequest, context: Context
    ) -> pb.UnarchiveChannelResponse:
        """Takes a channel back into use."""
        return pb.UnarchiveChannelResponse(channel=await self._set_archived(request.channel, archived=False))

    async def _call(self, function: str, **parameters: Any) -> Row:
        row = await self._database.fetch_row(
            Statement(_SQL[function], {"admin_key_hash": current_admin_key_hash(), **parameters}),
            # A key that was made, its answer lost, would be made twice.
            idempotent=False,
        )
        return row

    async def _agent(self, agent_id: UUID) -> agent_pb2.Agent:
        row = await self._database.fetch_row(Statement(_AGENTS_SQL["get_agent"], {"agent_id": agent_id}))
        return conversion.agent(row)

    async def _set_active(self, name: str, *, active: bool) -> agent_pb2.Agent:
        row = await self._call("set_agent_active", agent=fields.name("agent", name), active=active)
        return await self._agent(row.agent_id)

    async def _set_archived(self, name: str, *, archived: bool) -> channel_pb2.Channel:
        row = await self._call(
            "set_channel_archived", channel=fields.name("channel", name), archived=archived
        )
        channel = await self._database.fetch_row(
            Statement(_CHANNELS_SQL["get_channel_by_id"], {"channel_id": row.channel_id})
        )
        return conversion.channel(channel)
