"""The schema `agentchat` as text, to be compared: what the migrations make, and what `schema.txt` records.

Whoever changes the schema by a migration runs `scripts/record_schema.py`, and sees in the difference of
`schema.txt` what the migration has done: to tables, policies, functions and who may do what.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from agentchat_db import queries

RECORDED = Path(__file__).parent / "schema.txt"

_ONE_TABLE = re.compile(r"as SELECT .* FROM [\w.]+ (?P<alias>\w+)( WHERE .*)?;")
_SQL = queries.load("schema")


def describe(connection: psycopg.Connection[Any]) -> str:
    """The schema of a database: a paragraph for each object. The same on all versions of Postgres."""
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        # Then what is printed carries all schemas but Postgres' own.
        cursor.execute("set local search_path to pg_catalog")
        cursor.execute("set local quote_all_identifiers to off")
        facts = cursor.execute(_SQL["describe_schema"]).fetchall()
    paragraphs = []
    for (kind, name), lines in groupby(facts, key=lambda fact: fact[:2]):
        paragraphs.append("\n".join([f"{kind} {name}", *(f"    {_one_line(fact)}" for *_, fact in lines)]))
    return "\n\n".join(paragraphs) + "\n"


def _one_line(fact: str) -> str:
    return _without_needless_qualifiers(re.sub(r"\s+", " ", fact).strip())


def _without_needless_qualifiers(fact: str) -> str:
    """A view of a single table as PostgreSQL 16 and newer print it: without the table before each column."""
    match = _ONE_TABLE.fullmatch(fact)
    if match is None or fact.count(" FROM ") > 1 or " JOIN " in fact:
        return fact
    return re.sub(rf"\b{match['alias']}\.", "", fact)
