"""Backup and restore, and what they do to cursors: docs/operations.md says it, this shows it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg import sql

from agentchat_db import backup
from agentchat_db.cluster import find_bin_dir
from agentchat_db.embedded import EmbeddedPostgres
from agentchat_db.exceptions import BackupError
from tests.board import Agent, Board, Cluster, Failure


@contextmanager
def empty_database(cluster: Cluster, name: str) -> Iterator[str]:
    """A database with nothing in it; gives its name."""
    identifier = sql.Identifier(name)
    with psycopg.connect(cluster.postgres.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(identifier))
        try:
            yield name
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(identifier))


def pg_restore(dsn: str, file: Path) -> None:
    """Restores as the manual says for a Postgres of one's own."""
    program = find_bin_dir() / "pg_restore"
    subprocess.run([program, "--exit-on-error", f"--dbname={dsn}", file], timeout=60, check=True)


async def cursor_after(agent: Agent, content: str) -> str:
    """Posts a message, and returns the cursor that a stream gives behind it."""
    async with agent.watch_messages() as stream:
        await stream.until_live()
        await agent.send("general", content)
        return (await stream.next_event()).cursor


async def refused_cursor(agent: Agent, cursor: str) -> Failure:
    """How a stream from a cursor is refused."""
    async with agent.watch_messages(cursor=cursor) as stream:
        with pytest.raises(Failure) as failure:
            await stream.next()
    assert failure.value.code is grpc.StatusCode.OUT_OF_RANGE
    return failure.value


async def test_a_restored_log_refuses_cursors_ahead_of_it_and_says_where_to_start_over(
    board: Board, cluster: Cluster, tmp_path: Path
) -> None:
    key = await board.machine("testbed")
    ada = board.agent(key, "ada")
    kept = await cursor_after(ada, "in the backup")
    backup.dump(board.owner_url, tmp_path / "board.dump")
    lost = await cursor_after(ada, "behind the backup")

    with empty_database(cluster, "restored_elsewhere") as name:
        owner_url = cluster.postgres.dsn(dbname=name)
        pg_restore(owner_url, tmp_path / "board.dump")
        async with Board.serve(
            cluster.postgres.dsn(user="agentchat_app", dbname=name), owner_url
        ) as restored:
            # The same key and the same agent.
            ada = restored.agent(key, "ada")
            assert [message.content for message in (await ada.read("general")).messages] == ["in the backup"]
            failure = await refused_cursor(ada, lost)
            assert failure.reason == "CURSOR_AHEAD"
            async with (
                ada.watch_messages(cursor=kept) as from_kept,
                ada.watch_messages(cursor=failure.metadata["head"]) as from_head,
            ):
                await ada.send("general", "after the restore")
                for stream in (from_kept, from_head):
                    assert (await stream.next_event()).message_posted.message.content == "after the restore"
            # The log has grown past the lost cursor, which now looks like any other: hence a new log id.
            async with ada.watch_messages(cursor=lost) as stream:
                await stream.until_live()


async def test_a_new_log_id_makes_all_cursors_of_before_foreign(
    board: Board, cluster: Cluster, tmp_path: Path
) -> None:
    key = await board.machine("testbed")
    kept = await cursor_after(board.agent(key, "ada"), "in the backup")
    backup.dump(board.owner_url, tmp_path / "board.dump")
    with empty_database(cluster, "restored_with_new_id") as name:
        owner_url = cluster.postgres.dsn(dbname=name)
        backup.restore(owner_url, tmp_path / "board.dump")
        async with Board.serve(
            cluster.postgres.dsn(user="agentchat_app", dbname=name), owner_url
        ) as restored:
            ada = restored.agent(key, "ada")
            failure = await refused_cursor(ada, kept)
            assert failure.reason == "CURSOR_FOREIGN"
            async with ada.watch_messages(cursor=failure.metadata["head"]) as stream:
                await ada.send("general", "after the restore")
                assert (await stream.next_event()).message_posted.message.content == "after the restore"


async def test_a_backup_is_restored_into_a_cluster_that_knows_nothing_of_agentchat(
    board: Board, tmp_path: Path
) -> None:
    key = await board.machine("testbed")
    await board.agent(key, "ada").send("general", "hello @bob")
    backup.dump(board.owner_url, tmp_path / "board.dump")
    assert (tmp_path / "board.dump").stat().st_mode & 0o777 == 0o600
    folder = tmp_path / "other"
    folder.mkdir()
    with EmbeddedPostgres(folder) as postgres:
        postgres.ensure_database("agentchat")
        owner_url = postgres.dsn(dbname="agentchat")
        backup.restore(owner_url, tmp_path / "board.dump")
        server_url = postgres.dsn(user="agentchat_app", dbname="agentchat")
        async with Board.serve(server_url, owner_url) as restored:
            ada = restored.agent(key, "ada")
            await ada.send("general", "still here")
            contents = [message.content for message in (await ada.read("general")).messages]
            assert contents == ["hello @bob", "still here"]


async def test_a_backup_is_whole_or_not_there(board: Board, tmp_path: Path) -> None:
    file = tmp_path / "board.dump"
    with pytest.raises(BackupError, match="does not exist"):
        backup.dump(f"{board.owner_url}&dbname=no_such_database", file)
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - nothing else runs
    file.write_bytes(b"something else")
    with pytest.raises(BackupError, match="name another file"):
        backup.dump(board.owner_url, file)
    assert file.read_bytes() == b"something else"


async def test_what_is_no_backup_leaves_the_database_empty(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "board.dump").write_bytes(b"no backup at all")
    with empty_database(cluster, "restored_from_nothing") as name:
        dsn = cluster.postgres.dsn(dbname=name)
        with pytest.raises(BackupError, match="input file"):
            backup.restore(dsn, tmp_path / "board.dump")
        with psycopg.connect(dsn) as connection:
            found = connection.execute("select from pg_namespace where nspname like 'agentchat%'")
            assert found.rowcount == 0
