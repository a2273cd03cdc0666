"""A Postgres of one's own, with no more rights than docs/operations.md asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from agentchat_db import migrations
from agentchat_db.administration import new_admin_key
from tests.board import Cluster
from tests.conftest import on_both_postgres
from tests.serving import serving

pytestmark = on_both_postgres


@dataclass(frozen=True)
class Roles:
    """URLs of a database for who migrates it and for the server."""

    migrator: str
    server: str


@pytest.fixture
def roles(cluster: Cluster) -> Iterator[Roles]:
    """An empty database, whose roles are made as the manual says; neither is a superuser."""
    name = "own_board"
    with psycopg.connect(cluster.postgres.dsn(), autocommit=True) as connection:
        # What other tests made in this cluster is there already: the migrator must be let in.
        connection.execute("create role board_migrator login")
        connection.execute("grant agentchat_owner, agentchat_app to board_migrator")
        connection.execute("create role board_server login")
        connection.execute("grant agentchat_app to board_server")
        connection.execute(sql.SQL("create database {} owner board_migrator").format(sql.Identifier(name)))
        try:
            yield Roles(
                cluster.postgres.dsn(user="board_migrator", dbname=name),
                cluster.postgres.dsn(user="board_server", dbname=name),
            )
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
            connection.execute("drop role board_server")
            connection.execute("drop role board_migrator")


async def test_a_board_is_migrated_and_served_by_roles_without_privileges(
    tmp_path: Path, roles: Roles
) -> None:
    assert migrations.apply(roles.migrator)
    with psycopg.connect(roles.migrator) as connection:
        assert new_admin_key(connection).startswith("aca_")
    assert migrations.pending(roles.server) == []
    async with serving(tmp_path / "output", roles.server) as server:
        assert server.is_up
    with (
        psycopg.connect(roles.server) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("select agentchat.create_admin_key_v1(%b)", (b"x" * 32,))
