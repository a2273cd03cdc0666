"""The migration runner, with small migrations of the tests' own."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

import agentchat_db
from agentchat_db import migrations
from agentchat_db.exceptions import (
    DatabaseNewerError,
    DatabaseUnavailable,
    MigrationChangedError,
    MigrationError,
    MigrationLockError,
    MigrationRecordError,
)
from tests.board import Cluster
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

DEADLINE = 30.0
_numbers = itertools.count(1)

Write = Callable[..., Path]


@pytest.fixture
def dsn(cluster: Cluster) -> Iterator[str]:
    """An empty database."""
    name = f"migrated_{next(_numbers)}"
    with psycopg.connect(cluster.postgres.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield cluster.postgres.dsn(dbname=name)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes migrations; returns their folder."""

    def write_files(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name.removeprefix('m').replace('_', '.', 1)}.sql").write_text(text)
        return tmp_path

    return write_files


def rows(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def tables(dsn: str) -> set[str]:
    found = "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    return {name for (name,) in rows(dsn, found)}


def wait_for(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a statement, as soon as it has any."""
    deadline = time.monotonic() + DEADLINE
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            if found := connection.execute(statement.encode()).fetchall():
                return found
            time.sleep(0.005)
    raise AssertionError(f"nothing came of {statement}")


def test_migrations_are_applied_in_order_each_once(dsn: str, write: Write) -> None:
    folder = write(m0002_b="insert into t values (2)", m0001_a="create table t (x integer)")
    assert migrations.pending(dsn, folder=folder) == ["0001.a", "0002.b"]
    assert migrations.apply(dsn, folder=folder) == ["0001.a", "0002.b"]
    assert migrations.apply(dsn, folder=folder) == []
    write(m0003_c="insert into t values (3)")
    assert migrations.apply(dsn, folder=folder) == ["0003.c"]
    assert rows(dsn, "select x from t order by x") == [(2,), (3,)]
    assert migrations.pending(dsn, folder=folder) == []


def test_the_status_tells_what_was_applied_and_when(dsn: str, write: Write) -> None:
    folder = write(m0001_a="create table t (x integer)")
    migrations.apply(dsn, folder=folder)
    write(m0002_b="select 1")
    first, second = migrations.status(dsn, folder=folder)
    assert first.id == "0001.a"
    assert first.applied_at is not None
    # The database's clock is this machine's.
    assert abs(first.applied_at.timestamp() - time.time()) < DEADLINE
    assert (first.known, first.changed) == (True, False)
    assert (second.id, second.applied_at, second.known) == ("0002.b", None, True)


def test_asking_for_the_status_writes_nothing(dsn: str, write: Write) -> None:
    migrations.status(dsn, folder=write(m0001_a="select 1"))
    assert rows(dsn, "select from pg_namespace where nspname = 'agentchat_migrations'") == []


def test_a_file_is_run_as_postgres_reads_it(dsn: str, write: Write) -> None:
    folder = write(
        m0001_a="""
-- Comments; with semicolons, and 100%% of what a statement splitter may trip over: $$;
create table t (x text default 'a;b', /* ; /* ; */ ; */ y text check (y ~ '^[;$]*$'));
create function f(a integer) returns integer language plpgsql as $$
declare
    b integer := 1; -- one;
begin
    if a > 1 then
        b := case when a > 2 then 3 else 4 end;
    end if;
    for i in 1..2 loop
        begin
            execute 'select $q$;$q$; select 1;';
        exception when others then null;
        end;
    end loop;
    return b;
end;
$$;
create function g() returns integer language sql begin atomic; select 1; select 7; end;
do $do$ begin perform 1; insert into t values ('%s :x; ''q'''); end $do$;
select 'rows are of no interest';
create table u (x integer)""".replace("begin atomic;", "begin atomic")
    )
    assert migrations.apply(dsn, folder=folder) == ["0001.a"]
    assert rows(dsn, "select f(3), g(), (select x from t)") == [(3, 7, "%s :x; 'q'")]
    assert tables(dsn) == {"t", "u"}


def test_the_record_is_kept_apart_whatever_a_migration_sets_for_itself(dsn: str, write: Write) -> None:
    folder = write(
        m0001_a="""
            create schema own;
            set local search_path to own;
            create table t (x integer);
            do $$ begin
                if not exists (select from pg_roles where rolname = 'somebody') then
                    create role somebody;
                end if;
            end $$;
            set local role somebody""",
        m0002_b="create table u (x integer)",
    )
    assert migrations.apply(dsn, folder=folder) == ["0001.a", "0002.b"]
    assert rows(dsn, "select count(*) from own.t") == [(0,)]
    assert tables(dsn) == {"u"}
    recorded = "select migration_id, username from agentchat_migrations._yoyo_log order by 1"
    assert rows(dsn, recorded) == [("0001.a", "postgres"), ("0002.b", "postgres")]


def test_a_migration_that_fails_leaves_nothing_and_says_what_postgres_said(dsn: str, write: Write) -> None:
    folder = write(
        m0001_a="create table t (x integer)",
        m0002_b="create table half (x integer);\n\nselect missing from t;",
        m0003_c="create table u (x integer)",
    )
    with pytest.raises(MigrationError, match=r'0002\.b .* column "missing" does not exist \(line 3\)'):
        migrations.apply(dsn, folder=folder)
    assert tables(dsn) == {"t"}
    assert migrations.pending(dsn, folder=folder) == ["0002.b", "0003.c"]
    write(m0002_b="create table whole (x integer)")
    assert migrations.apply(dsn, folder=folder) == ["0002.b", "0003.c"]
    assert tables(dsn) == {"t", "whole", "u"}


def test_an_error_inside_a_function_tells_where(dsn: str, write: Write) -> None:
    folder = write(m0001_a="do $$ begin raise exception 'so not' using hint = 'try this'; end $$")
    with pytest.raises(MigrationError, match=r"so not; try this; PL/pgSQL function inline_code_block line 1"):
        migrations.apply(dsn, folder=folder)


def test_a_migration_must_not_end_its_transaction(dsn: str, write: Write) -> None:
    folder = write(m0001_a="create table t (x integer); commit; create table u (x integer)")
    with pytest.raises(MigrationError, match="ends the transaction"):
        migrations.apply(dsn, folder=folder)
    assert migrations.pending(dsn, folder=folder) == ["0001.a"]


def test_of_two_that_migrate_at_once_each_migration_is_applied_by_one(dsn: str, write: Write) -> None:
    folder = write(m0001_a="create table t (x integer)", m0002_b="insert into t values (1)")
    applied: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: applied.append(migrations.apply(dsn, folder=folder))) for _ in "ab"
    ]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (migrations._LOCK_KEY,))
        for thread in threads:
            thread.start()
        # Both have seen that there is something to do before either may begin.
        wait_for(dsn, "select from pg_locks where locktype = 'advisory' and not granted having count(*) = 2")
        connection.execute("select pg_advisory_unlock(%s)", (migrations._LOCK_KEY,))
        for thread in threads:
            thread.join(DEADLINE)
    assert sorted(applied) == [[], ["0001.a", "0002.b"]]
    assert rows(dsn, "select x from t") == [(1,)]


def test_waiting_for_another_that_migrates_has_an_end(dsn: str, write: Write) -> None:
    folder = write(m0001_a="create table t (x integer)")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (migrations._LOCK_KEY,))
        with pytest.raises(MigrationLockError):
            migrations.apply(dsn, folder=folder, lock_timeout=0.05)
    assert migrations.apply(dsn, folder=folder) == ["0001.a"]


def test_a_killed_migration_leaves_neither_half_of_it_nor_a_lock(dsn: str, write: Write) -> None:
    folder = write(m0001_a="create table t (x integer); select pg_sleep(300)")
    root = str(Path(agentchat_db.__file__).parents[1])
    program = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {root!r})\n"
        f"from agentchat_db import migrations; migrations.apply({dsn!r}, folder=Path({str(folder)!r}))"
    )
    sleeping = (
        "select pid from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        ((backend,),) = wait_for(dsn, sleeping)
        process.kill()
    # Postgres would notice at the end of the statement.
    rows(dsn, f"select pg_terminate_backend({backend}, {DEADLINE * 1000:.0f})")
    assert tables(dsn) == set()
    write(m0001_a="create table t (x integer)")
    assert migrations.apply(dsn, folder=folder, lock_timeout=DEADLINE) == ["0001.a"]


def test_a_file_that_changed_after_it_was_applied_is_refused(dsn: str, write: Write) -> None:
    folder = write(m0001_a="create table t (x integer)")
    migrations.apply(dsn, folder=folder)
    write(m0001_a="create table t (x bigint)", m0002_b="create table u (x integer)")
    assert [migration.changed for migration in migrations.status(dsn, folder=folder)] == [True, False]
    with pytest.raises(MigrationChangedError, match=r"0001\.a"):
        migrations.apply(dsn, folder=folder)
    assert tables(dsn) == {"t"}


def test_a_database_that_is_newer_than_the_program_is_refused(
    dsn: str, write: Write, tmp_path_factory: pytest.TempPathFactory
) -> None:
    migrations.apply(dsn, folder=write(m0001_a="select 1", m0002_b="select 2", m0003_c="select 3"))
    older = tmp_path_factory.mktemp("older")
    (older / "0001.a.sql").write_text("select 1")
    assert [(m.id, m.known) for m in migrations.status(dsn, folder=older)] == [
        ("0001.a", True),
        ("0002.b", False),
        ("0003.c", False),
    ]
    assert migrations.pending(dsn, folder=older) == []
    with pytest.raises(DatabaseNewerError, match=r"0002\.b, 0003\.c"):
        migrations.apply(dsn, folder=older)


def test_a_role_that_may_not_migrate_is_told_so(dsn: str, write: Write) -> None:
    folder = write(m0001_a="select 1")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop role if exists guest")
        connection.execute("create role guest login")
    guest = dsn.replace("postgres@", "guest@", 1)
    with pytest.raises(MigrationRecordError, match="permission denied"):
        migrations.apply(guest, folder=folder)


def test_a_database_that_cannot_be_reached_is_unavailable(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        migrations.apply(cluster.postgres.dsn(dbname="missing"))
    with pytest.raises(DatabaseUnavailable, match="No such file"):
        migrations.apply(f"host={tmp_path} dbname=board")


def test_a_dsn_may_be_of_either_form(dsn: str, write: Write) -> None:
    folder = write(m0001_a="select 1")
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    keywords = psycopg.conninfo.make_conninfo("", **parts, application_name="it's odd", options="-c jit=off")
    assert migrations.apply(keywords, folder=folder) == ["0001.a"]


def test_an_up_to_date_database_costs_no_import_of_yoyo(dsn: str, write: Write) -> None:
    folder = write(m0001_a="select 1")
    migrations.apply(dsn, folder=folder)
    root = str(Path(agentchat_db.__file__).parents[1])
    program = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {root!r})\n"
        f"from agentchat_db import migrations; migrations.apply({dsn!r}, folder=Path({str(folder)!r}))\n"
        "assert 'yoyo' not in sys.modules and 'sqlparse' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE)
