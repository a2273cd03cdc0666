"""The migrations make the recorded schema, on every supported Postgres."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from agentchat_db import migrations, schema
from scripts import record_schema
from tests.board import Cluster
from tests.conftest import on_both_postgres

_numbers = itertools.count(1)

# The owner of a function or table needs CREATE on the schema; the test grants it first.
CHANGES = [
    "alter table agentchat.agents add column extra text",
    "alter table agentchat.agents alter column description drop not null",
    "alter table agentchat.agents alter column description set default 'x'",
    "alter table agentchat.admin_keys alter column last_used_at type timestamp",
    "alter table agentchat.agents drop constraint agents_description_check",
    "alter table agentchat.messages drop constraint messages_channel_id_ordinal_key",
    "alter domain agentchat.name drop constraint name_check",
    "alter type agentchat.agent_kind rename value 'human' to 'person'",
    "drop index agentchat.messages_by_word",
    "create index extra on agentchat.messages (created_at)",
    "alter table agentchat.mentions disable row level security",
    "alter table agentchat.mentions force row level security",
    "drop policy mentions_are_private on agentchat.mentions",
    "alter policy mentions_are_private on agentchat.mentions using (true)",
    "alter policy mentions_are_private on agentchat.mentions to public",
    "alter table agentchat.mentions owner to agentchat_app",
    "grant select on agentchat.admin_keys to agentchat_app",
    "grant select (key_hash) on agentchat.agents to agentchat_app",
    "revoke select on agentchat.messages from agentchat_app",
    "revoke usage on schema agentchat from agentchat_app",
    "grant execute on function agentchat.new_uuid() to public",
    "alter function agentchat.log_mentions_v1 security invoker",
    "alter function agentchat.log_mentions_v1 volatile",
    "alter function agentchat.log_mentions_v1 reset search_path",
    "alter function agentchat.log_mentions_v1 owner to agentchat_app",
    "create or replace function agentchat.new_uuid() returns uuid language sql as 'select null::uuid'",
    "alter view agentchat.message_view reset (security_invoker)",
    "create view agentchat.extra as select 1 as one",
    "create sequence agentchat.extra",
    "alter default privileges for role agentchat_owner grant execute on functions to public",
]


@pytest.fixture
def migrated(cluster: Cluster) -> Iterator[str]:
    """A database that had nothing in it, with all migrations applied."""
    name = f"schema_{next(_numbers)}"
    with psycopg.connect(cluster.postgres.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        dsn = cluster.postgres.dsn(dbname=name)
        migrations.apply(dsn)
        yield dsn
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@on_both_postgres
def test_all_migrations_from_zero_make_exactly_the_recorded_schema(migrated: str) -> None:
    with psycopg.connect(migrated) as connection:
        assert schema.describe(connection) == schema.RECORDED.read_text("utf-8"), (
            "after a migration: python scripts/record_schema.py"
        )


@on_both_postgres
def test_the_description_is_the_same_whatever_the_session_is_set_to(owner_url: str) -> None:
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute("set search_path to agentchat, public")
        connection.execute("set quote_all_identifiers to on")
        assert schema.describe(connection) == schema.RECORDED.read_text("utf-8")
        assert connection.execute("show search_path").fetchone() == ("agentchat, public",)


@on_both_postgres
def test_a_change_of_any_kind_shows_in_the_description(owner_url: str) -> None:
    with psycopg.connect(owner_url, autocommit=True) as connection:
        before = schema.describe(connection)
        for change in CHANGES:
            with connection.transaction(force_rollback=True):
                connection.execute("grant create on schema agentchat to agentchat_app")
                granted = schema.describe(connection)
                connection.execute(change.encode())
                assert schema.describe(connection) != granted, change
        assert schema.describe(connection) == before


def test_the_record_is_checked_and_written_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = schema.RECORDED.read_text("utf-8")
    record = tmp_path / "schema.txt"
    monkeypatch.setattr(schema, "RECORDED", record)
    # What it makes anew is what the first test of this module compares.
    monkeypatch.setattr(record_schema, "describe_migrated", lambda: made)
    assert record_schema.main(["--check"]) == 1
    assert record_schema.main([]) == 0
    assert record.read_text("utf-8") == made
    assert record_schema.main(["--check"]) == 0
    record.write_text(made.replace("nologin", "login"), "utf-8")
    capsys.readouterr()
    assert record_schema.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "-    login" in said
    assert "+    nologin" in said
