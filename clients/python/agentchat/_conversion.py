"""From messages of the API to the dataclasses that callers get."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from agentchat import types
from agentchat_proto.v1 import (
    agent_pb2,
    agent_service_pb2,
    board_service_pb2,
    channel_pb2,
    file_pb2,
    file_service_pb2,
    machine_key_pb2,
    mention_pb2,
    mention_service_pb2,
    message_pb2,
    message_service_pb2,
    search_service_pb2,
)

CHANNEL_TYPES = {
    "global": channel_pb2.CHANNEL_TYPE_GLOBAL,
    "project": channel_pb2.CHANNEL_TYPE_PROJECT,
    "technology": channel_pb2.CHANNEL_TYPE_TECHNOLOGY,
    "environment": channel_pb2.CHANNEL_TYPE_ENVIRONMENT,
}
_CHANNEL_TYPE_WORDS = {number: word for word, number in CHANNEL_TYPES.items()}
_ROLE_WORDS = {
    channel_pb2.MEMBERSHIP_ROLE_MEMBER: "member",
    channel_pb2.MEMBERSHIP_ROLE_ADMIN: "admin",
}
# Doubles hold every integer up to here.
_LARGEST_EXACT = 2**53


def moment(value: Timestamp) -> datetime:
    """A time that is always there."""
    return value.ToDatetime(tzinfo=UTC)


def agent(value: agent_pb2.Agent) -> types.Agent:
    """An agent."""
    return types.Agent(**_agent_fields(value))


def current_agent(value: agent_service_pb2.GetCurrentAgentResponse) -> types.CurrentAgent:
    """Who the caller is."""
    return types.CurrentAgent(
        **_agent_fields(value.agent),
        server_version=value.server_version,
        server_time=moment(value.server_time),
    )


def channel(value: channel_pb2.Channel) -> types.Channel:
    """A channel."""
    return types.Channel(
        id=value.id,
        name=value.name,
        type=_channel_type(value.type),
        description=value.description,
        role=_ROLE_WORDS.get(value.role),
        archived=value.archived,
        created_at=moment(value.created_at),
        created_by_agent_id=value.created_by_agent_id or None,
        message_count=value.message_count,
        unread_count=value.unread_count,
    )


def board(value: board_service_pb2.GetBoardResponse) -> types.Board:
    """The board."""
    return types.Board(
        channels=tuple(_board_channel(item) for item in value.channels),
        unread_mentions=value.unread_mention_count,
    )


def file(value: file_pb2.File) -> types.File:
    """A file."""
    return types.File(
        id=value.id,
        path=value.path,
        channel_id=value.channel_id,
        channel_name=value.channel_name,
        name=value.name,
        size=value.size,
        content_type=value.content_type,
        sha256=value.sha256,
        uploaded_by_agent_id=value.uploaded_by_agent_id,
        uploaded_by_name=value.uploaded_by_name,
        message_id=value.message_id if value.HasField("message_id") else None,
        created_at=moment(value.created_at),
    )


def uploaded_file(value: file_service_pb2.UploadFileResponse) -> types.UploadedFile:
    """What became of an upload."""
    return types.UploadedFile(
        file=file(value.file),
        message=message(value.message) if value.HasField("message") else None,
        replayed=value.replayed,
    )


def download_url(value: file_service_pb2.CreateDownloadUrlResponse) -> types.DownloadUrl:
    """An address to download from."""
    return types.DownloadUrl(
        url=value.url, download_token=value.download_token, expires_at=moment(value.expires_at)
    )


def message(value: message_pb2.Message) -> types.Message:
    """A message."""
    return types.Message(**_message_fields(value))


def search_result(value: search_service_pb2.SearchResult) -> types.SearchResult:
    """A message that was found."""
    return types.SearchResult(**_message_fields(value.message), rank=value.rank, snippet=value.snippet)


def watched_message(value: message_service_pb2.WatchMessagesResponse) -> types.WatchedMessage | None:
    """A message that a watch has seen; None for a checkpoint, or an event of a newer server."""
    if not value.HasField("message_posted"):
        return None
    event = value.message_posted
    return types.WatchedMessage(
        **_message_fields(event.message),
        mention_id=event.mention_id if event.HasField("mention_id") else None,
        cursor=value.cursor,
    )


def sent_message(
    value: message_service_pb2.SendMessageResponse
    | message_service_pb2.SendDirectMessageResponse
    | mention_service_pb2.CompleteClaimResponse,
) -> types.SentMessage:
    """What became of a message."""
    return types.SentMessage(
        message=message(value.message),
        mentioned=tuple(types.MentionedAgent(item.agent_id, item.name) for item in value.mentioned),
        unknown_mentions=tuple(value.unknown_mentions),
        replayed=value.replayed,
    )


def mention(value: mention_pb2.Mention) -> types.Mention:
    """A mention."""
    return types.Mention(**_mention_fields(value))


def watched_mention(value: mention_service_pb2.WatchMentionsResponse) -> types.WatchedMention | None:
    """A mention that a watch has seen; None for a checkpoint, or an event of a newer server."""
    if not value.HasField("mention_received"):
        return None
    event = value.mention_received
    return types.WatchedMention(
        **_mention_fields(event.mention), redelivered=event.redelivered, cursor=value.cursor
    )


def claim(value: mention_service_pb2.ClaimMentionResponse) -> types.Claim:
    """A claim that was won."""
    return types.Claim(
        mention=mention(value.mention),
        token=value.claim_token,
        claimed_until=moment(value.mention.claimed_until),
    )


def machine_key(value: machine_key_pb2.MachineKey) -> types.MachineKey:
    """The description of a key."""
    return types.MachineKey(
        id=value.id,
        machine=value.machine,
        active=value.active,
        created_at=moment(value.created_at),
        last_used_at=moment(value.last_used_at) if value.HasField("last_used_at") else None,
        expires_at=moment(value.expires_at) if value.HasField("expires_at") else None,
    )


def json_object(value: Struct) -> dict[str, Any]:
    """A JSON object. Whole numbers are integers, as they were when they were sent."""
    return {key: _json_value(item) for key, item in value.fields.items()}


def _json_value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _LARGEST_EXACT else number
    if kind == "struct_value":
        return json_object(value.struct_value)
    if kind == "list_value":
        return _json_list(value.list_value)
    return None if kind in (None, "null_value") else getattr(value, kind)


def _json_list(value: ListValue) -> list[Any]:
    return [_json_value(item) for item in value.values]


def _agent_fields(value: agent_pb2.Agent) -> dict[str, Any]:
    return {
        "id": value.id,
        "name": value.name,
        "machine": value.machine or None,
        "kind": _kind(value.kind),
        "description": value.description,
        "capabilities": tuple(value.capabilities),
        "active": value.active,
        "online": value.online,
        "last_seen_at": moment(value.last_seen_at) if value.HasField("last_seen_at") else None,
        "created_at": moment(value.created_at),
    }


def _message_fields(value: message_pb2.Message) -> dict[str, Any]:
    return {
        "id": value.id,
        "seq": value.seq,
        "ordinal": value.ordinal,
        "channel_id": value.channel_id,
        "channel_name": value.channel_name,
        "author_agent_id": value.author_agent_id,
        "author_name": value.author_name,
        "author_kind": _kind(value.author_kind),
        "content": value.content,
        "created_at": moment(value.created_at),
        "parent_message_id": value.parent_message_id if value.HasField("parent_message_id") else None,
        "hops": value.hops,
        "metadata": json_object(value.metadata) if value.HasField("metadata") else None,
    }


def _mention_fields(value: mention_pb2.Mention) -> dict[str, Any]:
    return {
        "mention_id": value.id,
        "message_id": value.message_id,
        "seq": value.seq,
        "channel_id": value.channel_id,
        "channel": value.channel_name,
        "from_agent_id": value.from_agent_id,
        "from_agent": value.from_agent_name,
        "from_kind": _kind(value.from_agent_kind),
        "from_project": value.from_project or None,
        "content": value.content,
        "parent_message_id": value.parent_message_id if value.HasField("parent_message_id") else None,
        "hops": value.hops,
        "timestamp": moment(value.created_at),
        "read_at": moment(value.read_at) if value.HasField("read_at") else None,
        "claimed_until": moment(value.claimed_until) if value.HasField("claimed_until") else None,
    }


def _board_channel(value: board_service_pb2.BoardChannel) -> types.BoardChannel:
    latest = value.latest_message
    return types.BoardChannel(
        channel_id=value.channel.id,
        channel_name=value.channel.name,
        channel_type=_channel_type(value.channel.type),
        role=_ROLE_WORDS.get(value.channel.role),
        unread_count=value.channel.unread_count,
        latest_message=types.MessagePreview(
            id=latest.id,
            author_agent_id=latest.author_agent_id,
            author_name=latest.author_name,
            author_kind=_kind(latest.author_kind),
            content=latest.content,
            content_length=latest.content_length,
            created_at=moment(latest.created_at),
        )
        if value.HasField("latest_message")
        else None,
        message_count=value.channel.message_count,
        description=value.channel.description,
    )


def _kind(value: agent_pb2.AgentKind.ValueType) -> str:
    return "human" if value == agent_pb2.AGENT_KIND_HUMAN else "agent"


def _channel_type(value: channel_pb2.ChannelType.ValueType) -> str:
    # A type that this version does not know is for everybody, as every unprefixed name is.
    return _CHANNEL_TYPE_WORDS.get(value, "global")
