"""From rows to messages of the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from agentchat_db.database import Row
from agentchat_proto.v1 import (
    agent_pb2,
    board_service_pb2,
    channel_pb2,
    file_pb2,
    machine_key_pb2,
    mention_pb2,
    message_pb2,
    message_service_pb2,
)

AGENT_KINDS = {"agent": agent_pb2.AGENT_KIND_AGENT, "human": agent_pb2.AGENT_KIND_HUMAN}
CHANNEL_TYPES = {
    "global": channel_pb2.CHANNEL_TYPE_GLOBAL,
    "project": channel_pb2.CHANNEL_TYPE_PROJECT,
    "technology": channel_pb2.CHANNEL_TYPE_TECHNOLOGY,
    "environment": channel_pb2.CHANNEL_TYPE_ENVIRONMENT,
}
ROLES = {
    None: channel_pb2.MEMBERSHIP_ROLE_UNSPECIFIED,
    "member": channel_pb2.MEMBERSHIP_ROLE_MEMBER,
    "admin": channel_pb2.MEMBERSHIP_ROLE_ADMIN,
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A moment, exact to the microsecond; None stays absent."""
    if moment is None:
        return None
    seconds, microseconds = divmod((moment - _EPOCH) // _MICROSECOND, 1_000_000)
    return Timestamp(seconds=seconds, nanos=microseconds * 1000)


def struct(value: dict[str, Any] | None) -> Struct | None:
    """A JSON object; None stays absent."""
    if value is None:
        return None
    converted = Struct()
    converted.update(value)
    return converted


def agent(row: Row) -> agent_pb2.Agent:
    """A row of agent_view."""
    return agent_pb2.Agent(
        id=str(row.id),
        name=row.name,
        machine=row.machine,
        kind=AGENT_KINDS[row.kind],
        description=row.description,
        capabilities=row.capabilities,
        active=row.active,
        online=row.online,
        last_seen_at=timestamp(row.last_seen_at),
        created_at=timestamp(row.created_at),
    )


def channel(row: Row) -> channel_pb2.Channel:
    """A row of channel_view."""
    return channel_pb2.Channel(
        id=str(row.id),
        name=row.name,
        type=CHANNEL_TYPES[row.type],
        description=row.description,
        created_by_agent_id=str(row.created_by or ""),
        archived=row.archived,
        created_at=timestamp(row.created_at),
        message_count=row.message_count,
        role=ROLES[row.role],
        unread_count=row.unread_count,
    )


def board_channel(row: Row) -> board_service_pb2.BoardChannel:
    """A row of get_board."""
    converted = board_service_pb2.BoardChannel(channel=channel(row))
    if row.message_id is not None:
        converted.latest_message.CopyFrom(
            board_service_pb2.MessagePreview(
                id=str(row.message_id),
                author_agent_id=str(row.author_agent_id),
                author_name=row.author_name,
                author_kind=AGENT_KINDS[row.author_kind],
                content=row.content,
                content_length=row.content_length,
                created_at=timestamp(row.message_created_at),
            )
        )
    return converted


def message(row: Row) -> message_pb2.Message:
    """A row of message_view."""
    return message_pb2.Message(
        id=str(row.id),
        seq=row.seq,
        ordinal=row.ordinal,
        channel_id=str(row.channel_id),
        channel_name=row.channel_name,
        author_agent_id=str(row.author_agent_id),
        author_name=row.author_name,
        author_kind=AGENT_KINDS[row.author_kind],
        content=row.content,
        metadata=struct(row.metadata),
        parent_message_id=None if row.parent_message_id is None else str(row.parent_message_id),
        hops=row.hops,
        created_at=timestamp(row.created_at),
    )


def mentioned_agents(mentions: dict[str, Any] | None) -> list[message_service_pb2.MentionedAgent]:
    """The agents that a message mentions, from `mentions` of the log function."""
    named = mentions["mentioned"] if mentions else []
    return [message_service_pb2.MentionedAgent(agent_id=one["agent_id"], name=one["name"]) for one in named]


def unknown_mentions(mentions: dict[str, Any] | None) -> list[str]:
    """The names that a message mentions and no active agent has, from `mentions` of the log function."""
    return list(mentions["unknown"]) if mentions else []


def mention(row: Row) -> mention_pb2.Mention:
    """A row of mention_view_v2."""
    return mention_pb2.Mention(
        id=str(row.id),
        message_id=str(row.message_id),
        seq=row.seq,
        channel_id=str(row.channel_id),
        channel_name=row.channel_name,
        from_agent_id=str(row.from_agent_id),
        from_agent_name=row.from_agent_name,
        from_agent_kind=AGENT_KINDS[row.from_agent_kind],
        from_project=row.from_project,
        content=row.content,
        parent_message_id=None if row.parent_message_id is None else str(row.parent_message_id),
        hops=row.hops,
        created_at=timestamp(row.created_at),
        read_at=timestamp(row.read_at),
        claimed_until=timestamp(row.claimed_until),
    )


def new_mention(mention_id: str, of: message_pb2.Message) -> mention_pb2.Mention:
    """The mention that a message has just made."""
    project = of.metadata.fields["project"].string_value if "project" in of.metadata.fields else ""
    converted = mention_pb2.Mention(
        id=mention_id,
        message_id=of.id,
        seq=of.seq,
        channel_id=of.channel_id,
        channel_name=of.channel_name,
        from_agent_id=of.author_agent_id,
        from_agent_name=of.author_name,
        from_agent_kind=of.author_kind,
        from_project=project,
        content=of.content,
        hops=of.hops,
        created_at=of.created_at,
    )
    if of.HasField("parent_message_id"):
        converted.parent_message_id = of.parent_message_id
    return converted


def file(row: Row) -> file_pb2.File:
    """A row of file_view."""
    return file_pb2.File(
        id=str(row.id),
        path=row.path,
        channel_id=str(row.channel_id),
        channel_name=row.channel_name,
        name=row.name,
        size=row.size,
        content_type=row.content_type,
        sha256=row.sha256.hex(),
        uploaded_by_agent_id=str(row.uploaded_by),
        uploaded_by_name=row.uploaded_by_name,
        message_id=None if row.message_id is None else str(row.message_id),
        created_at=timestamp(row.created_at),
    )


def machine_key(row: Row) -> machine_key_pb2.MachineKey:
    """A row of machine_key_view."""
    return machine_key_pb2.MachineKey(
        id=str(row.id),
        machine=row.machine,
        active=row.active,
        created_at=timestamp(row.created_at),
        last_used_at=timestamp(row.last_used_at),
        expires_at=timestamp(row.expires_at),
    )
