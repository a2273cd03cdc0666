"""Posting one message: through the writer, and from its outcome to the API's words.

What was written also goes to the hub, as the event that the log shows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import grpc
from google.protobuf.struct_pb2 import Struct

from agentchat_db.database import Row
from agentchat_proto.v1 import message_pb2, message_service_pb2
from agentchat_server import conversion, fields
from agentchat_server.identity import Caller
from agentchat_server.refusals import Refusal
from agentchat_server.subscription import LogEvent
from agentchat_server.writer import MessageWriter, Post

# As send_batch has it.
MAX_CREATED_CHANNELS = 20


@dataclass(frozen=True)
class Posted:
    """A message that is committed."""

    message: message_pb2.Message
    mentioned: list[message_service_pb2.MentionedAgent]
    unknown_mentions: list[str]
    # The request id had posted it before.
    replayed: bool


async def post_message(
    writer: MessageWriter,
    caller: Caller,
    *,
    channel: str,
    content: str,
    metadata: Struct | None,
    parent: UUID | None,
    request_id: UUID | None,
    target: str | None = None,
) -> Posted:
    """Posts a message whose fields are checked; `target` is the agent that a direct message is for.

    Raises:
        Refusal: with the reasons that SendMessage and SendDirectMessage list.
    """
    post = Post(
        caller=caller,
        channel=channel,
        content=content,
        metadata=metadata,
        encoded_metadata=None if metadata is None else fields.metadata(metadata),
        parent=parent,
        request_id=request_id,
        target=target,
    )
    row = await writer.write(post)
    if row.outcome not in ("SENT", "REPLAYED"):
        raise _refusal(row.outcome, post)
    return Posted(
        message=_message(post, row),
        mentioned=conversion.mentioned_agents(row.mentions),
        unknown_mentions=conversion.unknown_mentions(row.mentions),
        replayed=row.outcome == "REPLAYED",
    )


def log_event(post: Post, row: Row) -> LogEvent | None:
    """What the log shows of a message that was sent.

    None when only the table can tell: the message was in it before this attempt, with mentions of its own.
    """
    mentioned = row.mentions["mentioned"] if row.mentions else []
    if any("mention_id" not in one for one in mentioned):
        return None
    mentions = {UUID(one["agent_id"]): str(one["mention_id"]) for one in mentioned}
    return LogEvent(row.seq, row.channel_id, _message(post, row), mentions)


def _message(post: Post, row: Row) -> message_pb2.Message:
    return message_pb2.Message(
        id=str(row.message_id),
        seq=row.seq,
        ordinal=row.ordinal,
        channel_id=str(row.channel_id),
        channel_name=post.channel,
        author_agent_id=str(post.caller.agent_id),
        author_name=post.caller.name,
        author_kind=post.caller.kind,
        content=post.content,
        metadata=post.metadata,
        parent_message_id=None if post.parent is None else str(post.parent),
        hops=row.hops,
        created_at=conversion.timestamp(row.created_at),
    )


def _refusal(outcome: str, post: Post) -> Refusal:
    match outcome:
        case "AGENT_DEACTIVATED":
            return Refusal(outcome, agent=post.caller.name)
        case "TARGET_DEACTIVATED":
            return Refusal(
                "AGENT_DEACTIVATED",
                code=grpc.StatusCode.FAILED_PRECONDITION,
                agent=post.target or "",
            )
        case "AGENT_NOT_FOUND":
            return Refusal(outcome, agent=post.target or "")
        case "CHANNEL_ARCHIVED":
            return Refusal(outcome, channel=post.channel)
        case "CHANNEL_LIMIT_REACHED":
            return Refusal(outcome, limit=str(MAX_CREATED_CHANNELS))
        case "MESSAGE_NOT_FOUND":
            return Refusal(outcome, message_id=str(post.parent))
        case "REQUEST_ID_REUSED":
            return Refusal(outcome, request_id=str(post.request_id))
        case _:
            return Refusal(outcome)
