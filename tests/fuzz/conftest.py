"""The board that is fuzzed, one for all of its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.board import Cluster
from tests.conftest import new_database
from tests.file_stores import LocalFolder
from tests.fuzz.fuzzed_board import FuzzedBoard
from tests.fuzz.oracle import ErrorLog, Oracle


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The loop that server and client run in: one for all examples."""
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="session")
def board(
    cluster: Cluster, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FuzzedBoard]:
    """A board with something of everything on it."""
    files = LocalFolder(tmp_path_factory.mktemp("fuzz") / "files")
    with new_database(cluster) as name:
        serving = FuzzedBoard.prepared(
            cluster.postgres.dsn(user="agentchat_app", dbname=name), cluster.postgres.dsn(dbname=name), files
        )
        board = runner.run(serving.__aenter__())
        yield board
        runner.run(serving.__aexit__(None, None, None))


@pytest.fixture
def oracle(board: FuzzedBoard) -> Iterator[Oracle]:
    """Calls the board and judges its answers."""
    with ErrorLog.kept() as errors:
        yield Oracle(board, errors)
