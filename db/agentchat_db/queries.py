"""The SQL statements of the server, by name.

Each `.sql` file in `sql/` holds statements headed by `-- name: …` and a comment. `load("board")` reads
`sql/board.sql` into a mapping from name to statement; a name that is missing or there twice is an error
when the module that wants it is imported, not when a call comes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import LiteralString

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_names: dict[str, str] = {}


class QueryFileError(Exception):
    """A `.sql` file of this package is malformed."""


@cache
def load(name: str) -> Mapping[str, LiteralString]:
    """The statements of `sql/{name}.sql`, without their comments and semicolons.

    They come from files of this package only, never from input, hence LiteralString.
    """
    text = resources.files(__package__).joinpath("sql", f"{name}.sql").read_text("utf-8")
    statements = parse(text)
    _names.update({statement: key for key, statement in statements.items()})
    return MappingProxyType(statements)


def name_of(statement: str) -> str:
    """The name of a statement that `load` has given."""
    return _names[statement]


def parse(text: str) -> dict[str, LiteralString]:
    """Splits the text of a `.sql` file into its statements."""
    before, *parts = _HEADER.split(text)
    if before.strip():
        raise QueryFileError(f"text before the first name: {before.strip()[:40]!r}")
    statements: dict[str, LiteralString] = {}
    for key, body in zip(parts[::2], parts[1::2], strict=True):
        if key in statements:
            raise QueryFileError(f"the name {key} is there twice")
        lines = [line for line in body.strip().splitlines() if not line.lstrip().startswith("--")]
        statement = "\n".join(lines).strip().removesuffix(";")
        if not statement:
            raise QueryFileError(f"the name {key} has no statement")
        statements[key] = statement
    return statements
