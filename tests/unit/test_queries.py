"""Reading the files of SQL statements."""

from __future__ import annotations

from importlib import resources

import pytest

import agentchat_db
from agentchat_db import queries
from agentchat_db.queries import QueryFileError

FILES = sorted(
    file.name.removesuffix(".sql") for file in resources.files(agentchat_db).joinpath("sql").iterdir()
)


def test_statements_are_found_by_name_without_comments_and_semicolons() -> None:
    text = """
-- name: first
-- What it is for.
select 1,
    -- an inner comment
    '--', 'a;b';

-- name: second_one
select 2
"""
    assert queries.parse(text) == {"first": "select 1,\n    '--', 'a;b'", "second_one": "select 2"}


def test_an_empty_file_has_no_statements() -> None:
    assert queries.parse("\n") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("select 0;\n-- name: a\nselect 1;", "text before the first name: 'select 0;'"),
        ("-- Name: a\nselect 1;", "text before the first name: '-- Name: a"),
        ("-- name: a b\nselect 1;", "text before the first name"),
        ("-- name: a\nselect 1;\n-- name: a\nselect 2;", "the name a is there twice"),
        ("-- name: a\n-- name: b\nselect 2;", "the name a has no statement"),
        ("-- name: a\n-- only a comment\n;", "the name a has no statement"),
    ],
)
def test_a_malformed_file_is_an_error_that_says_where(text: str, said: str) -> None:
    with pytest.raises(QueryFileError) as error:
        queries.parse(text)
    assert said in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_the_package_is_read(name: str) -> None:
    statements = queries.load(name)
    assert statements
    assert all(not statement.endswith(";") for statement in statements.values())


def test_a_file_is_read_once_and_cannot_be_changed() -> None:
    statements = queries.load(FILES[0])
    assert queries.load(FILES[0]) is statements
    with pytest.raises(TypeError):
        statements["new"] = "select 1"  # type: ignore[index]


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        queries.load("nowhere")
