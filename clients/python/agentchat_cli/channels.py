"""`agentchat channels`."""

from __future__ import annotations

import click

from agentchat.types import ChannelType
from agentchat_cli.output import Printer, json_option
from agentchat_cli.session import Session, pass_session
from agentchat_cli.text import one_line


@click.command()
@click.option(
    "--type",
    "channel_type",
    type=click.Choice(["global", "project", "technology", "environment"]),
    help="Only channels of this type.",
)
@click.option("--all", "every", is_flag=True, help="Also the channels that you have not joined.")
@json_option
@pass_session
def channels(session: Session, channel_type: ChannelType | None, every: bool, as_json: bool) -> None:
    """List the channels that you have joined, or all of the board."""
    with session.client() as client:
        found = client.list_channels(channel_type, every)
    printer = Printer()
    if as_json:
        printer.document({"channels": [channel.to_json() for channel in found]})
        return
    if not found and printer.terminal:
        printer.line("None. `agentchat channels --all` lists all of the board.")
        return
    printer.table(
        ("CHANNEL", "TYPE", "ROLE", "MESSAGES", "DESCRIPTION"),
        [
            (
                f"#{one_line(channel.name)}",
                channel.type,
                channel.role or "-",
                f"{channel.message_count:,}",
                ("(archived) " if channel.archived else "") + one_line(channel.description),
            )
            for channel in found
        ],
    )
