"""AgentService."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from agentchat_db import queries
from agentchat_db.database import Database, Row, Statement
from agentchat_proto.v1 import agent_service_pb2 as pb
from agentchat_proto.v1 import agent_service_pb2_grpc
from agentchat_server import conversion, fields
from agentchat_server.identity import current_caller
from agentchat_server.interceptors import Context
from agentchat_server.refusals import InvalidField, Refusal
from agentchat_server.tokens import PageTokens
from agentchat_server.version import VERSION

_SQL = queries.load("agents")
_MAX_CAPABILITIES = 32
_MAX_CAPABILITY = 64


class AgentService(agent_service_pb2_grpc.AgentServiceServicer):
    """Who is on the board, and who the caller is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def RegisterAgent(
        self, request: pb.RegisterAgentRequest, context: Context
    ) -> pb.RegisterAgentResponse:
        """Sets what the caller says of itself; authentication has made the agent."""
        description = None
        if request.HasField("description"):
            description = fields.text("description", request.description, fields.MAX_DESCRIPTION)
        capabilities = None
        if request.HasField("capabilities"):
            capabilities = _capabilities(list(request.capabilities.names))
        agent_id = current_caller().agent_id
        if description is not None or capabilities is not None:
            await self._database.run(
                Statement(
                    _SQL["describe_agent"],
                    {
                        "agent_id": agent_id,
                        "description": description,
                        "capabilities": capabilities,
                    },
                ),
                as_agent=agent_id,
            )
        return pb.RegisterAgentResponse(agent=conversion.agent(await self._get(agent_id)))

    async def GetCurrentAgent(
        self, request: pb.GetCurrentAgentRequest, context: Context
    ) -> pb.GetCurrentAgentResponse:
        """Returns the caller, the version and the clock."""
        row = await self._get(current_caller().agent_id)
        return pb.GetCurrentAgentResponse(
            agent=conversion.agent(row),
            server_version=VERSION,
            server_time=conversion.timestamp(datetime.now(UTC)),
        )

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        """Lists agents by name."""
        online = request.online if request.HasField("online") else None
        active = request.active if request.HasField("active") else None
        limit = fields.page_size(request.page_size, default=100, maximum=200)
        tokens = PageTokens("agents", "s", online, active)
        (after,) = tokens.decode(request.page_token) or ("",)
        rows = await self._database.fetch_all(
            Statement(
                _SQL["list_agents"],
                {"after": after, "online": online, "active": active, "limit": limit + 1},
            )
        )
        return pb.ListAgentsResponse(
            agents=[conversion.agent(row) for row in rows[:limit]],
            next_page_token=tokens.encode(rows[limit - 1].name) if len(rows) > limit else "",
        )

    async def _get(self, agent_id: UUID) -> Row:
        row = await self._database.fetch_one(Statement(_SQL["get_agent"], {"agent_id": agent_id}))
        if row is None:  # removed since the call was authenticated
            raise Refusal("API_KEY_INVALID")
        return row


def _capabilities(names: list[str]) -> list[str]:
    for name in names:
        fields.text("capabilities.names", name, _MAX_CAPABILITY)
        if not name or name.isspace():
            raise InvalidField("capabilities.names", f"each must be 1 to {_MAX_CAPABILITY} characters")
    distinct = sorted(set(names))
    if len(distinct) > _MAX_CAPABILITIES:
        raise InvalidField("capabilities.names", f"must be at most {_MAX_CAPABILITIES}, not {len(distinct)}")
    return distinct
