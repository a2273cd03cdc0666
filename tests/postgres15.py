"""PostgreSQL 15, the oldest that AgentChat supports, when the machine has Debian's package of it.

Only its programs are used, for private clusters in temporary folders. A cluster of the system's own is
neither looked for nor touched.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

BIN_DIR = Path("/usr/lib/postgresql/15/bin")


def find_postgres15() -> tuple[Path | None, str]:
    """The folder of its programs, for `EmbeddedPostgres(bin_dir=…)`; or None, and why."""
    program = BIN_DIR / "postgres"
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return None, f"no PostgreSQL 15 (apt-get install postgresql-15): {error}"
    if not re.search(r"\b15\.", said):
        return None, f"{program} is {said.strip()}"
    return BIN_DIR, ""
