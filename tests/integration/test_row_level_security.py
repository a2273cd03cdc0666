"""What the database keeps, whatever the server does: somebody with the server's role tries to break out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from agentchat_db.database import Database, Statement
from agentchat_db.exceptions import DatabaseRefusal
from tests.board import Agent, Board
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def people(board: Board) -> list[Agent]:
    """ada, and bob whom she has mentioned."""
    agents = await board.agents("ada", "bob")
    await agents[0].send("project-x", "@bob secret for you")
    await agents[1].send("project-x", "@ada thanks")
    return agents


@pytest.fixture
async def app(board: Board) -> AsyncIterator[Connection]:
    """A connection as the server's role."""
    async with await psycopg.AsyncConnection.connect(board.database_url, autocommit=True) as connection:
        yield connection


async def state(app: Connection, board: Board, name: str) -> UUID:
    """States an agent as the caller, for the rest of the connection."""
    async with board.sql() as owner:
        cursor = await owner.execute("select id from agentchat.agents where name = %s", (name,))
        ((agent_id,),) = await cursor.fetchall()
    await app.execute("select set_config('agentchat.agent_id', %s, false)", (str(agent_id),))
    found: UUID = agent_id
    return found


async def rows(app: Connection, query: str) -> list[Any]:
    return await (await app.execute(query)).fetchall()


async def test_the_role_owns_nothing_and_bypasses_nothing(app: Connection, people: list[Agent]) -> None:
    assert await rows(app, "select current_user::text") == [("agentchat_app",)]
    assert await rows(
        app,
        "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb"
        " from pg_roles where rolname = current_user",
    ) == [(False, False, False, False)]
    assert await rows(app, "select 1 from pg_class where relowner = 'agentchat_app'::regrole") == []
    assert (
        await rows(
            app,
            "select relname from pg_class where relnamespace = 'agentchat'::regnamespace"
            " and relkind = 'r' and not relrowsecurity",
        )
        == []
    )


async def test_an_agent_sees_its_own_mentions_and_memberships_only(
    app: Connection, board: Board, people: list[Agent]
) -> None:
    ada = await state(app, board, "ada")
    assert await rows(app, "select mentioned_agent_id from agentchat.mentions") == [(ada,)]
    assert {row[0] for row in await rows(app, "select agent_id from agentchat.channel_memberships")} == {ada}


@pytest.mark.parametrize("stated", [None, "''", "'00000000-0000-0000-0000-000000000000'"])
async def test_with_nobody_stated_nothing_private_is_seen(
    app: Connection, people: list[Agent], stated: str | None
) -> None:
    if stated is not None:
        await app.execute(f"set agentchat.agent_id = {stated}")
    assert await rows(app, "select id from agentchat.mentions") == []
    assert await rows(app, "select agent_id from agentchat.channel_memberships") == []
    assert await rows(app, "update agentchat.mentions set read_at = now() returning id") == []
    assert await rows(app, "delete from agentchat.channel_memberships returning agent_id") == []


@pytest.mark.parametrize(
    "statement",
    [
        "select key_hash from agentchat.machine_keys",
        "select * from agentchat.machine_keys",
        "select key_hash from agentchat.agents",
        "select * from agentchat.agents",
        "select * from agentchat.admin_keys",
        "select claim_token from agentchat.mentions",
        (
            "insert into agentchat.messages"
            " (id, seq, channel_id, ordinal, author_agent_id, content, created_at)"
            " select gen_random_uuid(), 99, channel_id, 99, author_agent_id, 'forged', now()"
            " from agentchat.messages"
        ),
        "update agentchat.messages set content = 'changed'",
        "delete from agentchat.messages",
        (
            "insert into agentchat.mentions (message_id, mentioned_agent_id, mentioning_agent_id, seq)"
            " select message_id, mentioned_agent_id, mentioned_agent_id, 99 from agentchat.mentions"
        ),
        "delete from agentchat.mentions",
        "update agentchat.mentions set claim_token = gen_random_uuid()",
        "update agentchat.mentions set claimed_until = now() + interval '1 hour'",
        "update agentchat.mentions set reply_message_id = message_id",
        "select agentchat.lock_mention(mentioned_agent_id, id) from agentchat.mentions",
        "select agentchat.claims_changed(gen_random_uuid(), interval '0')",
        "update agentchat.mentions set mentioned_agent_id = mentioned_agent_id",
        "insert into agentchat.agents (name, machine) values ('forged', 'testbed')",
        "update agentchat.agents set name = 'renamed'",
        "update agentchat.agents set active = true",
        "delete from agentchat.agents",
        "insert into agentchat.channels (name, type) values ('forged', 'global')",
        "update agentchat.channels set message_count = 0",
        "update agentchat.channel_memberships set role = 'admin'",
        "update agentchat.log_position set seq = 0",
        "insert into agentchat.admin_keys (key_hash) values (sha256('mine'))",
        (
            "insert into agentchat.files (id, path, channel_id, name, size, content_type, sha256, store_key,"
            " uploaded_by, created_at)"
            " select gen_random_uuid(), 'project-x/1-forged', channel_id, 'forged', 1, 'a/b', sha256('x'),"
            " gen_random_uuid(), author_agent_id, now() from agentchat.messages limit 1"
        ),
        "update agentchat.files set name = 'changed'",
        "update agentchat.files set store_key = gen_random_uuid()",
        "delete from agentchat.files",
        "truncate agentchat.files",
        "select * from agentchat.secrets",
        "select value from agentchat.secrets",
        "update agentchat.secrets set value = sha256('mine')",
        "insert into agentchat.secrets (name, value) values ('mine', sha256('mine'))",
        "select agentchat.hmac_sha256('key', 'message')",
        "select agentchat.open_channel(gen_random_uuid(), 'forged')",
        "select agentchat.create_admin_key_v1(sha256('mine'))",
        "select agentchat.require_admin(sha256('mine'))",
        "select agentchat.join_first_channels(gen_random_uuid())",
        "create table agentchat.mine (id int)",
        "alter table agentchat.mentions disable row level security",
        "drop policy mentions_are_private on agentchat.mentions",
        "set role agentchat_owner",
        "set session authorization postgres",
        "copy agentchat.messages to program 'true'",
    ],
)
async def test_what_the_role_has_no_right_to_is_refused(
    app: Connection, board: Board, people: list[Agent], statement: str
) -> None:
    await state(app, board, "ada")
    with pytest.raises(errors.InsufficientPrivilege):
        await app.execute(statement)


async def test_an_agent_cannot_touch_what_is_anothers(
    app: Connection, board: Board, people: list[Agent]
) -> None:
    ada = await state(app, board, "ada")
    bob = await state(app, board, "bob")
    await state(app, board, "ada")
    assert (
        await rows(
            app,
            f"update agentchat.mentions set read_at = now() where mentioned_agent_id = '{bob}' returning id",
        )
        == []
    )
    assert (
        await rows(app, f"update agentchat.agents set description = 'x' where id = '{bob}' returning id")
        == []
    )
    with pytest.raises(errors.InsufficientPrivilege):
        await app.execute(
            "insert into agentchat.channel_memberships (agent_id, channel_id)"
            f" select '{bob}', id from agentchat.channels where name = 'tech-typescript'"
        )
    with pytest.raises(errors.InsufficientPrivilege):
        await app.execute(
            "insert into agentchat.channel_memberships (agent_id, channel_id, role)"
            f" select '{ada}', id, 'admin' from agentchat.channels where name = 'tech-typescript'"
        )
    # bob posted to the channel after ada made it, so he is no admin of it.
    await state(app, board, "bob")
    assert (
        await rows(app, "update agentchat.channels set archived = true where name = 'project-x' returning id")
        == []
    )
    await state(app, board, "ada")
    assert (
        len(
            await rows(
                app, "update agentchat.channels set archived = true where name = 'project-x' returning id"
            )
        )
        == 1
    )


async def test_the_stated_agent_does_not_outlive_its_transaction(board: Board, people: list[Agent]) -> None:
    database = Database(board.database_url, pool_size=1)
    await database.open()
    try:
        count = Statement("select count(*) as found from agentchat.mentions")
        async with board.sql() as owner:
            cursor = await owner.execute("select id from agentchat.agents where name = 'ada'")
            ((ada,),) = await cursor.fetchall()
        assert (await database.fetch_row(count, as_agent=ada)).found == 1
        assert (await database.fetch_row(count)).found == 0
    finally:
        await database.close()


async def test_a_file_is_published_for_who_may_call_only(
    app: Connection, board: Board, people: list[Agent]
) -> None:
    ada = await state(app, board, "ada")
    query = (
        "select refusal from agentchat.publish_file_v1(gen_random_uuid(), gen_random_uuid(), sha256('wrong'),"
        f" '{ada}', 'project-x', 'n', 'n', 1, 'a/b', sha256('x'), gen_random_uuid(), null, null)"
    )
    assert await rows(app, query) == [("API_KEY_INVALID",)]
    assert await rows(app, "select id from agentchat.files") == []


async def test_administration_asks_the_database_for_the_admin_key(board: Board) -> None:
    database = Database(board.database_url, pool_size=1)
    await database.open()
    try:
        for statement in (
            "select * from agentchat.create_machine_key_v1(sha256('x'), 'mine', sha256('k'), null)",
            "select * from agentchat.rotate_machine_key_v1(sha256('x'), 'testbed', sha256('k'), '1 day')",
            "select agentchat.revoke_machine_key_v1(sha256('x'), null, 'testbed')",
            "select * from agentchat.list_machine_keys_v1(sha256('x'), null, 10)",
            "select agentchat.create_agent_key_v1(sha256('x'), 'mine', sha256('k'))",
            "select agentchat.set_agent_active_v1(sha256('x'), 'ada', false)",
            "select agentchat.remove_agent_v1(sha256('x'), 'ada')",
            "select agentchat.set_channel_archived_v1(sha256('x'), 'general', true)",
            "select agentchat.authenticate_admin_v1(sha256('x'))",
        ):
            with pytest.raises(DatabaseRefusal) as refusal:
                await database.run(Statement(statement))
            assert refusal.value.reason == "ADMIN_KEY_INVALID"
    finally:
        await database.close()
