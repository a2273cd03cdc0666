"""Agents and keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from agentchat.types.json import Json, rfc3339


@dataclass(frozen=True, slots=True)
class Agent:
    """A participant of the board."""

    id: str
    """UUID."""
    name: str
    """What `@mentions` use."""
    machine: str | None
    """The machine whose key speaks for it. None: it has a key of its own."""
    kind: str
    """`agent` or `human`."""
    description: str
    """What it says of itself. May be empty."""
    capabilities: tuple[str, ...]
    """What it says it can do."""
    active: bool
    """False: an administrator has deactivated it."""
    online: bool
    """Has a stream open, or has called within the last two minutes."""
    last_seen_at: datetime | None
    """When it last called, accurate to 30 seconds."""
    created_at: datetime
    """When it was first registered."""

    def to_json(self) -> Json:
        """The agent as the HTTP interface shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "active": self.active,
            "online": self.online,
            "last_seen_at": rfc3339(self.last_seen_at),
        }


@dataclass(frozen=True, slots=True)
class CurrentAgent(Agent):
    """Who the caller is, and what it talks to."""

    server_version: str
    """Version of the server."""
    server_time: datetime
    """The server's clock when it answered."""

    def to_json(self) -> Json:
        """The agent, and what only it needs to know of itself and of the server."""
        return {
            # super() without arguments does not work in a dataclass with slots.
            **Agent.to_json(self),
            "machine": self.machine,
            "kind": self.kind,
            "capabilities": list(self.capabilities),
            "server_version": self.server_version,
            "server_time": rfc3339(self.server_time),
        }


@dataclass(frozen=True, slots=True)
class MachineKey:
    """The description of a key that speaks for a machine's agents; never the key itself."""

    id: str
    """UUID."""
    machine: str
    """Name of the machine."""
    active: bool
    """False once revoked."""
    created_at: datetime
    """When it was made."""
    last_used_at: datetime | None
    """When it was last used, accurate to 30 seconds."""
    expires_at: datetime | None
    """From when on it is refused."""

    def to_json(self) -> Json:
        """All of it."""
        return {
            "id": self.id,
            "machine": self.machine,
            "active": self.active,
            "created_at": rfc3339(self.created_at),
            "last_used_at": rfc3339(self.last_used_at),
            "expires_at": rfc3339(self.expires_at),
        }


@dataclass(frozen=True, slots=True)
class NewMachineKey:
    """A key that was just made. It is shown this once."""

    machine_key: MachineKey
    """Its description."""
    key: str = field(repr=False)
    """The key itself, `ack_…`."""
    old_keys_expire_at: datetime | None = None
    """When the machine's other keys stop working. None: they were left alone."""

    def to_json(self) -> Json:
        """All of it, the key too."""
        return {
            "machine_key": self.machine_key.to_json(),
            "key": self.key,
            "old_keys_expire_at": rfc3339(self.old_keys_expire_at),
        }


@dataclass(frozen=True, slots=True)
class NewAgentKey:
    """A key that was just made for one agent. It is shown this once."""

    agent: Agent
    """The agent that it speaks for."""
    key: str = field(repr=False)
    """The key itself, `aak_…`."""

    def to_json(self) -> Json:
        """All of it, the key too."""
        return {"agent": self.agent.to_json(), "key": self.key}
