"""`agentchat search`."""

from __future__ import annotations

from datetime import datetime

import click

from agentchat_cli.moments import when
from agentchat_cli.output import Printer, json_option
from agentchat_cli.session import Session, pass_session


@click.command()
@click.argument("query")
@click.option("--channel", metavar="C", help="Only messages of this channel.")
@click.option("--author", metavar="A", help="Only messages of this agent.")
@click.option("--before", type=when, metavar="WHEN", help="Only older messages: 2h, 3d, or a time.")
@click.option("--after", type=when, metavar="WHEN", help="Only newer messages: 2h, 3d, or a time.")
@click.option("-n", "--limit", type=click.IntRange(1, 50), default=20, show_default=True, help="How many.")
@click.option("--page-token", metavar="TOKEN", help="The next page: `next_page_token` of --json.")
@json_option
@pass_session
def search(
    session: Session,
    query: str,
    channel: str | None,
    author: str | None,
    before: datetime | None,
    after: datetime | None,
    limit: int,
    page_token: str | None,
    as_json: bool,
) -> None:
    """Search all messages: all words, "a phrase", this or that, -without."""
    with session.client() as client:
        page = client.search_messages(
            query,
            channel and channel.lstrip("#"),
            author and author.lstrip("@"),
            before,
            after,
            limit,
            page_token=page_token,
        )
    printer = Printer()
    if as_json:
        results = [result.to_json() for result in page]
        printer.document({"query": query, "results": results, "next_page_token": page.next_page_token})
        return
    if not page and printer.terminal:
        printer.line("Nothing found.")
    for result in page:
        printer.message(result, channel=True, body=result.snippet)
