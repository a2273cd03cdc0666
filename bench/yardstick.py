"""What sends stand beside: Postgres writing the same message, one row a transaction, as most boards would.

Two tables with all columns, constraints and indexes of `agentchat.messages`, the generated text-search column
among them, taken from the live schema so that they stay equal to it. Their numbers come from a sequence. One
is plain; the other has a trigger a row that extracts the mentions, looks the names up among the agents,
inserts the mentions into a table like `agentchat.mentions`, and notifies of each.

They are in a database of their own on the same Postgres: nobody listens there, so that no notification wakes
the server's workers. All differences favour the reference: no row-level security, nobody to authenticate,
no replies to tell numbers, one author and channel, and no gapless order.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench import pgbench, processes
from bench.board import Agent, Database
from bench.failures import MeasurementError
from bench.text import MESSAGE

CONNECTIONS = 32

_SCHEMA = """
    create schema yardstick;

    create sequence yardstick.plain_seq;
    create table yardstick.plain (like agentchat.messages including all);
    alter table yardstick.plain
        alter column seq set default nextval('yardstick.plain_seq'),
        alter column ordinal set default currval('yardstick.plain_seq');

    create sequence yardstick.mentioning_seq;
    create table yardstick.mentioning (like agentchat.messages including all);
    alter table yardstick.mentioning
        alter column seq set default nextval('yardstick.mentioning_seq'),
        alter column ordinal set default currval('yardstick.mentioning_seq');
    create table yardstick.mentions (like agentchat.mentions including all);

    create function yardstick.note_mentions() returns trigger language plpgsql as $$
    declare
        v_agent_id uuid;
    begin
        for v_agent_id in
            insert into yardstick.mentions (message_id, mentioned_agent_id, mentioning_agent_id, seq)
            select new.id, a.id, new.author_agent_id, new.seq
            from (
                select distinct lower(r.match[1]) as name
                from regexp_matches(new.content, '@([A-Za-z0-9][A-Za-z0-9-]*)', 'g') as r (match)
            ) w
            join agentchat.agents a on a.name = w.name and a.active
            returning mentioned_agent_id
        loop
            perform pg_notify('yardstick_mention', v_agent_id::text);
        end loop;
        return null;
    end
    $$;
    create trigger note_mentions after insert on yardstick.mentioning
        for each row execute function yardstick.note_mentions();
"""

_PLAIN = """
insert into yardstick.plain (id, channel_id, author_agent_id, content, created_at)
values (uuidv7(), :channel, :author, :content, clock_timestamp());
"""

_MENTIONING = """
\\set n random(0, :last)
insert into yardstick.mentioning (id, channel_id, author_agent_id, content, created_at)
values (uuidv7(), :channel, :author, '@' || :prefix::text || :n::text || ' ' || :content, clock_timestamp());
"""


class Yardstick:
    """The tables in a database. Its agents are named with one prefix and a number from 0."""

    def __init__(self, database: Database, agents: Sequence[Agent], prefix: str) -> None:
        self._database = database
        with database.connect() as connection:
            connection.execute(_SCHEMA)
            channel = connection.execute(
                "select id from agentchat.channels where name = 'general'"
            ).fetchone()
        self._variables = {
            "channel": channel.id if channel else None,
            "author": agents[0].id,
            "content": MESSAGE,
            "prefix": prefix,
            "last": len(agents) - 1,
        }

    def insert(self, seconds: float, *, mentions: bool) -> tuple[float, float]:
        """Inserts from many connections at once; returns rows a second and Postgres' processor time a row."""
        table = "mentioning" if mentions else "plain"
        rows_before, cpu_before = self._count(table), processes.cpu_seconds([self._database.postgres_pid])
        outcome = pgbench.run(
            self._database.url,
            _MENTIONING if mentions else _PLAIN,
            clients=CONNECTIONS,
            seconds=seconds,
            variables=self._variables,
        )
        cpu = processes.cpu_seconds([self._database.postgres_pid]) - cpu_before
        rows = self._count(table) - rows_before
        if rows != outcome.transactions:
            raise MeasurementError(f"pgbench made {outcome.transactions} transactions, but {rows} rows")
        return outcome.per_second, cpu / rows

    def _count(self, table: str) -> int:
        with self._database.connect() as connection:
            counts = connection.execute(
                "select (select count(*) from yardstick.plain) as plain,"
                " (select count(*) from yardstick.mentioning) as mentioning,"
                " (select count(*) from yardstick.mentions) as mentions"
            ).fetchone()
        if counts is None or counts.mentions != counts.mentioning:
            raise MeasurementError("the trigger did not write a mention for each row")
        rows: int = getattr(counts, table)
        return rows
