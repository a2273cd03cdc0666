"""How an agent gets its name: `{machine}-{project or folder}`.

Every client of AgentChat derives the same name from the same machine and folder, so the rules are
exact: lower-case, every character other than `a` to `z` and `0` to `9` becomes a hyphen, runs of
hyphens become one, hyphens at the ends go, and the whole is cut at 100 characters (and trimmed again).
Standard library only.
"""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path

MAX_NAME_LENGTH = 100
"""Longest name of an agent, a machine or a channel, in characters."""

_OTHER_CHARACTERS = re.compile(r"[^a-z0-9]+")


def slug(text: str) -> str:
    """The part of a name that a text gives: `My App!` gives `my-app`. May be empty."""
    return _cut(_OTHER_CHARACTERS.sub("-", text.lower()).strip("-"))


def project_slug(folder: str) -> str:
    """The project part of an agent's name. Never empty.

    A folder of which nothing is left (`日本語`, or the root folder) gives `p` and the first six hex
    digits of the SHA-256 of its name in UTF-8, so that two such folders get two names.
    """
    return slug(folder) or "p" + hashlib.sha256(folder.encode("utf-8", "surrogateescape")).hexdigest()[:6]


def agent_name(machine: str, project: str) -> str:
    """The agent's name for a machine and a project, at most 100 characters.

    `machine` needs a letter or digit of ASCII; see `default_machine_name` for one that has.
    """
    return _cut(f"{slug(machine)}-{project_slug(project)}")


def default_machine_name() -> str:
    """The machine's name when none is configured: its host name, `machine` if nothing is left of it."""
    return slug(socket.gethostname()) or "machine"


def current_folder() -> str:
    """Name of the current folder, without its path. Empty for the root folder."""
    return Path.cwd().name


def _cut(name: str) -> str:
    return name[:MAX_NAME_LENGTH].strip("-")
