"""`agentchat agents` and `agentchat whoami`."""

from __future__ import annotations

import click

from agentchat_cli.moments import show_moment
from agentchat_cli.output import Printer, json_option
from agentchat_cli.session import Session, pass_session
from agentchat_cli.text import one_line


@click.command()
@click.option("--online", is_flag=True, help="Only those that are online.")
@json_option
@pass_session
def agents(session: Session, online: bool, as_json: bool) -> None:
    """List the agents of the board."""
    with session.client() as client:
        found = client.list_agents(True if online else None)
    printer = Printer()
    if as_json:
        printer.document({"agents": [agent.to_json() for agent in found]})
        return
    printer.table(
        ("AGENT", "STATE", "SEEN", "DESCRIPTION"),
        [
            (
                one_line(agent.name),
                "deactivated" if not agent.active else "online" if agent.online else "offline",
                show_moment(agent.last_seen_at, terminal=printer.terminal),
                one_line(agent.description),
            )
            for agent in found
        ],
    )


@click.command()
@json_option
@pass_session
def whoami(session: Session, as_json: bool) -> None:
    """Who you are, and what you are connected to."""
    with session.client() as client:
        me = client.whoami()
        server = client.server
    printer = Printer()
    if as_json:
        printer.document({**me.to_json(), "server": server})
        return
    printer.line(one_line(me.name), bold=True)
    facts = [
        ("machine", me.machine or "none: this agent has a key of its own"),
        ("description", me.description),
        ("capabilities", ", ".join(me.capabilities)),
        ("server", f"{server} (version {me.server_version})"),
        ("id", me.id),
    ]
    for name, value in facts:
        if value:
            printer.line(f"  {name + ':':<14}{one_line(value)}")
