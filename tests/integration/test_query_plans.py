"""How Postgres runs the statements whose cost must not grow with the board.

On a board of 20,000 messages, as the server's role with a caller stated, once planned for the parameters
and once for any: the server prepares its statements, so either plan may be the one that runs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from agentchat_db import queries
from agentchat_db.database import Statement
from agentchat_proto.v1.mention_service_pb2 import ListMentionsRequest
from agentchat_proto.v1.search_service_pb2 import SearchMessagesRequest
from tests.board import Board, Cluster
from tests.conftest import on_both_postgres

pytestmark = on_both_postgres

MESSAGES = 20_000
CHANNELS = 20
AGENTS = 50
# A page, as the services ask for it.
PAGE = {"limit": 21, "max_bytes": 3 * 1024 * 1024}

Node = dict[str, Any]
_numbers = itertools.count(1)
_PARAMETER = re.compile(r"%\((\w+)\)[sb]")

_FILL = f"""
    insert into agentchat.agents (name, machine)
    select 'agent-' || a, 'testbed' from generate_series(0, {AGENTS - 1}) as a;

    insert into agentchat.channels (name, type, message_count, last_seq)
    select 'project-' || c, 'project', {MESSAGES // CHANNELS}, {MESSAGES - CHANNELS} + c + 1
    from generate_series(0, {CHANNELS - 1}) as c;

    insert into agentchat.channel_memberships (agent_id, channel_id, read_ordinal)
    select a.id, c.id, c.message_count / 2
    from agentchat.agents a cross join agentchat.channels c;

    -- Every hundredth message has the word needle.
    insert into agentchat.messages (id, seq, channel_id, ordinal, author_agent_id, content, created_at)
    select gen_random_uuid(), s, c.id, (s - 1) / {CHANNELS} + 1, a.id,
           'word' || s % 700 || ' words' || s % 900 || case when s % 100 = 0 then ' needle' else '' end,
           now() - interval '1 day' + s * interval '1 second'
    from generate_series(1, {MESSAGES}) as s
    join agentchat.channels c on c.name = 'project-' || (s - 1) % {CHANNELS}
    join agentchat.agents a on a.name = 'agent-' || s % {AGENTS};

    -- Every fourth message mentions somebody; one mention of ten is unread.
    insert into agentchat.mentions (message_id, mentioned_agent_id, mentioning_agent_id, seq, read_at)
    select m.id, a.id, m.author_agent_id, m.seq, case when m.seq / 4 % 10 > 0 then now() end
    from agentchat.messages m
    join agentchat.agents a on a.name = 'agent-' || (m.seq + 1) % {AGENTS}
    where m.seq % 4 = 0;

    -- Every second unread mention was claimed: a third of those claims run, the others are over.
    update agentchat.mentions m
    set claim_token = gen_random_uuid(),
        claimed_until = now() + (m.seq % 3 - 1.5) * interval '1 hour' + m.seq * interval '1 ms'
    where m.read_at is null and m.seq / 40 % 2 = 0;

    -- Every fifth message announces a file.
    insert into agentchat.files (
        id, path, channel_id, name, size, content_type, sha256, store_key, uploaded_by, message_id,
        created_at)
    select gen_random_uuid(), c.name || '/' || m.seq || '-notes.txt', m.channel_id, 'notes.txt', 1,
           'text/plain', sha256('x'), gen_random_uuid(), m.author_agent_id, m.id, m.created_at
    from agentchat.messages m
    join agentchat.channels c on c.id = m.channel_id
    where m.seq % 5 = 0;

    update agentchat.log_position set seq = {MESSAGES}, last_created_at = now();
"""


class Planner:
    """Plans statements of the server on a filled board."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.agent_id = self._id("agents", "agent-1")
        # No message mentions it.
        self.unmentioned_id = self._id("agents", "agent-0")
        self.channel_id = self._id("channels", "project-7")
        # Every fifth message of the log is in one of four channels.
        self.channel_with_files_id = self._id("channels", "project-4")
        self.state(self.agent_id)

    def state(self, agent_id: UUID) -> None:
        """States an agent as the caller."""
        self._connection.execute("select set_config('agentchat.agent_id', %s, false)", (str(agent_id),))

    def _id(self, table: str, name: str) -> UUID:
        query = sql.SQL("select id from agentchat.{} where name = %s").format(sql.Identifier(table))
        row = self._connection.execute(query, (name,)).fetchone()
        assert row is not None
        found: UUID = row[0]
        return found

    def plan(self, file: str, name: str, *before: str, **parameters: Any) -> list[Node]:
        """All nodes of the plan of a statement."""
        names: list[str] = []

        def number(match: re.Match[str]) -> str:
            if match[1] not in names:
                names.append(match[1])
            return f"${names.index(match[1]) + 1}"

        text = _PARAMETER.sub(number, queries.load(file)[name])
        self._connection.execute("begin")
        self._connection.execute(f"prepare planned as {text}".encode())
        # What the server sends before it, in the same transaction.
        for first in before:
            self._connection.execute(queries.load("caller")[first])
        try:
            values = sql.SQL(", ").join(sql.Literal(parameters.pop(name)) for name in names)
            assert not parameters
            execute = sql.SQL("({})").format(values) if names else sql.SQL("")
            statement = sql.SQL("explain (format json) execute planned {}").format(execute)
            row = self._connection.execute(statement).fetchone()
        finally:
            self._connection.execute("deallocate planned")
            self._connection.execute("commit")
        assert row is not None
        return list(walk(row[0][0]["Plan"]))


def walk(node: Node) -> Iterator[Node]:
    """A node of a plan and all below it."""
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def on(nodes: list[Node], table: str) -> list[Node]:
    """The nodes that read a table itself."""
    return [node for node in nodes if node.get("Relation Name") == table]


def indexes(nodes: list[Node]) -> set[str]:
    """The indexes that a plan uses."""
    return {node["Index Name"] for node in nodes if "Index Name" in node}


def seq_scans(nodes: list[Node]) -> set[str]:
    """The tables that a plan reads from end to end."""
    return {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}


def sorted_below(nodes: list[Node], key: str) -> list[Node]:
    """The sorts by a key."""
    return [
        node
        for node in nodes
        if "Sort" in node["Node Type"] and any(key in part for part in node.get("Sort Key", ()))
    ]


@pytest.fixture(scope="module")
def filled(cluster: Cluster) -> Iterator[str]:
    """A database with 20,000 messages."""
    name = f"planned_{next(_numbers)}"
    with psycopg.connect(cluster.postgres.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template board_template").format(sql.Identifier(name)))
        with psycopg.connect(cluster.postgres.dsn(dbname=name), autocommit=True) as owner:
            owner.execute(_FILL.encode())
            owner.execute("vacuum analyze")
        yield name
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
def planner(cluster: Cluster, filled: str, request: pytest.FixtureRequest) -> Iterator[Planner]:
    mode: str = request.param
    with psycopg.connect(
        cluster.postgres.dsn(user="agentchat_app", dbname=filled), autocommit=True
    ) as connection:
        # jit: as the server sets it.
        for name, value in [("plan_cache_mode", mode), ("jit", "off")]:
            connection.execute("select set_config(%s, %s, false)", (name, value))
        yield Planner(connection)


def search(planner: Planner, **changed: Any) -> list[Node]:
    parameters: dict[str, Any] = {
        "query": "needle",
        "channel_id": None,
        "author_id": None,
        "after_seq": 0,
        "through_seq": MESSAGES,
        "last_rank": None,
        "last_seq": None,
        **PAGE,
        **changed,
    }
    return planner.plan("search", "search_messages", "plan_for_parameters", **parameters)


@pytest.mark.parametrize("filters", ["none", "channel", "author", "time", "page"])
def test_a_search_finds_its_messages_in_the_index_of_words(planner: Planner, filters: str) -> None:
    all_filters: dict[str, dict[str, Any]] = {
        "none": {},
        "channel": {"channel_id": planner.channel_id},
        "author": {"author_id": planner.agent_id},
        "time": {"after_seq": 10, "through_seq": MESSAGES - 10},
        "page": {"last_rank": 0.06, "last_seq": MESSAGES // 2},
    }
    nodes = search(planner, **all_filters[filters])
    assert "messages_by_word" in indexes(nodes)
    assert any(node["Node Type"] == "Bitmap Index Scan" for node in nodes)
    assert "messages" not in seq_scans(nodes)


@pytest.mark.parametrize("name", ["list_messages_backward", "list_messages_forward"])
def test_a_page_of_a_channel_is_read_from_its_index_in_order(planner: Planner, name: str) -> None:
    nodes = planner.plan("messages", name, channel_id=planner.channel_id, after=100, before=900, **PAGE)
    (scan,) = on(nodes, "messages")
    assert scan["Node Type"] == "Index Scan"
    assert scan["Index Name"] == "messages_channel_id_ordinal_key"
    assert "ordinal" in scan["Index Cond"]
    assert "channel_id" in scan["Index Cond"]
    # A page is sorted at most, never the channel.
    assert all(node["Plan Rows"] <= PAGE["limit"] for node in sorted_below(nodes, "ordinal"))
    assert any(node["Node Type"] == "Limit" for node in nodes)
    assert "messages" not in seq_scans(nodes)


def test_a_message_is_read_by_its_id(planner: Planner) -> None:
    nodes = planner.plan("messages", "get_message", message_id=planner.agent_id)
    assert "messages_pkey" in indexes(nodes)
    assert "messages" not in seq_scans(nodes)


def test_replies_are_read_from_their_index(planner: Planner) -> None:
    nodes = planner.plan("messages", "list_replies", message_id=planner.agent_id, after=0, **PAGE)
    assert "messages_by_parent" in indexes(nodes)
    assert "messages" not in seq_scans(nodes)


def test_the_board_reads_one_message_of_each_channel(planner: Planner) -> None:
    nodes = planner.plan("board", "get_board", agent_id=planner.agent_id)
    (scan,) = on(nodes, "messages")
    assert scan["Node Type"] == "Index Scan"
    assert scan["Index Name"] == "messages_channel_id_ordinal_key"
    assert scan["Plan Rows"] == 1
    assert "messages" not in seq_scans(nodes)


def test_unread_mentions_are_counted_in_their_own_index(planner: Planner) -> None:
    nodes = planner.plan("mentions", "count_unread_mentions", agent_id=planner.agent_id)
    assert indexes(nodes) == {"mentions_unread"}
    assert seq_scans(nodes) == set()


def test_unread_mentions_are_listed_from_their_own_index(planner: Planner) -> None:
    nodes = planner.plan(
        "mentions", "list_unread_mentions", agent_id=planner.agent_id, after=0, through=MESSAGES, **PAGE
    )
    # Its rows in order, or where they are few all of them.
    assert [node["Node Type"] for node in on(nodes, "mentions")] in (["Index Scan"], ["Bitmap Heap Scan"])
    assert {name for name in indexes(nodes) if name.startswith("mentions")} == {"mentions_unread"}
    assert "messages_pkey" in indexes(nodes)
    assert not seq_scans(nodes) & {"messages", "mentions"}


def test_the_mentions_of_an_agent_that_has_few_are_not_looked_for_in_the_whole_log(planner: Planner) -> None:
    planner.state(planner.unmentioned_id)
    nodes = planner.plan(
        "mentions",
        "list_mentions",
        "plan_for_parameters",
        agent_id=planner.unmentioned_id,
        before=MESSAGES,
        **PAGE,
    )
    found = {name for name in indexes(nodes) if name.startswith("mentions")}
    assert found == {"mentions_mentioned_agent_id_seq_key"}
    assert not seq_scans(nodes) & {"messages", "mentions"}


def test_ended_claims_are_read_from_their_own_index_in_order(planner: Planner) -> None:
    nodes = planner.plan(
        "mentions",
        "list_ended_claims",
        agent_id=planner.agent_id,
        ended_after=datetime.now(UTC) - timedelta(minutes=1),
        after=0,
        through=MESSAGES,
        **PAGE,
    )
    (scan,) = on(nodes, "mentions")
    assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", "mentions_claimed")
    assert "claimed_until" in scan["Index Cond"]
    # A page is sorted at most, never what is before it.
    assert all(node["Plan Rows"] <= PAGE["limit"] for node in sorted_below(nodes, "claim"))
    assert "messages_pkey" in indexes(nodes)
    assert not seq_scans(nodes) & {"messages", "mentions"}


def test_the_next_claim_to_end_is_the_first_of_an_index(planner: Planner) -> None:
    nodes = planner.plan("mentions", "get_claim_times", agent_id=planner.agent_id)
    (scan,) = on(nodes, "mentions")
    assert scan["Index Name"] == "mentions_claimed"
    assert "claimed_until" in scan["Index Cond"]


def test_the_claims_of_many_agents_are_looked_at_where_they_end(cluster: Cluster, filled: str) -> None:
    with psycopg.connect(cluster.postgres.dsn(dbname=filled)) as owner:
        agents = [row[0] for row in owner.execute("select id from agentchat.agents").fetchall()]
        moment, ended, next_in = owner.execute(
            "select * from agentchat.claim_ends_v1(%s, now() - interval '5 seconds')", (agents,)
        ).fetchone() or (None, None, None)
        assert moment is not None
        assert len(ended) < AGENTS
        assert next_in > 0
        read = owner.execute(
            "select seq_scan, idx_scan, idx_tup_fetch from pg_stat_xact_user_tables"
            " where relname = 'mentions'"
        ).fetchone()
    # Twice for each agent, and at most a row each time.
    assert read is not None
    assert read[:2] == (0, 2 * AGENTS)
    assert read[2] <= 2 * AGENTS


@pytest.mark.parametrize("after", [0, MESSAGES - 10])
def test_the_log_is_read_from_the_index_of_its_order(planner: Planner, after: int) -> None:
    nodes = planner.plan("log", "read_log", after=after, limit=500, max_bytes=4 * 1024 * 1024)
    (scan,) = on(nodes, "messages")
    assert scan["Node Type"] == "Index Scan"
    assert scan["Index Name"] == "messages_seq_key"
    assert "seq" in scan["Index Cond"]
    assert all(node["Plan Rows"] <= 500 for node in sorted_below(nodes, "seq"))


@pytest.mark.parametrize("one_channel", [False, True])
def test_a_watched_log_is_read_from_an_index(planner: Planner, one_channel: bool) -> None:
    nodes = planner.plan(
        "log",
        "read_watched_log",
        after=MESSAGES - 1000,
        through=MESSAGES,
        channel_ids=[planner.channel_id] if one_channel else None,
        agent_id=planner.agent_id,
        limit=500,
        max_bytes=4 * 1024 * 1024,
    )
    (scan,) = on(nodes, "messages")
    assert scan["Index Name"] == "messages_seq_key"
    assert not seq_scans(nodes) & {"messages", "mentions"}


@pytest.mark.parametrize("before", [None, "2100-01-01"])
def test_a_page_of_files_is_read_from_its_index_in_order(planner: Planner, before: str | None) -> None:
    nodes = planner.plan(
        "files", "list_files", channel_id=planner.channel_with_files_id, before=before, limit=PAGE["limit"]
    )
    (scan,) = on(nodes, "files")
    assert scan["Node Type"] == "Index Scan"
    assert (scan["Index Name"], scan["Scan Direction"]) == ("files_channel_id_created_at_key", "Backward")
    assert "channel_id" in scan["Index Cond"]
    assert "created_at" in scan["Index Cond"]
    # The index gives them in order.
    assert sorted_below(nodes, "created_at") == []


@pytest.mark.parametrize(
    ("name", "parameters", "index"),
    [
        ("get_file", {"path": "project-1/5-notes.txt"}, "files_path_key"),
        ("get_file_by_id", {"file_id": UUID(int=1)}, "files_pkey"),
        ("unnamed_keys", {"store_keys": [UUID(int=number) for number in range(500)]}, "files_store_key_key"),
    ],
)
def test_a_file_is_found_by_its_index(
    planner: Planner, name: str, parameters: dict[str, Any], index: str
) -> None:
    nodes = planner.plan("files", name, **parameters)
    assert index in indexes(nodes)
    assert "files" not in seq_scans(nodes)


async def test_the_server_has_searches_and_pages_of_mentions_planned_for_their_parameters(
    database_url: str, owner_url: str
) -> None:
    async with Board.serve(database_url, owner_url, pool_size=1) as board:
        (ada,) = await board.agents("ada")
        await ada.send("general", "needle")
        # After five times Postgres compares what a plan for any parameters would cost.
        for _ in range(10):
            await ada.search.SearchMessages(SearchMessagesRequest(query="needle"))
            await ada.mentions.ListMentions(ListMentionsRequest())
        (plans,) = await board.application._database.run(
            Statement("select statement, generic_plans, custom_plans from pg_prepared_statements")
        )
    for part in ("ts_headline", "order by seq desc"):
        (statement,) = [row for row in plans if part in row.statement]
        assert (statement.generic_plans, statement.custom_plans) == (0, 10)
