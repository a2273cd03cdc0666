"""`agentchat up` and `agentchat serve`: running a board.

`up` is for one command on one machine: it keeps an embedded Postgres in its data folder (or uses a database
of one's own), brings the schema up to date, makes the keys that are missing and serves. `serve` is for
deployments: it serves a database that exists, and changes nothing in it.

The workers load their code while Postgres starts, so both are ready at about the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agentchat.config import config_path, home_folder, read_config, write_config
from agentchat.names import default_machine_name, slug
from agentchat_cli.server_limits import LIMIT_OPTIONS
from agentchat_cli.server_tls import TLS_OPTIONS, check_tls, local_address

if TYPE_CHECKING:
    from agentchat_db.embedded import EmbeddedPostgres
    from agentchat_server.settings import ServerSettings
    from agentchat_server.supervisor import Supervisor

T = TypeVar("T")

DATABASE_NAME = "agentchat"
ADMIN_KEY_FILE = "admin.key"
FILES_FOLDER = "files"
# Seconds between two looks at the embedded Postgres, and between two vain attempts to start it.
_POSTGRES_CHECK_INTERVAL = 0.25
_LONGEST_POSTGRES_DELAY = 5.0

database_url_option = click.option(
    "--database-url",
    envvar="AGENTCHAT_DATABASE_URL",
    metavar="URL",
    help="Use this Postgres (15 or newer) instead of an embedded one.",
)
data_dir_option = click.option(
    "--data-dir",
    envvar="AGENTCHAT_DATA_DIR",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the embedded Postgres, files and the admin key are kept.  [default: ~/.agentchat/data]",
)
_SERVER_OPTIONS = (
    click.option(
        "--host",
        envvar="AGENTCHAT_HOST",
        default="127.0.0.1",
        show_default=True,
        help="Address to listen on.",
    ),
    click.option(
        "--grpc-port",
        envvar="AGENTCHAT_GRPC_PORT",
        default=50051,
        show_default=True,
        type=click.IntRange(0, 65535),
        help="Port of the gRPC API; 0 takes any free one.",
    ),
    click.option(
        "--workers",
        envvar="AGENTCHAT_WORKERS",
        default=1,
        show_default=True,
        type=click.IntRange(1, 64),
        help="Number of processes.",
    ),
    click.option(
        "--insecure",
        envvar="AGENTCHAT_INSECURE",
        is_flag=True,
        help="Serve plain text on an address that others can reach.",
    ),
    click.option(
        "--files-url",
        envvar="AGENTCHAT_FILES_URL",
        metavar="URL",
        help="Where files are kept: file:///folder, or s3://bucket/prefix with the usual AWS_… variables."
        "  [default: up: the data folder; serve: no files]",
    ),
    click.option(
        "--public-url",
        envvar="AGENTCHAT_PUBLIC_URL",
        default="http://localhost:3003",
        show_default=True,
        metavar="URL",
        help="What download addresses start with: where others reach the gateway.",
    ),
    *TLS_OPTIONS,
    *LIMIT_OPTIONS,
    click.option(
        "--metrics-port",
        envvar="AGENTCHAT_METRICS_PORT",
        type=click.IntRange(0, 65535),
        help="Serve Prometheus metrics of all workers on this port; 0 takes any free one.  [default: none]",
    ),
    click.option(
        "--metrics-host",
        envvar="AGENTCHAT_METRICS_HOST",
        default="127.0.0.1",
        show_default=True,
        help="Address to serve metrics on.",
    ),
)


def _server_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_SERVER_OPTIONS):
        command = option(command)
    return command


def _log_level_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--log-level",
        envvar="AGENTCHAT_LOG_LEVEL",
        default=default,
        show_default=True,
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="What the server logs, as JSON lines on stderr.",
    )


@click.command()
@data_dir_option
@database_url_option
@_server_options
@_log_level_option("warning")
def up(data_dir: Path | None, database_url: str | None, **options: Any) -> None:
    """Run a board here: embedded Postgres, schema, keys, server.

    Everything is kept in the data folder, and found again by the next `up`.
    """
    with explained_errors():
        asyncio.run(_up(data_dir or default_data_dir(), database_url, _settings(**options)))


@click.command()
@database_url_option
@_server_options
@_log_level_option("info")
def serve(database_url: str | None, **options: Any) -> None:
    """Serve a board whose database exists.

    Changes nothing in the database; `agentchat db migrate` prepares it.
    """
    if not database_url:
        raise click.UsageError("state --database-url or set AGENTCHAT_DATABASE_URL (or use: agentchat up)")
    with explained_errors():
        asyncio.run(_serve(database_url, _settings(**options)))


def default_data_dir() -> Path:
    """`~/.agentchat/data`."""
    return home_folder() / "data"


@contextlib.contextmanager
def explained_errors() -> Iterator[None]:
    """Turns the expected failures of serving into what click prints."""
    from agentchat_db.exceptions import DatabaseError
    from agentchat_server.supervisor import ServerStartError

    try:
        yield
    except (DatabaseError, ServerStartError) as error:
        raise click.ClickException(str(error)) from error


def _settings(
    grpc_port: int, insecure: bool, files_url: str | None, public_url: str, **options: Any
) -> ServerSettings:
    from agentchat_server.settings import ServerSettings

    settings = ServerSettings(
        database_url="", port=grpc_port, files_url=files_url, public_url=public_url, **options
    )
    if not check_tls(settings) and not insecure and not _is_loopback(settings.host):
        raise click.UsageError(
            f"{settings.host} can be reached from other machines, and the server would speak plain text"
            " there; state --tls-cert and --tls-key, or put a TLS proxy in front of it,"
            " or accept that with --insecure"
        )
    if not public_url.startswith(("http://", "https://")):
        raise click.UsageError(f"--public-url: {public_url} is no address such as https://chat.example.com")
    return settings


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _serve(database_url: str, settings: ServerSettings) -> None:
    from agentchat_db import migrations
    from agentchat_server.supervisor import Supervisor

    async with _stop_signals() as told_to_stop:
        supervisor = Supervisor(settings)
        try:
            await supervisor.prepare()
            pending = await asyncio.to_thread(migrations.pending, database_url)
            if pending:
                raise click.ClickException(
                    f"the database lacks {len(pending)} migrations; run: agentchat db migrate"
                )
            await _unless(told_to_stop, supervisor.start(database_url))
            click.echo(f"Serving gRPC on {supervisor.host}:{supervisor.port}", err=True)
            if supervisor.metrics_url is not None:
                click.echo(f"Serving metrics on {supervisor.metrics_url}", err=True)
            await told_to_stop.wait()
        finally:
            await supervisor.stop()


async def _up(data_dir: Path, database_url: str | None, settings: ServerSettings) -> None:
    from agentchat_db.data_dir import DataDirLock, create_data_dir
    from agentchat_server.supervisor import Supervisor

    create_data_dir(data_dir)
    if not settings.files_url:
        settings = dataclasses.replace(settings, files_url=(data_dir / FILES_FOLDER).absolute().as_uri())
    async with _stop_signals() as told_to_stop:
        with DataDirLock(data_dir) as lock:
            supervisor = Supervisor(settings)
            database = _Database(data_dir, database_url, lock)
            try:
                await supervisor.prepare()
                await _unless(told_to_stop, asyncio.to_thread(database.start))
                keys = await asyncio.to_thread(
                    _make_keys, data_dir, database.owner_url, local_address(settings, supervisor.port)
                )
                await _unless(told_to_stop, supervisor.start(database.server_url))
                click.echo(_greeting(data_dir, settings, supervisor, database, keys))
                await database.keep_running(told_to_stop)
            finally:
                if told_to_stop.is_set():
                    click.echo("Stopping.", err=True)
                await supervisor.stop()
                await asyncio.to_thread(database.stop)


class _Database:
    """The board's Postgres: embedded, or one's own."""

    def __init__(self, data_dir: Path, url: str | None, lock: Any) -> None:
        from agentchat_db.embedded import EmbeddedPostgres

        self.embedded: EmbeddedPostgres | None = None
        if url is None:
            self.embedded = EmbeddedPostgres(data_dir, lock=lock)
            self.owner_url = self.embedded.dsn(dbname=DATABASE_NAME)
            self.server_url = self.embedded.dsn(user="agentchat_app", dbname=DATABASE_NAME)
        else:
            self.owner_url = self.server_url = url

    def start(self) -> None:
        """Starts the embedded Postgres, and brings the schema up to date."""
        from agentchat_db import migrations

        if self.embedded is not None:
            self.embedded.start()
            self.embedded.ensure_database(DATABASE_NAME)
        migrations.apply(self.owner_url)

    def stop(self) -> None:
        """Stops the embedded Postgres."""
        if self.embedded is not None:
            self.embedded.stop()

    async def keep_running(self, told_to_stop: asyncio.Event) -> None:
        """Waits until told to stop, and starts the embedded Postgres again when it dies.

        Also when it dies while it starts, or the disk is full for a while: soon at first, then more slowly.
        """
        from agentchat_db.exceptions import DatabaseError

        delay = _POSTGRES_CHECK_INTERVAL
        while not told_to_stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await told_to_stop.wait()
            if self.embedded is None or told_to_stop.is_set() or self.embedded.is_running:
                continue
            click.echo("The embedded Postgres ended; starting it again.", err=True)
            try:
                await asyncio.to_thread(self.embedded.start)
                delay = _POSTGRES_CHECK_INTERVAL
            except (DatabaseError, OSError) as error:
                delay = min(delay * 2, _LONGEST_POSTGRES_DELAY)
                click.echo(f"warning: {error}", err=True)


@dataclass(frozen=True)
class _Keys:
    """What `up` found or made for the people of this machine."""

    admin_key_file: Path
    config_file: Path
    # A sentence about the config file.
    config_note: str


def _make_keys(data_dir: Path, owner_url: str, server: str) -> _Keys:
    """Makes the admin key, and this machine's key and config for the server, where they are missing."""
    import psycopg

    from agentchat_db.administration import create_admin_key, create_machine_key, knows_machine_key

    with psycopg.connect(owner_url, autocommit=True) as connection:
        admin_key = create_admin_key(connection, data_dir / ADMIN_KEY_FILE)
        config_file = config_path()
        known = read_config(config_file)
        if "AGENTCHAT_API_KEY" not in known:
            machine = slug(known.get("MACHINE_NAME", "")) or default_machine_name()
            machine = machine if len(machine) > 1 else f"{machine}-machine"
            write_config(
                config_file,
                {
                    "MACHINE_NAME": machine,
                    "AGENTCHAT_API_KEY": create_machine_key(connection, admin_key, machine),
                    "AGENTCHAT_SERVER": server,
                },
            )
            note = f"written: this machine is {machine}"
        elif not knows_machine_key(connection, known["AGENTCHAT_API_KEY"]):
            note = "kept: its key is for another board"
        elif known.get("AGENTCHAT_SERVER") != server and _is_here(known.get("AGENTCHAT_SERVER", ""), server):
            write_config(config_file, {"AGENTCHAT_SERVER": server})
            note = f"updated: the server is {server}"
        else:
            note = "as it was"
    return _Keys(data_dir / ADMIN_KEY_FILE, config_file, note)


def _is_here(known: str, server: str) -> bool:
    """Whether the address that a config knows is one of this machine's, whose server is now `server`."""
    hosts = [address.rpartition("://")[2].rpartition(":")[0] for address in (known, server)]
    return hosts[0] in ("", "localhost", "127.0.0.1", "[::1]", hosts[1])


def _greeting(
    data_dir: Path, settings: ServerSettings, supervisor: Supervisor, database: _Database, keys: _Keys
) -> str:
    command = _own_command()
    # The command finds the admin key by itself only where `up` keeps it by default.
    admin = f"{command} admin"
    if data_dir.resolve() != default_data_dir().resolve():
        admin = f'AGENTCHAT_ADMIN_KEY="$(cat {shlex.quote(str(keys.admin_key_file))})" {admin}'
    encrypted = "  (TLS)" if settings.tls_cert else ""
    postgres = "embedded PostgreSQL in it" if database.embedded is not None else "database elsewhere"
    return "\n".join(
        (
            "AgentChat is up.",
            "",
            f"  gRPC       {settings.host}:{supervisor.port}{encrypted}",
            *([] if supervisor.metrics_url is None else [f"  Metrics    {supervisor.metrics_url}"]),
            f"  Data       {_short(data_dir)}  ({postgres})",
            f"  Admin key  {_short(keys.admin_key_file)}",
            f"  Config     {_short(keys.config_file)}  ({keys.config_note})",
            "",
            "Next, in another terminal:",
            f"  {command} whoami",
            f'  {command} post general "Hello, board"',
            f"  {command} read general --follow",
            f"  {admin} keys create OTHER-MACHINE   # a key for another machine",
            "",
            "Ctrl-C stops it.",
        )
    )


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError, RuntimeError):
        return f"~/{path.relative_to(Path.home())}"
    return str(path)


def _own_command() -> str:
    """How to start this program again: by its name if that is on the PATH."""
    found, own = shutil.which("agentchat"), Path(sys.argv[0])
    if found is not None and Path(found).resolve() == own.resolve():
        return "agentchat"
    with contextlib.suppress(ValueError):
        return str(own.absolute().relative_to(Path.cwd()))
    return str(own)


@contextlib.asynccontextmanager
async def _stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of ending the program where it stands."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _StoppedError(click.exceptions.Exit):
    """Told to stop while still starting."""


async def _unless(told_to_stop: asyncio.Event, work: Awaitable[T]) -> T:
    """Does the work of starting, unless told to stop before it is done.

    A step that runs in a thread is waited for, so that what it starts can be stopped.
    """
    task = asyncio.ensure_future(work)
    told = asyncio.create_task(told_to_stop.wait())
    try:
        await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
        if told_to_stop.is_set() and not task.done():
            await asyncio.gather(task, return_exceptions=True)
            raise _StoppedError(0)
        return await task
    finally:
        told.cancel()
