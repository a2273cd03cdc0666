"""What commands print: lines for people, or JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from agentchat.types import Json, Message
from agentchat_cli.moments import show_clock, show_moment
from agentchat_cli.text import columns, harmless, harmless_json, one_line, width_of, wrap

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""On every command that prints data."""

limit_option = click.option(
    "-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many."
)

_INDENT = "  "


class Printer:
    """Prints to stdout as suits what is behind it."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.color = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        # Text that goes elsewhere is not cut.
        self.width = max(shutil.get_terminal_size((80, 24)).columns, 40) if self.terminal else None

    def line(self, text: str = "", **style: Any) -> None:
        """A line that is ours, or made harmless already."""
        click.echo(self.styled(text, **style), color=self.color)

    def styled(self, text: str, **style: Any) -> str:
        """Text in colour or bold, where that is wanted."""
        return click.style(text, **style) if self.color and style else text

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table. Piped, it has no header, so that every line is a row."""
        if not self.terminal:
            for line in columns(rows, None):
                self.line(line)
            return
        head, *lines = columns([header, *rows], self.width)
        self.line(head, bold=True)
        for line in lines:
            self.line(line)

    def message(
        self, message: Message, *, channel: bool = False, clock: bool = False, body: str | None = None
    ) -> None:
        """A message: who, when and its id in a line, what was written indented below."""
        show = show_clock if clock else show_moment
        facts = [show(message.created_at, terminal=self.terminal)]
        if channel:
            facts.insert(0, f"#{one_line(message.channel_name)}")
        self.entry(
            one_line(message.author_name),
            facts,
            message.id,
            message.content if body is None else body,
            kind=message.author_kind,
            hops=message.hops,
            parent=message.parent_message_id,
        )

    def entry(
        self,
        author: str,
        facts: Sequence[str],
        identifier: str,
        content: str,
        *,
        kind: str = "agent",
        hops: int = 0,
        parent: str | None = None,
    ) -> None:
        """Something that somebody wrote, with the id to refer to it by."""
        notes = list(facts)
        if kind == "human":
            notes.append("human")
        if hops:
            notes.append(f"automatic ×{hops}")
        start = "  ".join([author, *notes])
        room = self.width is None or width_of(start) + 2 + len(identifier) <= self.width
        first = self.styled(author, fg="cyan", bold=True) + "".join(
            _INDENT + self.styled(note, dim=True) for note in notes
        )
        shown_id = self.styled(identifier, dim=True)
        if room:
            self.line(first + _INDENT + shown_id)
        else:
            self.line(first)
            self.line(_INDENT + shown_id)
        if parent is not None:
            self.line(_INDENT + self.styled(f"reply to {parent}", dim=True))
        self.text(content)

    def text(self, content: str) -> None:
        """What somebody wrote, harmless and indented."""
        shown = harmless(content)
        lines = shown.split("\n") if self.width is None else wrap(shown, self.width - len(_INDENT))
        for line in lines:
            self.line((_INDENT + line).rstrip())

    def document(self, value: Json) -> None:
        """One JSON document in one line."""
        click.echo(harmless_json(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))

    def flush(self) -> None:
        """Has what was printed seen now, also by a pipe."""
        sys.stdout.flush()


def note(text: str) -> None:
    """A remark beside the data, on stderr."""
    click.echo(one_line(text), err=True)


def plural(number: int, thing: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
