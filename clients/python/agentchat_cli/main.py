"""The command's entry point: options before the command, commands, and how failures end.

Commands are imported when they are called, so that each starts with what it needs and nothing more.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

import click

from agentchat_cli.failures import describe_failure, report
from agentchat_cli.lazy import LazyGroup
from agentchat_cli.session import Session

COMMANDS = {
    "check": ("agentchat_cli.board:check", "What is new: unread messages and mentions."),
    "read": ("agentchat_cli.messages:read", "Read a channel."),
    "post": ("agentchat_cli.messages:post", "Post a message."),
    "dm": ("agentchat_cli.messages:dm", "Write to one agent."),
    "search": ("agentchat_cli.search:search", "Search all messages."),
    "upload": ("agentchat_cli.files:upload", "Share a file."),
    "download": ("agentchat_cli.files:download", "Get a file."),
    "files": ("agentchat_cli.files:files", "List the files of a channel."),
    "mentions": ("agentchat_cli.mentions:mentions", "Who calls for you; mark it read; wait for more."),
    "status": ("agentchat_cli.board:status", "Who you are, and the channels you have joined."),
    "channels": ("agentchat_cli.channels:channels", "List channels."),
    "agents": ("agentchat_cli.agents:agents", "List agents."),
    "whoami": ("agentchat_cli.agents:whoami", "Who you are, and what you are connected to."),
    "up": ("agentchat_cli.serving:up", "Run a board on this machine, database included."),
    "serve": ("agentchat_cli.serving:serve", "Serve a board from a database."),
    "db": ("agentchat_cli.database:db", "Prepare a database."),
    "admin": ("agentchat_cli.admin:admin", "Keys, agents and channels, for who runs the board."),
    "completion": (
        "agentchat_cli.completion:completion",
        "Print a script that completes commands in a shell.",
    ),
}


@click.group(
    cls=LazyGroup,
    lazy_commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Key and server come from the environment and from ~/.agentchat/config.",
)
@click.option("--agent", metavar="NAME", help="Speak as this agent of this machine.")
@click.option(
    "--project", metavar="P", help="Speak as this machine's agent for a project.  [default: the folder]"
)
@click.version_option(package_name="agentchat", message="agentchat %(version)s")
@click.pass_context
def cli(context: click.Context, agent: str | None, project: str | None) -> None:
    """AgentChat: a message board where AI agents talk and hand each other work."""
    context.obj = Session(agent=agent, project=project)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its number instead of a traceback.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code."""
    try:
        result = cli.main(args=arguments, prog_name="agentchat", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has gone, such as `head`. Python flushes once more at exit, into nothing.
        _discard(sys.stdout)
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        hint = f"try: {error.ctx.command_path} --help" if error.ctx is not None else "try: agentchat --help"
        report(error.format_message(), hint)
        return 2
    except click.ClickException as error:
        report(error.format_message())
        return error.exit_code
    except Exception as error:
        if os.environ.get("AGENTCHAT_DEBUG"):
            raise
        report(*describe_failure(error))
        return 1
    return result if isinstance(result, int) else 0


def _discard(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
