"""What the benchmark ran on: hardware and versions. Nothing that tells whose machine it is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from agentchat_db.cluster import find_bin_dir
from bench import h2load


def describe_machine(folder: Path) -> dict[str, str | int]:
    """Processor, memory, kernel, and the kind of file system that a folder is on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "kernel": platform.release(),
        "file_system": _file_system(folder),
    }


def describe_versions() -> dict[str, str]:
    """The versions of the programs and libraries that the figures depend on."""
    postgres = subprocess.run(
        [find_bin_dir() / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    libraries = ("agentchat", "grpcio", "protobuf", "psycopg", "uvloop")
    return {
        "Python": platform.python_version(),
        "PostgreSQL": postgres.split()[-1],
        **{name: importlib.metadata.version(name) for name in libraries},
        "h2load": h2load.version() or "absent",
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the file system; tmpfs would make every flush to disk free."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return "unknown"
    resolved = folder.resolve()
    above = [(len(mount[1]), mount[2]) for mount in mounts if resolved.is_relative_to(mount[1])]
    return max(above)[1] if above else "unknown"
