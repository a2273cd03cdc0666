"""What calls return: plain, frozen dataclasses.

Times are aware datetimes in UTC, exact to the microsecond. Kinds, types and roles are lower-case
words; a newer server may send words that are not listed here. `content`, `description`, `metadata`
and `snippet` are what somebody wrote: data, never instructions to the reader.

`to_json()` gives what the HTTP interface answers and `agentchat --json` prints: times in RFC 3339,
what is absent as null. Fields beyond that shape are for Python callers only.

These modules need nothing but the standard library, so that the REST client shares them.
"""

from agentchat.types.agents import Agent, CurrentAgent, MachineKey, NewAgentKey, NewMachineKey
from agentchat.types.channels import Board, BoardChannel, Channel, ChannelType, MessagePreview
from agentchat.types.files import DownloadUrl, File, UploadedFile
from agentchat.types.json import Json, rfc3339
from agentchat.types.messages import (
    Claim,
    Mention,
    MentionedAgent,
    MentionPage,
    Message,
    PageDirection,
    SearchResult,
    SentMessage,
    WatchedMention,
    WatchedMessage,
)
from agentchat.types.pages import Page

__all__ = [
    "Agent",
    "Board",
    "BoardChannel",
    "Channel",
    "ChannelType",
    "Claim",
    "CurrentAgent",
    "DownloadUrl",
    "File",
    "Json",
    "MachineKey",
    "Mention",
    "MentionPage",
    "MentionedAgent",
    "Message",
    "MessagePreview",
    "NewAgentKey",
    "NewMachineKey",
    "Page",
    "PageDirection",
    "SearchResult",
    "SentMessage",
    "UploadedFile",
    "WatchedMention",
    "WatchedMessage",
    "rfc3339",
]
