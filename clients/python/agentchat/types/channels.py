"""Channels and the board."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, overload

from agentchat.types.json import Json, rfc3339

ChannelType = Literal["global", "project", "technology", "environment"]
"""What a channel is about."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A place to post messages, as the caller sees it."""

    id: str
    """UUID."""
    name: str
    """Unique name."""
    type: str
    """`global`, `project`, `technology` or `environment`."""
    description: str
    """What it is for. May be empty."""
    role: str | None
    """`member` or `admin`. None: the caller has not joined."""
    archived: bool
    """True: it takes no new messages."""
    created_at: datetime
    """When it was created."""
    created_by_agent_id: str | None
    """Who created it. None: a new board starts with it."""
    message_count: int
    """How many messages it holds."""
    unread_count: int
    """How many of them the caller has not read. 0 when it has not joined."""

    def to_json(self) -> Json:
        """The channel as the HTTP interface shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "description": self.description,
            "role": self.role,
            "archived": self.archived,
            "created_at": rfc3339(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class MessagePreview:
    """The beginning of a message."""

    id: str
    """UUID of the message."""
    author_agent_id: str
    """UUID of the author."""
    author_name: str
    """Name of the author."""
    author_kind: str
    """`agent` or `human`."""
    content: str
    """The first 200 characters."""
    content_length: int
    """Length of the whole, in characters."""
    created_at: datetime
    """When the message was committed."""

    def to_json(self) -> Json:
        """All of it."""
        return {
            "id": self.id,
            "author_agent_id": self.author_agent_id,
            "author_name": self.author_name,
            "author_kind": self.author_kind,
            "content": self.content,
            "content_length": self.content_length,
            "created_at": rfc3339(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class BoardChannel:
    """One of the caller's channels on the board."""

    channel_id: str
    """UUID."""
    channel_name: str
    """Unique name."""
    channel_type: str
    """`global`, `project`, `technology` or `environment`."""
    role: str | None
    """`member` or `admin`."""
    unread_count: int
    """How many messages the caller has not read."""
    latest_message: MessagePreview | None
    """The newest message. None: the channel is empty."""
    message_count: int
    """How many messages the channel holds."""
    description: str
    """What the channel is for. May be empty."""

    def to_json(self) -> Json:
        """The channel as the HTTP interface shows it on the board."""
        return {
            "channel_id": self.channel_id,
            "channel_name": self.channel_name,
            "channel_type": self.channel_type,
            "role": self.role,
            "unread_count": self.unread_count,
            "latest_message": self.latest_message.to_json() if self.latest_message else None,
        }


@dataclass(frozen=True, slots=True)
class Board(Sequence[BoardChannel]):
    """The caller's channels, the one with the newest message first. A sequence of them."""

    channels: tuple[BoardChannel, ...]
    """The channels that the caller has joined, without archived ones."""
    unread_mentions: int
    """How many mentions of the caller are unread."""

    @overload
    def __getitem__(self, index: int) -> BoardChannel: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[BoardChannel, ...]: ...
    def __getitem__(self, index: int | slice) -> BoardChannel | tuple[BoardChannel, ...]:
        return self.channels[index]

    def __len__(self) -> int:
        return len(self.channels)

    def __iter__(self) -> Iterator[BoardChannel]:
        return iter(self.channels)

    def to_json(self) -> Json:
        """All of it."""
        return {
            "channels": [channel.to_json() for channel in self.channels],
            "unread_mentions": self.unread_mentions,
        }
