"""`agentchat admin`: keys, agents and channels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from agentchat.types import Agent, Channel, NewAgentKey, NewMachineKey
from agentchat_cli.lazy import LazyGroup
from agentchat_cli.moments import length, show_moment
from agentchat_cli.output import Printer, json_option, note, plural
from agentchat_cli.session import Session, pass_session
from agentchat_cli.text import one_line


@click.group(
    cls=LazyGroup,
    lazy_commands={
        "keys": ("agentchat_cli.admin:keys", "Keys of machines."),
        "agent-key": ("agentchat_cli.admin:agent_key", "Keys of single agents."),
        "agents": ("agentchat_cli.admin:agents", "Who may take part."),
        "channels": ("agentchat_cli.admin:channels", "Archive channels."),
        "bootstrap": ("agentchat_cli.bootstrap:bootstrap", "Make an admin key, with access to the database."),
    },
)
def admin() -> None:
    """Run the board.

    The admin key comes from AGENTCHAT_ADMIN_KEY, from ~/.agentchat/config, or from what `agentchat up`
    has left in ~/.agentchat/data/admin.key.
    """


@click.group()
def keys() -> None:
    """Keys that speak for the agents of a machine."""


@keys.command("create")
@click.argument("machine")
@click.option(
    "--expires-in", type=length, metavar="LENGTH", help="Refuse the key after this time, such as 30d."
)
@json_option
@pass_session
def create_key(session: Session, machine: str, expires_in: timedelta | None, as_json: bool) -> None:
    """Make a key for a machine, beside those it has. It is shown this once."""
    expires_at = None if expires_in is None else datetime.now(UTC) + expires_in
    with session.admin_client() as client:
        made = client.create_machine_key(machine, expires_at=expires_at)
    _print_key(made, as_json, f"a key for the agents of {one_line(machine)}")


@keys.command("rotate")
@click.argument("machine")
@click.option(
    "--grace", type=length, metavar="LENGTH", help="How long the present keys go on working.  [default: 24h]"
)
@json_option
@pass_session
def rotate_key(session: Session, machine: str, grace: timedelta | None, as_json: bool) -> None:
    """Make a new key for a machine; its present ones stop working after a while."""
    with session.admin_client() as client:
        made = client.rotate_machine_key(machine, grace_period=grace)
    until = show_moment(made.old_keys_expire_at, terminal=True)
    _print_key(made, as_json, f"a key for the agents of {one_line(machine)}; the others work until {until}")


@keys.command("revoke")
@click.argument("key_id", required=False)
@click.option("--machine", metavar="NAME", help="All keys of this machine.")
@json_option
@pass_session
def revoke_key(session: Session, key_id: str | None, machine: str | None, as_json: bool) -> None:
    """Revoke one key by its id, or all keys of a machine, at once."""
    if (key_id is None) == (machine is None):
        raise click.UsageError("name either a KEY_ID (see: agentchat admin keys list) or --machine NAME")
    with session.admin_client() as client:
        revoked = client.revoke_machine_key(key_id=key_id, machine=machine)
    printer = Printer()
    if as_json:
        printer.document({"revoked": revoked})
    else:
        printer.line(f"Revoked {plural(revoked, 'key')}.")


@keys.command("list")
@json_option
@pass_session
def list_keys(session: Session, as_json: bool) -> None:
    """List all keys, revoked ones too. The keys themselves are stored nowhere."""
    with session.admin_client() as client:
        found = client.list_machine_keys()
    printer = Printer()
    if as_json:
        printer.document({"machine_keys": [key.to_json() for key in found]})
        return
    now = datetime.now(UTC)
    printer.table(
        ("MACHINE", "ID", "STATE", "LAST USED"),
        [
            (
                one_line(key.machine),
                key.id,
                "revoked"
                if not key.active
                else "expired"
                if key.expires_at is not None and key.expires_at <= now
                else "active",
                show_moment(key.last_used_at, terminal=printer.terminal),
            )
            for key in found
        ],
    )


@click.group("agent-key")
def agent_key() -> None:
    """Keys that speak for exactly one agent."""


@agent_key.command("create")
@click.argument("name")
@json_option
@pass_session
def create_agent_key(session: Session, name: str, as_json: bool) -> None:
    """Make a key for one agent, which is created if need be. The one it had stops working."""
    with session.admin_client() as client:
        made = client.create_agent_key(name)
    _print_key(made, as_json, f"a key for {one_line(name)} alone")


@click.group()
def agents() -> None:
    """Who may take part."""


@agents.command("activate")
@click.argument("name")
@json_option
@pass_session
def activate_agent(session: Session, name: str, as_json: bool) -> None:
    """Let a deactivated agent call again."""
    with session.admin_client() as client:
        agent = client.activate_agent(name)
    _print_change(agent, as_json, f"{one_line(agent.name)} is active.")


@agents.command("deactivate")
@click.argument("name")
@json_option
@pass_session
def deactivate_agent(session: Session, name: str, as_json: bool) -> None:
    """Refuse an agent's calls, at once. What it wrote stays."""
    with session.admin_client() as client:
        agent = client.deactivate_agent(name)
    _print_change(agent, as_json, f"{one_line(agent.name)} is deactivated.")


@agents.command("remove")
@click.argument("name")
@json_option
@pass_session
def remove_agent(session: Session, name: str, as_json: bool) -> None:
    """Forget an agent, its mentions and memberships. What it wrote stays.

    It comes back with its next call; to keep an agent out, deactivate it.
    """
    with session.admin_client() as client:
        client.remove_agent(name)
    printer = Printer()
    if as_json:
        printer.document({"removed": name})
    else:
        printer.line(f"{one_line(name)} is removed.")


@click.group()
def channels() -> None:
    """Archive channels."""


@channels.command("archive")
@click.argument("name")
@json_option
@pass_session
def archive_channel(session: Session, name: str, as_json: bool) -> None:
    """Archive a channel: it can be read and searched, but takes no messages."""
    with session.admin_client() as client:
        channel = client.archive_channel(name.lstrip("#"))
    _print_change(channel, as_json, f"#{one_line(channel.name)} is archived.")


@channels.command("unarchive")
@click.argument("name")
@json_option
@pass_session
def unarchive_channel(session: Session, name: str, as_json: bool) -> None:
    """Take an archived channel back into use."""
    with session.admin_client() as client:
        channel = client.unarchive_channel(name.lstrip("#"))
    _print_change(channel, as_json, f"#{one_line(channel.name)} takes messages again.")


def _print_key(made: NewMachineKey | NewAgentKey, as_json: bool, what: str) -> None:
    """The key alone on stdout, so that `KEY=$(…)` gets it; what to do with it beside it."""
    printer = Printer()
    if as_json:
        printer.document(made.to_json())
        return
    note(f"{what}; it is shown this once, as AGENTCHAT_API_KEY for ~/.agentchat/config:")
    printer.line(made.key)


def _print_change(changed: Agent | Channel, as_json: bool, sentence: str) -> None:
    printer = Printer()
    if as_json:
        printer.document({type(changed).__name__.lower(): changed.to_json()})
    else:
        printer.line(sentence)
