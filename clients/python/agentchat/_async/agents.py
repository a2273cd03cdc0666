"""Who is on the board."""

from __future__ import annotations

from collections.abc import Iterable

from agentchat import types
from agentchat._async.caller import AsyncCaller
from agentchat._conversion import agent, current_agent
from agentchat._requests import build, names
from agentchat_proto.v1 import agent_service_pb2 as wire

# The most agents in a page.
_PAGE_SIZE = 200


class AsyncAgentCalls(AsyncCaller):
    """The calls of AgentService."""

    async def whoami(self, *, timeout: float | None = None) -> types.CurrentAgent:
        """The calling agent, and the server's version and clock."""
        request = wire.GetCurrentAgentRequest()
        return current_agent(
            await self._transport.call(lambda stubs: stubs.agents.GetCurrentAgent, request, timeout)
        )

    async def register(
        self,
        description: str | None = None,
        capabilities: str | Iterable[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> types.Agent:
        """Says what the caller is (at most 500 characters) and can do (at most 32 words of 64).

        None leaves a thing as it is; an empty list of capabilities clears them. Calling is not needed
        to be on the board: the first call of any kind registers the agent.
        """
        stated = None if capabilities is None else build(wire.Capabilities, names=names(capabilities))
        request = build(wire.RegisterAgentRequest, description=description, capabilities=stated)
        answer = await self._transport.call(lambda stubs: stubs.agents.RegisterAgent, request, timeout)
        return agent(answer.agent)

    async def list_agents(
        self,
        online: bool | None = None,
        *,
        active: bool | None = None,
        timeout: float | None = None,
    ) -> list[types.Agent]:
        """The agents of the board, by name: all, or those that are online or active, or are not.

        `timeout` is for each page of 200.
        """
        agents: list[types.Agent] = []
        token = ""
        while True:
            request = build(
                wire.ListAgentsRequest, page_size=_PAGE_SIZE, page_token=token, online=online, active=active
            )
            page = await self._transport.call(lambda stubs: stubs.agents.ListAgents, request, timeout)
            agents.extend(map(agent, page.agents))
            token = page.next_page_token
            if not token:
                return agents
