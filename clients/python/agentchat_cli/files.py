"""`agentchat upload`, `agentchat download` and `agentchat files`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from agentchat_cli.moments import show_moment
from agentchat_cli.output import Printer, json_option, limit_option
from agentchat_cli.session import Session, pass_session
from agentchat_cli.text import one_line

# It is held in memory, so it has to end somewhere.
_MAX_STANDARD_INPUT = 10 * 1024 * 1024

Progress = Callable[[int, int], None]

# The end of a file's path: the moment, and the name as the server has made it safe.
_SAFE_NAME = re.compile(r"[^/]+/[0-9]+-([A-Za-z0-9_][A-Za-z0-9._-]*)", re.ASCII)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("channel")
@click.option("--name", metavar="NAME", help="Share it under this name.  [default: the file's]")
@click.option("--type", "content_type", metavar="TYPE", help="Media type.  [default: by the name]")
@click.option("--no-announce", is_flag=True, help="Post no message about it.")
@click.option("--request-id", metavar="UUID", help="Share once, however often this is run with the same id.")
@json_option
@pass_session
def upload(
    session: Session,
    file: Path,
    channel: str,
    name: str | None,
    content_type: str | None,
    no_announce: bool,
    request_id: str | None,
    as_json: bool,
) -> None:
    """Share a file of at most 10 MiB in a channel; `-` reads it from standard input.

    Prints its path, which `download` takes. A channel that does not exist is created.
    """
    from_stdin = str(file) == "-"
    if from_stdin and name is None:
        raise click.UsageError("state --name for what comes from standard input")
    content = _standard_input() if from_stdin else None
    with session.client() as client, _progress_bar(name or file.name) as progress:
        uploaded = client.upload_file(
            channel.lstrip("#"),
            None if from_stdin else file,
            content=content,
            name=name,
            content_type=content_type,
            announce=not no_announce,
            request_id=request_id,
            progress=progress,
        )
    printer = Printer()
    if as_json:
        printer.document({**uploaded.to_json(), "replayed": uploaded.replayed})
        return
    done = "Shared before" if uploaded.replayed else "Shared"
    printer.line(f"{done} in #{one_line(uploaded.file.channel_name)}: {one_line(uploaded.file.path)}")


@click.command()
@click.argument("path")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write it here; `-` is standard output.  [default: the name in PATH]",
)
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")
@json_option
@pass_session
def download(session: Session, path: str, output: Path | None, force: bool, as_json: bool) -> None:
    """Get a file by its path, which announcements and `files` show.

    It is checked, and written whole or not at all.
    """
    to_stdout = output is not None and str(output) == "-"
    if to_stdout and as_json:
        raise click.UsageError("--json and the file cannot both go to standard output")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("a file may hold anything, so it is not written to a terminal; use -o FILE")
    if output is None:
        output = _default_output(path)
    with session.client() as client, _progress_bar(output.name) as progress:
        if to_stdout:
            content = client.download_file(path, progress=progress)
            sys.stdout.buffer.write(content)
            return
        if output.exists() and not force:
            raise click.ClickException(f"{output} is there already; replace it with --force, or use -o FILE")
        file = client.download_file(path, output, overwrite=force, progress=progress)
    printer = Printer()
    if as_json:
        printer.document({"file": file.to_json(), "output": str(output)})
        return
    printer.line(f"Saved {one_line(str(output))} ({readable_size(file.size)})")


@click.command()
@click.argument("channel")
@limit_option
@click.option("--page-token", metavar="TOKEN", help="The next page: `next_page_token` of --json.")
@json_option
@pass_session
def files(session: Session, channel: str, limit: int, page_token: str | None, as_json: bool) -> None:
    """List a channel's files, newest first."""
    with session.client() as client:
        page = client.list_files(channel.lstrip("#"), limit, page_token=page_token)
    printer = Printer()
    if as_json:
        found = [file.to_json() for file in page]
        printer.document({"files": found, "next_page_token": page.next_page_token})
        return
    if not page and printer.terminal:
        printer.line("No files.")
        return
    printer.table(
        ("PATH", "SIZE", "FROM", "WHEN", "NAME"),
        [
            (
                one_line(file.path),
                readable_size(file.size),
                one_line(file.uploaded_by_name),
                show_moment(file.created_at, terminal=printer.terminal),
                one_line(file.name),
            )
            for file in page
        ],
    )


def readable_size(size: int) -> str:
    """A number of bytes for people: `512 B`, `1.5 KiB`, `10 MiB`."""
    if size < 1024:
        return f"{size} B"
    amount, unit = (size / 1024, "KiB") if size < 1024 * 1024 else (size / (1024 * 1024), "MiB")
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"


def _standard_input() -> bytes:
    content = sys.stdin.buffer.read(_MAX_STANDARD_INPUT + 1)
    if len(content) > _MAX_STANDARD_INPUT:
        raise click.ClickException("standard input is longer than 10 MiB, the most that a file may be")
    return content


def _default_output(path: str) -> Path:
    """The name in a path, in the current folder. What looks otherwise is not let near the file system."""
    match = _SAFE_NAME.fullmatch(path)
    if match is None:
        raise click.UsageError(
            "PATH should be as `agentchat files CHANNEL` shows it, such as general/1767225600000-notes.txt"
        )
    return Path(match[1])


@contextmanager
def _progress_bar(name: str) -> Iterator[Progress | None]:
    """A bar on standard error while a transfer goes on, where a person sees it."""
    if not sys.stderr.isatty():
        yield None
        return
    with ExitStack() as shown:
        bar: Any = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = shown.enter_context(
                    click.progressbar(length=total, label=one_line(name)[:40], file=sys.stderr)
                )
            # Less than before when the transfer has begun again.
            bar.update(done - bar.pos)

        yield progress
