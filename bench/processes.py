"""Processor time, memory and connections of processes, from /proc. Elsewhere than on Linux there is none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
AVAILABLE = (PROC / "self" / "stat").exists()

_ESTABLISHED = "01"


@dataclass(frozen=True)
class Memory:
    """Memory of a process in bytes. `proportional` divides what several processes share among them."""

    resident: int
    proportional: int


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that processes and their children, living and dead, have used; 0 when unknown."""
    if not AVAILABLE:
        return 0.0
    usage, children = {}, dict[int, list[int]]()
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            usage[int(folder.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    total, waiting = 0.0, list(pids)
    while waiting:
        pid = waiting.pop()
        total += usage.get(pid, 0.0)
        waiting += children.get(pid, ())
    return total


def memory(pid: int) -> Memory | None:
    """What a process has in memory at the moment; None where that cannot be told."""
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text("ascii")
    except OSError:
        return None
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return Memory(sizes["Rss"], sizes["Pss"])


def connections(pid: int, port: int) -> int:
    """How many established TCP connections a process has on a local port."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / str(pid) / "net" / table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _ESTABLISHED and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    count = 0
    for descriptor in (PROC / str(pid) / "fd").iterdir():
        try:
            count += str(descriptor.readlink()) in inodes
        except OSError:
            continue
    return count


def _stat(pid: int) -> list[str]:
    """The fields of /proc/…/stat behind the name, which may hold anything; none when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []
