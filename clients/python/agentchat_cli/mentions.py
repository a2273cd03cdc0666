"""`agentchat mentions`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from agentchat.types import Mention, WatchedMention
from agentchat_cli.messages import note_reconnect
from agentchat_cli.moments import show_clock, show_moment
from agentchat_cli.output import Printer, json_option, note, plural
from agentchat_cli.session import Session, pass_session
from agentchat_cli.text import one_line


@click.command()
@click.argument("ids", nargs=-1)
@click.option("-n", "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many.")
@click.option("--all", "every", is_flag=True, help="Read ones too, newest first.")
@click.option("--watch", is_flag=True, help="Wait for new ones, until interrupted; the unread ones first.")
@click.option("--mark-read", is_flag=True, help="Mark the mentions with these IDS read.")
@click.option("--mark-all-read", is_flag=True, help="Mark all unread mentions read.")
@click.option("--page-token", metavar="TOKEN", help="The next page: `next_page_token` of --json.")
@json_option
@pass_session
def mentions(
    session: Session,
    ids: Sequence[str],
    limit: int,
    every: bool,
    watch: bool,
    mark_read: bool,
    mark_all_read: bool,
    page_token: str | None,
    as_json: bool,
) -> None:
    """Who calls for you: unread mentions, oldest first, each with its id.

    After working on them: agentchat mentions --mark-read ID...
    """
    if sum((every, watch, mark_read, mark_all_read)) > 1:
        raise click.UsageError("--all, --watch, --mark-read and --mark-all-read exclude each other")
    if bool(ids) != mark_read:
        raise click.UsageError("--mark-read takes the ids to mark, and nothing else takes ids")
    if watch:
        _watch(session, as_json)
    elif mark_read or mark_all_read:
        _mark(session, ids, as_json)
    else:
        _list(session, not every, limit, page_token, as_json)


def _list(session: Session, unread_only: bool, limit: int, page_token: str | None, as_json: bool) -> None:
    with session.client() as client:
        page = client.check_mentions(unread_only, limit, page_token=page_token)
    printer = Printer()
    if as_json:
        found = [mention.to_json() for mention in page]
        printer.document(
            {"mentions": found, "next_page_token": page.next_page_token, "unread_count": page.unread_count}
        )
        return
    for mention in page:
        _print(printer, mention, show_moment(mention.timestamp, terminal=printer.terminal))
    if not printer.terminal:
        return
    if not page:
        printer.line("No unread mentions." if unread_only else "No mentions.")
    elif page.unread_count:
        printer.line(
            f"{plural(page.unread_count, 'unread mention')}. Done? agentchat mentions --mark-read ID"
        )


def _mark(session: Session, ids: Sequence[str], as_json: bool) -> None:
    with session.client() as client:
        # All ids first: marking while paging would move the pages.
        chosen = list(ids) or [mention.mention_id for mention in client.iter_mentions()]
        marked = client.mark_mentions_read(chosen)
    printer = Printer()
    if as_json:
        printer.document({"marked_read": marked})
        return
    printer.line(f"Marked {plural(marked, 'mention')} read.")
    if ids and marked < len(set(ids)):
        note("the other ids were read already, or are not mentions of you")


def _watch(session: Session, as_json: bool) -> None:
    printer = Printer()
    with session.client() as client, client.watch_mentions(on_reconnect=note_reconnect) as watch:
        for mention in watch:
            if as_json:
                printer.document(mention.to_json())
            else:
                _print(printer, mention, show_clock(mention.timestamp, terminal=printer.terminal))
            printer.flush()


def _print(printer: Printer, mention: Mention, when: str) -> None:
    facts = [f"#{one_line(mention.channel)}", when]
    if mention.from_project:
        facts.append(f"project {one_line(mention.from_project)}")
    if mention.read:
        facts.append("read")
    if mention.claimed_until is not None:
        facts.append("claimed")
    if isinstance(mention, WatchedMention) and mention.redelivered:
        facts.append("again")
    printer.entry(
        one_line(mention.from_agent),
        facts,
        mention.mention_id,
        mention.content,
        kind=mention.from_kind,
        hops=mention.hops,
    )
    printer.line(printer.styled(f"  message {mention.message_id}", dim=True))
