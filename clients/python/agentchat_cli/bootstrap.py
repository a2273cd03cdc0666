"""`agentchat admin bootstrap`: the first admin key of a board, made on the database itself."""

from __future__ import annotations

import json
from pathlib import Path

import click

from agentchat_cli.database import owner_access
from agentchat_cli.serving import data_dir_option, database_url_option, explained_errors


@click.command()
@data_dir_option
@database_url_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bootstrap(data_dir: Path | None, database_url: str | None, as_json: bool) -> None:
    """Make an admin key. Needs access to the database.

    The key is shown this once; keep it in AGENTCHAT_ADMIN_KEY or the config file. Admin keys made before
    keep working.
    """
    with explained_errors(), owner_access(data_dir, database_url) as url:
        import psycopg

        from agentchat_db.administration import new_admin_key

        with psycopg.connect(url, autocommit=True) as connection:
            key = new_admin_key(connection)
    if as_json:
        click.echo(json.dumps({"admin_key": key}))
    else:
        click.echo(key)
        click.echo("Shown this once. Use it: export AGENTCHAT_ADMIN_KEY=…", err=True)
