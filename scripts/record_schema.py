"""Records the schema that the migrations make, in db/agentchat_db/schema.txt.

    python scripts/record_schema.py            write the file
    python scripts/record_schema.py --check    fail when it is not what would be written

The migrations run on a Postgres of their own, in a temporary folder.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import tempfile
from pathlib import Path

import psycopg

from agentchat_db import migrations, schema
from agentchat_db.embedded import EmbeddedPostgres


def describe_migrated() -> str:
    """What all migrations make of an empty database."""
    with (
        tempfile.TemporaryDirectory(prefix="agentchat-schema-") as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
    ):
        migrations.apply(postgres.dsn())
        with psycopg.connect(postgres.dsn()) as connection:
            return schema.describe(connection)


def main(arguments: list[str] | None = None) -> int:
    """Writes or checks; the exit code."""
    parser = argparse.ArgumentParser(description="Record the schema that the migrations make.")
    parser.add_argument("--check", action="store_true", help="fail when the record is out of date")
    check: bool = parser.parse_args(arguments).check
    made = describe_migrated()
    recorded = schema.RECORDED.read_text("utf-8") if schema.RECORDED.exists() else ""
    if check and made != recorded:
        difference = difflib.unified_diff(
            recorded.splitlines(), made.splitlines(), "recorded", "made by the migrations", lineterm="", n=1
        )
        print(*difference, sep="\n", file=sys.stderr)
        print("Run: python scripts/record_schema.py", file=sys.stderr)
        return 1
    if not check and made != recorded:
        schema.RECORDED.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
