"""File stores that tests can look into: what the server keeps where."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.s3_server import S3Server


class InspectedStore(Protocol):
    """A file store, and a way in behind the server's back."""

    @property
    def url(self) -> str:
        """As `files_url` takes it."""

    def names(self) -> list[str]:
        """All that it holds, finished or not."""

    def add(self, name: str, content: bytes) -> None:
        """Stores an object."""

    def remove(self, name: str) -> None:
        """Removes an object."""


@dataclass(frozen=True)
class LocalFolder:
    """A local folder."""

    path: Path

    @property
    def url(self) -> str:
        return self.path.as_uri()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []

    def add(self, name: str, content: bytes) -> None:
        (self.path / name).write_bytes(content)

    def age(self, name: str, seconds: float) -> None:
        """Makes an object look older."""
        then = time.time() - seconds
        os.utime(self.path / name, (then, then))

    def remove(self, name: str) -> None:
        (self.path / name).unlink()


@dataclass(frozen=True)
class S3Bucket:
    """A prefix in a bucket of an S3 server."""

    server: S3Server
    bucket: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/some/prefix"

    def names(self) -> list[str]:
        return [key.removeprefix("some/prefix/") for key in self.server.keys(self.bucket)]

    def add(self, name: str, content: bytes) -> None:
        self.server.put(self.bucket, f"some/prefix/{name}", content)

    def remove(self, name: str) -> None:
        self.server.delete(self.bucket, f"some/prefix/{name}")
