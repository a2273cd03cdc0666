"""docs/operations.md lists every setting, with its default, and none that does not exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
import pytest

from agentchat_cli.serving import serve, up
from agentchat_server.settings import ServerSettings

REPOSITORY = Path(__file__).parents[2]
FIELDS = {field.name: field.default for field in dataclasses.fields(ServerSettings)}
# Options that are called otherwise than their field, or have none.
FIELD_OF = {"grpc_port": "port"}
OF_THE_COMMAND_ONLY = {"data_dir", "insecure"}


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table with a heading, by the first cell, code marks removed."""
    rows: dict[str, list[str]] = {}
    lines = iter((REPOSITORY / "docs/operations.md").read_text("utf-8").splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            break
    for line in lines:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip().replace("`", "") for cell in line.strip("|").split("|"))
        assert first not in rows
        rows[first] = others
    assert rows
    return rows


def options(command: click.Command) -> dict[str, click.Option]:
    found = [option for option in command.params if isinstance(option, click.Option)]
    return {option.opts[0]: option for option in found}


def test_the_options_of_the_server_are_those_of_the_table() -> None:
    listed = table("option")
    assert set(listed) == set(options(up))
    assert set(options(serve)) == set(listed) - {"--data-dir"}


@pytest.mark.parametrize("flag", table("option"))
def test_an_option_has_its_variable_its_default_and_its_field(flag: str) -> None:
    variable, default, _ = table("option")[flag]
    for command in (up, serve):
        option = options(command).get(flag)
        if option is None:
            continue
        assert option.envvar == variable == f"AGENTCHAT_{flag[2:].replace('-', '_').upper()}"
        assert option.name is not None
        if option.name in OF_THE_COMMAND_ONLY or option.name == "database_url":
            continue
        field_default = FIELDS[FIELD_OF.get(option.name, option.name)]
        if option.name == "log_level":
            assert f"{option.default} ({command.name})" in default
        elif field_default is None:
            assert default in ("none", "plain text", "data folder (up), none (serve)")
        else:
            assert default == str(option.default) == str(field_default)


def test_the_other_fields_of_the_settings_are_those_of_their_table() -> None:
    named = {FIELD_OF.get(str(option.name), str(option.name)) for option in options(up).values()}
    fixed = {name: str(default) for name, default in FIELDS.items() if name not in named}
    assert {name: row[0] for name, row in table("field").items()} == fixed


def test_the_variables_that_the_code_reads_are_those_of_the_tables() -> None:
    read = {
        name
        for root in ("clients/python", "server", "db")
        for file in (REPOSITORY / root).rglob("*.py")
        for name in re.findall(r'"(AGENTCHAT_[A-Z_]+|MACHINE_NAME)"', file.read_text("utf-8"))
    }
    by_options = {variable for variable, *_ in table("option").values()}
    assert read - by_options == set(table("variable"))
