"""The two ends of a transfer on this machine: what is uploaded, and where a download goes.

Everything here blocks; the asyncio client calls it in threads.
"""

from __future__ import annotations

import hashlib
import io
import mimetypes
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from agentchat._requests import refused
from agentchat.exceptions import AgentChatError, UnavailableError

CHUNK = 256 * 1024
"""Bytes of a file in one part of an upload; the server takes up to 1 MiB."""

SLOWEST_RATE = 64 * 1024
"""Bytes a second that a transfer is given time for, beside the timeout of a call."""

LARGEST_FILE = 10 * 1024 * 1024
"""Bytes of the largest file that a server takes, unless it is set otherwise."""


class Source:
    """Bytes to upload, which can be read as often as the upload is tried."""

    def __init__(self, path: str | os.PathLike[str] | None, content: bytes | str | None) -> None:
        if (path is None) == (content is None):
            raise refused("source", "state either the path of a file or its content")
        self._path = None if path is None else Path(path)
        self._content = content.encode() if isinstance(content, str) else content
        self.size = 0
        self.sha256 = ""

    @property
    def name(self) -> str | None:
        """The name of the file. None for content."""
        return None if self._path is None else self._path.name

    def measure(self) -> None:
        """Reads all of it once, for its size and checksum. Raises `OSError`."""
        if self._path is not None and not self._path.is_file():
            # Says why there is none; what is there and no file, such as a pipe, cannot be read twice.
            self._path.stat()
            raise refused("source", f"{self._path} is no regular file")
        with self.open() as stream:
            self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            self.size = stream.seek(0, os.SEEK_END)

    def open(self) -> io.BufferedReader | io.BytesIO:
        """The bytes from the beginning. Raises `OSError`."""
        return io.BytesIO(self._content or b"") if self._path is None else self._path.open("rb")


class Target:
    """Where a download goes: memory, or a file that appears when it is complete and checked.

    Until then the bytes are in a file beside it, which is removed when the download fails.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, overwrite: bool) -> None:
        self._path = None if path is None else Path(path)
        self._overwrite = overwrite
        self._partial: Path | None = None
        self._stream: BinaryIO = io.BytesIO()
        self._digest = hashlib.sha256()
        self._expected = ("", 0)
        self._received = 0

    def begin(self, size: int, sha256: str) -> None:
        """Starts, or starts over. Raises `OSError`."""
        self.discard()
        self._digest, self._expected, self._received = hashlib.sha256(), (sha256, size), 0
        if self._path is None:
            self._stream = io.BytesIO()
        else:
            self._check_place(self._path)
            partial = self._path.with_name(f".agentchat-{secrets.token_hex(8)}.part")
            try:
                self._stream = partial.open("xb")
            except OSError as error:
                # The caller knows the file by the name that it shall get.
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            self._partial = partial

    def write(self, chunk: bytes) -> int:
        """Takes the next bytes; returns how many there are now. Raises `OSError`."""
        self._received += len(chunk)
        if self._received > self._expected[1]:
            raise _damaged()
        self._digest.update(chunk)
        self._stream.write(chunk)
        return self._received

    def complete(self) -> bytes:
        """Checks the bytes and puts the file into its place; returns the content when there is no file.

        Raises `UnavailableError` when bytes are missing, `AgentChatError` when they are others,
        `OSError`.
        """
        sha256, size = self._expected
        if self._received < size:
            raise UnavailableError(f"the download ended after {self._received:,} of {size:,} bytes")
        if self._digest.hexdigest() != sha256:
            raise _damaged()
        if self._path is None or self._partial is None:
            self._stream.seek(0)
            return self._stream.read()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._check_place(self._path)
        self._partial.replace(self._path)
        self._partial = None
        return b""

    def discard(self) -> None:
        """Removes what is there of an incomplete download."""
        self._stream.close()
        if self._partial is not None:
            with suppress(FileNotFoundError):
                self._partial.unlink()
            self._partial = None

    def _check_place(self, path: Path) -> None:
        if path.is_file():
            if not self._overwrite:
                raise FileExistsError(f"{path} is there already")
        elif path.exists() or path.is_symlink() or not path.name:
            # A folder, a device, or a link to nowhere, which a file must not take the place of.
            raise refused("to", f"{path} is no regular file")


def guess_content_type(name: str) -> str:
    """The media type that the end of a name tells; empty when it tells none."""
    content_type, encoding = mimetypes.guess_type(name, strict=False)
    return content_type if content_type and encoding is None else ""


def _damaged() -> AgentChatError:
    return AgentChatError("the bytes received are not those of the file", code="DATA_LOSS")
