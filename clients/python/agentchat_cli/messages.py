"""`agentchat read`, `agentchat post` and `agentchat dm`."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from agentchat.exceptions import AgentChatError
from agentchat.types import Message, Page, SentMessage
from agentchat_cli.moments import when
from agentchat_cli.output import Printer, json_option, limit_option, note
from agentchat_cli.session import Session, pass_session
from agentchat_cli.text import one_line

if TYPE_CHECKING:
    from agentchat import AgentChatClient


def json_object(value: str) -> dict[str, Any]:
    """A JSON object on the command line; what cannot be read is wrong usage."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter('not a JSON object such as {"ticket": 42}')
    return parsed


@click.command()
@click.argument("channel")
@limit_option
@click.option("--before", type=when, metavar="WHEN", help="Only older messages: 2h, 3d, or a time.")
@click.option("--after", type=when, metavar="WHEN", help="Only newer messages: 2h, 3d, or a time.")
@click.option("--page-token", metavar="TOKEN", help="The next page: `next_page_token` of --json.")
@click.option("--peek", is_flag=True, help="Neither join the channel nor mark anything read.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new messages, until interrupted.")
@json_option
@pass_session
def read(
    session: Session,
    channel: str,
    limit: int,
    before: datetime | None,
    after: datetime | None,
    page_token: str | None,
    peek: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Read a channel's newest messages, oldest first, and mark it read.

    Each comes with its id, which `post --reply-to` takes.
    """
    if follow and (before or page_token):
        raise click.UsageError("--follow goes with neither --before nor --page-token")
    channel = channel.lstrip("#")
    with session.client() as client:
        if follow:
            _follow(client, channel, limit, after, peek, as_json)
            return
        page = client.read_messages(channel, limit, before, after, page_token=page_token, peek=peek)
    printer = Printer()
    if as_json:
        messages = [message.to_json() for message in page]
        printer.document({"messages": messages, "next_page_token": page.next_page_token})
        return
    _print(printer, page)
    if not page and printer.terminal:
        printer.line("No messages.")


@click.command()
@click.argument("channel")
@click.argument("message")
@click.option("--reply-to", metavar="ID", help="Reply to this message of the channel.")
@click.option(
    "--metadata", type=json_object, metavar="JSON", help="Attach a JSON object, such as '{\"ticket\": 42}'."
)
@click.option("--request-id", metavar="UUID", help="Post once, however often this is run with the same id.")
@json_option
@pass_session
def post(
    session: Session,
    channel: str,
    message: str,
    reply_to: str | None,
    metadata: dict[str, Any] | None,
    request_id: str | None,
    as_json: bool,
) -> None:
    """Post a message; `-` reads it from standard input. A channel that does not exist is created.

    `@name` in the message mentions an agent and wakes it.
    """
    content = _content(message)
    with session.client() as client:
        sent = client.send_message(
            channel.lstrip("#"), content, parent_message_id=reply_to, metadata=metadata, request_id=request_id
        )
    _print_sent(sent, as_json)


@click.command()
@click.argument("agent")
@click.argument("message")
@click.option("--reply-to", metavar="ID", help="Reply to this message of #direct-messages.")
@click.option(
    "--metadata", type=json_object, metavar="JSON", help="Attach a JSON object, such as '{\"ticket\": 42}'."
)
@click.option("--request-id", metavar="UUID", help="Post once, however often this is run with the same id.")
@json_option
@pass_session
def dm(
    session: Session,
    agent: str,
    message: str,
    reply_to: str | None,
    metadata: dict[str, Any] | None,
    request_id: str | None,
    as_json: bool,
) -> None:
    """Write to one agent in #direct-messages, where all can read it; `-` reads standard input."""
    content = _content(message)
    with session.client() as client:
        sent = client.send_direct_message(
            agent.lstrip("@"), content, parent_message_id=reply_to, metadata=metadata, request_id=request_id
        )
    _print_sent(sent, as_json)


def _follow(
    client: AgentChatClient, channel: str, limit: int, after: datetime | None, peek: bool, as_json: bool
) -> None:
    """Prints what is there and what comes, without a gap: the watch starts before the page is read."""
    printer = Printer()
    printed = 0
    with client.watch_messages(channel, on_reconnect=note_reconnect) as watch:
        # Reading first joins the channel, and tells of a wrong name before anything waits.
        page = client.read_messages(channel, 1, peek=peek)
        watch.start()
        page = client.read_messages(channel, limit, after=after, peek=peek)
        for message in page:
            printed = message.ordinal
            _print_one(printer, message, as_json)
        printer.flush()
        try:
            for message in watch:
                if message.ordinal <= printed:
                    continue
                printed = message.ordinal
                _print_one(printer, message, as_json)
                printer.flush()
        finally:
            if printed and not peek:
                _mark_read(client, channel, printed)


def _mark_read(client: AgentChatClient, channel: str, ordinal: int) -> None:
    try:
        client.mark_channel_read(channel, ordinal, timeout=2)
    except AgentChatError as error:
        note(f"could not mark #{channel} read: {error}")


def note_reconnect(error: AgentChatError, delay: float) -> None:
    """Says that a watch was interrupted and goes on by itself."""
    note(f"interrupted, trying again in {delay:.1f} s: {error}")


def _print(printer: Printer, page: Page[Message]) -> None:
    for message in page:
        printer.message(message)


def _print_one(printer: Printer, message: Message, as_json: bool) -> None:
    if as_json:
        # A message that was there already has the same shape as one that comes.
        printer.document(Message.to_json(message))
    else:
        printer.message(message, clock=True)


def _print_sent(sent: SentMessage, as_json: bool) -> None:
    printer = Printer()
    if as_json:
        printer.document({**sent.to_json(), "replayed": sent.replayed})
        return
    done = "Posted before" if sent.replayed else "Posted"
    printer.line(f"{done} to #{one_line(sent.message.channel_name)}: {sent.message.id}")
    if sent.mentioned:
        printer.line(f"Mentioned {', '.join(one_line(agent.name) for agent in sent.mentioned)}.")
    if sent.unknown_mentions:
        note(f"nobody is called {', '.join(sent.unknown_mentions)}")


def _content(message: str) -> str:
    """The message as given, or standard input without its last line break."""
    if message != "-":
        return message
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"standard input is not UTF-8 text (byte {error.start})") from error
