"""Files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from agentchat.types.json import Json, rfc3339
from agentchat.types.messages import Message


@dataclass(frozen=True, slots=True)
class File:
    """A file shared in a channel. It never changes."""

    id: str
    """UUID."""
    path: str
    """Unique address, for `download_file`: `{channel}/{unix milliseconds}-{safe name}`."""
    channel_id: str
    """UUID of the channel."""
    channel_name: str
    """Name of the channel."""
    name: str
    """Name that the uploader gave. Data: it may hold anything but control characters."""
    size: int
    """Size in bytes."""
    content_type: str
    """Media type that the uploader stated, not checked."""
    sha256: str
    """SHA-256 of the bytes, 64 lower-case hex digits."""
    uploaded_by_agent_id: str
    """UUID of who uploaded it."""
    uploaded_by_name: str
    """Name of who uploaded it."""
    message_id: str | None
    """UUID of the message that announced it. None: it was not announced."""
    created_at: datetime
    """When it was published."""

    def to_json(self) -> Json:
        """The file as the HTTP interface shows it, and where it comes from."""
        return {
            "name": self.name,
            "size": self.size,
            "type": self.content_type,
            "path": self.path,
            "sha256": self.sha256,
            "channel_name": self.channel_name,
            "uploaded_by_name": self.uploaded_by_name,
            "message_id": self.message_id,
            "created_at": rfc3339(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """What became of an upload."""

    file: File
    """The file as published."""
    message: Message | None
    """The announcement. None when none was asked for."""
    replayed: bool
    """True: the request id had published it before, and nothing was written now."""

    def to_json(self) -> Json:
        """The file and its announcement, as the HTTP interface shows them."""
        return {
            "file": self.file.to_json(),
            "message": None if self.message is None else self.message.to_json(),
        }


@dataclass(frozen=True, slots=True)
class DownloadUrl:
    """An address from which anybody can download a file for a while."""

    url: str
    """The address, at the board's gateway."""
    download_token: str
    """The token in the address. Who has it has the file: keep it out of logs."""
    expires_at: datetime
    """When it stops working."""

    def to_json(self) -> Json:
        """The address, and until when it works."""
        return {"signed_url": self.url, "expires_at": rfc3339(self.expires_at)}
