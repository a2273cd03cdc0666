"""The data folder of a board: made private, and held by one process at a time.

`DataDirLock` is a lock on the file `lock` in it. The kernel drops the lock when its holder dies, however it
dies, so there is none to break by hand; the file stays, with the number of the process that held it last.
The lock guards the folder's Postgres: only its holder may decide that a server found there is left over.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from agentchat_db.exceptions import DataDirBusyError, DataDirUnusableError


def create_data_dir(path: Path) -> None:
    """Makes the folder with mode 0700, and those above it as usual; leaves one that exists as it is.

    Raises:
        DataDirUnusableError: when that fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DataDirUnusableError(data_dir=path, reason=error.strerror) from error


class DataDirLock:
    """The right to run what is in a data folder. A context manager; not for several threads at once."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def acquire(self) -> None:
        """Takes the lock, and makes the folder when it is missing. Does nothing when already held.

        Raises:
            DataDirBusyError: at once, when another process or another object of this one holds it.
            DataDirUnusableError: when the folder cannot be made or used.
        """
        if self.held:
            return
        create_data_dir(self._data_dir)
        try:
            # Python's files are not inherited: a program that we start must not keep the lock for us.
            file = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise DataDirUnusableError(data_dir=self._data_dir, reason=error.strerror) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            pid = os.pread(file, 32, 0).decode("ascii", "replace").strip()
            os.close(file)
            holder = f"process {pid}" if pid else "a process that is just starting"
            raise DataDirBusyError(data_dir=self._data_dir, holder=holder) from error
        except OSError as error:
            os.close(file)
            raise DataDirUnusableError(data_dir=self._data_dir, reason=error.strerror) from error
        self._file = file

    def release(self) -> None:
        """Gives the lock back. Does nothing when not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
