"""`agentchat db`: the schema of a board's database."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from agentchat_cli.serving import (
    DATABASE_NAME,
    data_dir_option,
    database_url_option,
    default_data_dir,
    explained_errors,
)


@click.group()
def db() -> None:
    """Prepare a board's database, and see how far it is."""


@db.command()
@data_dir_option
@database_url_option
def migrate(data_dir: Path | None, database_url: str | None) -> None:
    """Bring the schema up to date.

    Safe to run at any time, and by several at once: each migration is applied once, whole or not at all.
    The database user is a superuser, or a member of the roles agentchat_owner and agentchat_app.
    """
    from agentchat_db import migrations

    with explained_errors(), owner_access(data_dir, database_url) as url:
        applied = migrations.apply(url)
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("The schema is up to date.")


@db.command()
@data_dir_option
@database_url_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(data_dir: Path | None, database_url: str | None, as_json: bool) -> None:
    """List the migrations and when they were applied. Exits with 1 when some are not."""
    from agentchat_db import migrations

    with explained_errors(), owner_access(data_dir, database_url) as url:
        found = migrations.status(url)
    if as_json:
        rows = [
            {"id": row.id, "applied_at": row.applied_at.isoformat() if row.applied_at else None}
            for row in found
        ]
        click.echo(json.dumps({"migrations": rows}))
    else:
        for row in found:
            when = row.applied_at.strftime("%Y-%m-%d %H:%M:%S UTC") if row.applied_at else "not applied"
            click.echo(f"{row.id:<30} {when}")
    if any(row.applied_at is None for row in found):
        click.echo("Apply what is missing: agentchat db migrate", err=True)
        raise click.exceptions.Exit(1)


@db.command()
@data_dir_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(data_dir: Path | None, file: Path) -> None:
    """Write a backup of an embedded Postgres to FILE, also while the board runs.

    It holds the database as it was at one moment; copy the files of the board after it. A Postgres of your
    own is backed up with its own tools.
    """
    from agentchat_db import backup as backups

    with explained_errors(), owner_access(data_dir, None) as url:
        backups.dump(url, file)
    click.echo(f"Written: {file} ({file.stat().st_size:,} bytes)")


@db.command()
@data_dir_option
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def restore(data_dir: Path | None, file: Path) -> None:
    """Make a board of the backup in FILE, in a data folder that has none.

    Its keys are those of the backup. Cursors from before are refused as those of another board.
    """
    from agentchat_db import backup as backups
    from agentchat_db.data_dir import create_data_dir
    from agentchat_db.embedded import EmbeddedPostgres

    folder = data_dir or default_data_dir()
    if (folder / "postgres").exists():
        raise click.UsageError(f"there is a board in {folder}; state another --data-dir, or move it away")
    with explained_errors():
        create_data_dir(folder)
        try:
            with EmbeddedPostgres(folder) as postgres:
                postgres.ensure_database(DATABASE_NAME)
                backups.restore(postgres.dsn(dbname=DATABASE_NAME), file)
        except BaseException:
            # Half a board would stand in the way of the next attempt.
            shutil.rmtree(folder / "postgres", ignore_errors=True)
            raise
    click.echo(f"Restored into {folder}; agentchat up serves it.")


@contextlib.contextmanager
def owner_access(data_dir: Path | None, database_url: str | None) -> Iterator[str]:
    """The URL of a database for its owner; an embedded Postgres that does not run is run meanwhile."""
    if database_url:
        yield database_url
        return
    from agentchat_db.embedded import EmbeddedPostgres
    from agentchat_db.exceptions import DataDirBusyError

    folder = data_dir or default_data_dir()
    if not (folder / "postgres").is_dir():
        raise click.UsageError(
            f"there is no board in {folder}; make one with `agentchat up`, or state --database-url"
        )
    postgres = EmbeddedPostgres(folder)
    try:
        postgres.start()
    except DataDirBusyError:
        # `agentchat up` runs it.
        yield postgres.dsn(dbname=DATABASE_NAME)
        return
    try:
        postgres.ensure_database(DATABASE_NAME)
        yield postgres.dsn(dbname=DATABASE_NAME)
    finally:
        postgres.stop()
