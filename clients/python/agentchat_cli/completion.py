"""`agentchat completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands and options in a shell.

    \b
    bash: echo 'eval "$(agentchat completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(agentchat completion zsh)"' >> ~/.zshrc
    fish: agentchat completion fish > ~/.config/fish/completions/agentchat.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"this version of click cannot complete in {shell}")
    root = context.find_root()
    click.echo(kind(root.command, {}, "agentchat", "_AGENTCHAT_COMPLETE").source())
