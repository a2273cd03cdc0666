"""What the tests share: a real Postgres, a database of its own for each test, and the real server.

- `cluster`: a Postgres for the whole run, PostgreSQL 18 as users get it; a module that says
  `pytestmark = on_both_postgres` runs on Debian's PostgreSQL 15 too.
- `database_url`: an empty board, for the role of the server. `owner_url`: the same as its owner.
- `board`: the server on it, in this process; `tests/board.py` has what tests do with it.
- `local_files`, `s3_files`: empty file stores, the second on an S3 server for the whole run;
  `file_board` is a board with the store that the fixture `files` gives, a local one unless a test chooses.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from agentchat_db import migrations
from agentchat_db.embedded import EmbeddedPostgres
from tests.board import Board, Cluster
from tests.file_stores import InspectedStore, LocalFolder, S3Bucket
from tests.postgres15 import find_postgres15
from tests.s3_server import S3Server

_numbers = itertools.count(1)

# A shell's background job ignores Ctrl-C, and hands that down to what tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is about time: how long an example takes says how busy the machine is.
settings.register_profile("agentchat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agentchat")

# Runs every test of a module once for each Postgres that is supported.
on_both_postgres = pytest.mark.parametrize("cluster", ["18", "15"], indirect=True)


@pytest.fixture(scope="session")
def _clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cluster]]:
    started: dict[str, Cluster] = {}
    yield started
    for cluster in started.values():
        cluster.postgres.stop()


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest,
    _clusters: dict[str, Cluster],
    tmp_path_factory: pytest.TempPathFactory,
) -> Cluster:
    """A running Postgres with a migrated database to copy."""
    version = getattr(request, "param", "18")
    if version not in _clusters:
        _clusters[version] = _start(version, tmp_path_factory.mktemp(f"postgres{version}"))
    return _clusters[version]


@contextmanager
def new_database(cluster: Cluster) -> Iterator[str]:
    """A database with an empty board, for a block."""
    name = f"board_{next(_numbers)}"
    with psycopg.connect(cluster.postgres.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template board_template").format(sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database_name(cluster: Cluster) -> Iterator[str]:
    """A database with an empty board."""
    with new_database(cluster) as name:
        yield name


@pytest.fixture
def database_url(cluster: Cluster, database_name: str) -> str:
    """How the server connects to the board's database."""
    return cluster.postgres.dsn(user="agentchat_app", dbname=database_name)


@pytest.fixture
def owner_url(cluster: Cluster, database_name: str) -> str:
    """How an operator connects to the board's database, past all policies."""
    return cluster.postgres.dsn(dbname=database_name)


@pytest.fixture
async def board(database_url: str, owner_url: str) -> AsyncIterator[Board]:
    """An empty board, served."""
    async with Board.serve(database_url, owner_url) as served:
        yield served


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server."""
    server = S3Server.start()
    yield server
    server.stop()


@pytest.fixture
def local_files(tmp_path: Path) -> LocalFolder:
    """A folder for files, which the server makes."""
    return LocalFolder(tmp_path / "files")


@pytest.fixture
def s3_files(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    """An empty bucket for files, and the environment that leads to it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"board-{next(_numbers)}"
    s3_server.create_bucket(bucket)
    return S3Bucket(s3_server, bucket)


@pytest.fixture
def files(request: pytest.FixtureRequest) -> InspectedStore:
    """The file store of `file_board`: `local_files`, or the fixture that a test names."""
    store: InspectedStore = request.getfixturevalue(getattr(request, "param", "local_files"))
    return store


@pytest.fixture
async def file_board(database_url: str, owner_url: str, files: InspectedStore) -> AsyncIterator[Board]:
    """An empty board with a file store, served."""
    async with Board.serve(database_url, owner_url, files_url=files.url) as served:
        yield served


def _start(version: str, folder: Path) -> Cluster:
    bin_dir = None
    if version == "15":
        bin_dir, reason = find_postgres15()
        if bin_dir is None:
            pytest.skip(reason)
    postgres = EmbeddedPostgres(folder, bin_dir=bin_dir)
    postgres.start()
    try:
        postgres.ensure_database("board_template")
        migrations.apply(postgres.dsn(dbname="board_template"))
    except BaseException:
        postgres.stop()
        raise
    return Cluster(version, postgres)
