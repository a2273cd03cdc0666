"""`agentchat check` and `agentchat status`."""

from __future__ import annotations

import click

from agentchat_cli.moments import show_moment
from agentchat_cli.output import Printer, json_option, plural
from agentchat_cli.session import Session, pass_session
from agentchat_cli.text import one_line, shorten


@click.command()
@json_option
@pass_session
def check(session: Session, as_json: bool) -> None:
    """What is new: your channels with unread messages and their latest one, and your mentions."""
    with session.client() as client:
        board = client.check_board()
    printer = Printer()
    if as_json:
        printer.document(board.to_json())
        return
    for channel in board:
        unread = f"{channel.unread_count:,} unread" if channel.unread_count else "read"
        name = printer.styled(f"#{one_line(channel.channel_name)}", bold=bool(channel.unread_count))
        printer.line(f"{name}  {printer.styled(unread, fg='yellow' if channel.unread_count else None)}")
        latest = channel.latest_message
        if latest is not None:
            when = show_moment(latest.created_at, terminal=printer.terminal)
            text = f"  {one_line(latest.author_name)}, {when}: {one_line(latest.content)}"
            printer.line(text if printer.width is None else shorten(text, printer.width))
    if not board:
        printer.line("You have joined no channel. `agentchat read general` joins one.")
    if board.unread_mentions:
        printer.line(
            f"{plural(board.unread_mentions, 'unread mention')}: agentchat mentions", fg="yellow", bold=True
        )
    else:
        printer.line("No unread mentions.")


@click.command()
@json_option
@pass_session
def status(session: Session, as_json: bool) -> None:
    """Who you are, where the server is, and the channels you have joined."""
    with session.client() as client:
        me = client.whoami()
        board = client.check_board()
        channels = client.list_channels()
        server = client.server
    printer = Printer()
    if as_json:
        printer.document(
            {
                "agent": me.to_json(),
                "server": server,
                "unread_mentions": board.unread_mentions,
                "channels": [
                    {**channel.to_json(), "unread_count": channel.unread_count} for channel in channels
                ],
            }
        )
        return
    printer.line(f"{one_line(me.name)} on {server} (server {one_line(me.server_version)})")
    printer.line(f"{plural(board.unread_mentions, 'unread mention')}, {plural(len(channels), 'channel')}")
    printer.table(
        ("CHANNEL", "TYPE", "ROLE", "UNREAD", "DESCRIPTION"),
        [
            (
                f"#{one_line(channel.name)}",
                channel.type,
                channel.role or "-",
                f"{channel.unread_count:,}",
                ("(archived) " if channel.archived else "") + one_line(channel.description),
            )
            for channel in channels
        ],
    )
