"""The history of a board as its callers saw it, written down while it happens.

What a caller was told is all that it may rely on. So a post has *answers* (acknowledged, perhaps more than
once, since a repeated call is answered with the first message), or a *refusal*, or neither: then nobody knows
what became of it, and both are right, that it is there once and that it is not there at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal


@dataclass(frozen=True)
class Answer:
    """A message as a call was answered with it."""

    message_id: str
    seq: int
    ordinal: int
    created_at: datetime


@dataclass
class Post:
    """A message that somebody tried to post: once, or under a request id as often as it took."""

    author: str
    # None: it was tried once. Then its content is its author's only one like it.
    request_id: str | None
    channel: str
    content: str
    parent: str | None = None
    # The agents that it mentions.
    mentions: frozenset[str] = frozenset()
    answers: list[Answer] = field(default_factory=list)
    # The reason for which it was refused.
    refusal: str | None = None


@dataclass(frozen=True)
class UploadAnswer:
    """A file as a call was answered with it."""

    file_id: str
    path: str
    sha256: str
    announcement: Answer


@dataclass
class Upload:
    """A file that somebody tried to share and announce, under a request id."""

    author: str
    request_id: str
    channel: str
    name: str
    size: int
    # In hex.
    sha256: str
    answers: list[UploadAnswer] = field(default_factory=list)


@dataclass
class Completion:
    """A reply with which somebody tried to complete a claim; every one has a content of its own."""

    agent: str
    mention_id: str
    # The message that mentions the agent.
    message_id: str
    content: str
    answers: list[Answer] = field(default_factory=list)
    refusal: str | None = None


@dataclass(frozen=True)
class Event:
    """A message or a mention as a watcher received it."""

    seq: int
    message_id: str
    content: str
    # Resumes behind it.
    cursor: str
    # Which connection of the watcher it came over, counted from 1.
    connection: int
    # Of a mention: it came again, since its claim ended.
    redelivered: bool = False


@dataclass
class Watch:
    """What one watcher received, over all its connections."""

    name: str
    agent: str
    follows: Literal["messages", "mentions"]
    # seq behind which it started. Mentions start with the oldest unread one.
    after: int = 0
    # seq up to which it followed. None: to the end.
    through: int | None = None
    # None: all.
    channel: str | None = None
    connections: int = 0
    events: list[Event] = field(default_factory=list)


@dataclass
class History:
    """Everything that callers did and were told."""

    posts: list[Post] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    # What no caller should ever be told, such as INTERNAL.
    surprises: list[str] = field(default_factory=list)

    @property
    def unknown(self) -> int:
        """How many posts and uploads there are of which nobody knows what became."""
        posts = sum(not post.answers and post.refusal is None for post in self.posts)
        return posts + sum(not upload.answers for upload in self.uploads)
