"""The account of the operating system that Postgres runs as.

Postgres refuses to run as root. Started by a normal user, it runs as that user. Started by root, it runs
as the owner of its cluster, which for a new one is the system account `agentchat`, made when missing.

That account has to get at the cluster and at Postgres' programs. Where it cannot, typically because they
are somewhere below /root, nobody's folders are opened up for it. Instead util-linux' setpriv starts the
program with one capability: CAP_DAC_READ_SEARCH, or, where that was taken from us as in Docker or is not
enough, CAP_DAC_OVERRIDE.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agentchat_db.exceptions import AccountError

ACCOUNT_NAME = "agentchat"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Postgres gets nothing of our own environment, which may hold keys, and PG* variables that mislead it.
_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C", "TZ": "UTC"}

# Numbers from linux/capability.h, by setpriv's names.
_CAPABILITIES = {"dac_override": 1, "dac_read_search": 2}


@dataclass(frozen=True)
class Account:
    """An account to start programs as and to give folders to."""

    uid: int
    gid: int

    @classmethod
    def of(cls, cluster: Path) -> Account:
        """The account for a cluster that exists or is to be made. As root, makes it when missing.

        Raises:
            AccountError: when there is none to be had.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
            return cls(owner.st_uid, owner.st_gid)
        return _system_account()

    @property
    def is_ours(self) -> bool:
        """Whether it is the account of this process."""
        return self.uid == os.geteuid()

    def give(self, folder: Path) -> None:
        """Makes a folder private to the account."""
        if not self.is_ours:
            os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)

    def may(self, path: Path, wanted: int) -> bool:
        """Whether the plain permissions of a file or folder grant the account all of `wanted` (4, 2, 1)."""
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return (status.st_mode >> shift) & wanted == wanted

    def reaches(self, path: Path) -> bool:
        """Whether the account may pass through all folders above a path."""
        return all(self.may(folder, 1) for folder in path.resolve().parents)

    def start(
        self, program: Path, *arguments: str | Path, cluster: Path, output: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        """Starts a program of Postgres on a cluster.

        It is our child and leads a session of its own, so that Ctrl-C in our terminal does not reach it.

        Raises:
            AccountError: when it cannot be started as this account.
        """
        command: Sequence[str | Path] = (program, *arguments)
        switched = not self.is_ours
        if switched and not (self.reaches(cluster) and self._can_run(program)):
            command = (*self._through_setpriv(program), *command)
            switched = False
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
                user=self.uid if switched else None,
                group=self.gid if switched else None,
                extra_groups=[] if switched else None,
            )
        except PermissionError as error:
            raise AccountError(reason=f"starting {program} failed, {error.strerror}") from error

    def _can_run(self, program: Path) -> bool:
        return self.reaches(program) and self.may(program, 5)

    def _through_setpriv(self, program: Path) -> list[str]:
        setpriv = shutil.which("setpriv", path=_PATH)
        if setpriv is None:
            raise AccountError(reason="it does not reach the data folder, and there is no setpriv")
        # Reading and searching is all that is wanted, but it does not extend to running a 0700 file.
        names = ["dac_read_search"] if self.may(program, 1) else []
        # Postgres' programs look for one another with access(), which otherwise leaves capabilities out.
        securebits = [] if self._can_run(program) else ["--securebits=+no_setuid_fixup"]
        usable = _usable_capabilities()
        for name in (*names, "dac_override"):
            if usable >> _CAPABILITIES[name] & 1:
                return [
                    setpriv,
                    f"--reuid={self.uid}",
                    f"--regid={self.gid}",
                    "--clear-groups",
                    f"--inh-caps=-all,+{name}",
                    f"--ambient-caps=-all,+{name}",
                    *securebits,
                    "--",
                ]
        raise AccountError(reason="it does not reach the data folder, and root here lacks the capability")


def _system_account() -> Account:
    if (found := _look_up()) is not None:
        return found
    useradd = shutil.which("useradd", path=_PATH)
    if useradd is None:
        raise AccountError(reason=f"there is no account {ACCOUNT_NAME!r}, and no useradd to make it")
    nologin = shutil.which("nologin", path=_PATH) or "/bin/false"
    command = [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    made = subprocess.run(
        [*command, "--shell", nologin, ACCOUNT_NAME], capture_output=True, text=True, check=False
    )
    # Looked up whatever useradd says: another process may have made it at the same moment.
    if (found := _look_up()) is None:
        raise AccountError(reason=f"making the account {ACCOUNT_NAME!r} failed, {made.stderr.strip()}")
    return found


def _look_up() -> Account | None:
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        return None
    if entry.pw_uid == 0:
        raise AccountError(reason=f"the account {ACCOUNT_NAME!r} is root itself")
    return Account(entry.pw_uid, entry.pw_gid)


def _usable_capabilities() -> int:
    """What this process may pass on: a bit for each capability that is permitted and in the bounding set."""
    values = {"CapPrm": 0, "CapBnd": 0}
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name in values:
            values[name] = int(value, 16)
    return values["CapPrm"] & values["CapBnd"]
