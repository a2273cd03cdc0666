"""Making keys: 256 random bits behind a prefix that tells what for. Only the SHA-256 of a key is kept."""

from __future__ import annotations

import secrets
from typing import Literal

KeyPrefix = Literal["ack_", "aak_", "aca_"]

# Speaks for the agents of a machine, for one agent, for an administrator.
MACHINE_KEY: KeyPrefix = "ack_"
AGENT_KEY: KeyPrefix = "aak_"
ADMIN_KEY: KeyPrefix = "aca_"


def new_key(prefix: KeyPrefix) -> str:
    """A new key, to be shown once."""
    return prefix + secrets.token_urlsafe(32)
