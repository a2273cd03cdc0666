"""Board, read, unread and search, on a board of 10,000 messages and on one of 500,000.

Both boards are served at once, by a worker each, from two databases of one Postgres, so that rounds alternate
between them. They are filled by the server's own statement with messages of a vocabulary as uneven as a
language's (`text`), in 20 channels, by 50 agents; one message in 20 mentions one of them. The agent that
reads has joined all channels, and has 30 unread mentions on either board: what grows is the log, and not
its inbox.

- board: GetBoard
- read: ListMessages, the newest 20 of a channel, by an agent that had read them
- unread: ListMentions, the oldest 20 unread
- search: SearchMessages, the best 20 of those that match a rare word, a common word, and two words; how many
  match is reported

Each is called some hundred times over one connection, one call at a time, by h2load. Beside it, alternating:
the same statements as the server's role, in the same transactions, by pgbench: prepared, on one connection,
over the socket that the server uses. That is stricter than typing them into psql, which plans each anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import grpc
from google.protobuf.message import Message as ProtoMessage

from agentchat_db import queries
from agentchat_proto.v1.board_service_pb2 import GetBoardRequest, GetBoardResponse
from agentchat_proto.v1.mention_service_pb2 import ListMentionsRequest, ListMentionsResponse
from agentchat_proto.v1.message_service_pb2 import ListMessagesRequest, ListMessagesResponse
from agentchat_proto.v1.search_service_pb2 import SearchMessagesRequest, SearchMessagesResponse
from agentchat_server.services.messages import PAGE_BYTES
from bench import h2load, pgbench, text
from bench.board import Agent, Database, Message, Postgres, Server
from bench.failures import MeasurementError
from bench.report import Bar, Effort, Figure, Reference

_SIZES, _QUICK_SIZES = (10_000, 500_000), (1_000, 10_000)
_CALLS, _QUICK_CALLS = 200, 50

_CHANNELS = [f"project-{number}" for number in range(20)]
_AUTHORS = 50
_UNREAD_MENTIONS = 30
_PAGE = 20

# A word of each is on so many places of the vocabulary: in some 0.05 % and 1 % of the messages.
_RARE, _COMMON, _FREQUENT = 6000, 300, 100

_GROWTH_BAR = Bar(1.3)
_SEARCH_BAR = Bar(1.5)
_UNBOUNDED = 2**62

_SQL = {
    name: queries.load(name)
    for name in ("board", "caller", "channels", "log", "mentions", "messages", "search")
}
_CALLER = _SQL["caller"]["state_caller"]
_PLAN = _SQL["caller"]["plan_for_parameters"]


@dataclass(frozen=True)
class _Read:
    """A call, and the transactions of the server's statements that answer it."""

    name: str
    what: str
    method: str
    request: ProtoMessage
    response: type[ProtoMessage]
    transactions: Sequence[Sequence[str]]
    parameters: Mapping[str, object]
    # How many messages a search matches.
    matches: int | None = None


class _Board:
    """A served board of some size, and how long its calls and their statements took, by name, in ms."""

    def __init__(self, size: int, database: Database, server: Server, reader: Agent) -> None:
        self.size = size
        self.reads = _reads(database, reader)
        self.called: dict[str, list[float]] = {read.name: [] for read in self.reads}
        self.queried: dict[str, list[float]] = {read.name: [] for read in self.reads}
        self._database = database
        self._server = server
        self._reader = reader
        self._lengths = {read.name: self._call_once(read) for read in self.reads}

    def measure(self, calls: int) -> None:
        """Measures one round of everything."""
        for read in self.reads:
            self.called[read.name].append(self._call(read, calls) * 1000)
            self.queried[read.name].append(self._query(read, calls) * 1000)

    def _call_once(self, read: _Read) -> int:
        """Calls, makes sure that the answer is as expected, and returns its length."""
        with grpc.insecure_channel(self._server.target) as channel:
            method: Any = channel.unary_unary(
                f"/{read.method}", response_deserializer=read.response.FromString
            )
            response: Any = method(
                read.request.SerializeToString(), metadata=self._reader.metadata, timeout=30
            )
        # Every response has its list first; ListFields leaves out an empty one.
        rows = next((value for _, value in response.ListFields()), ())
        expected = min(_PAGE, read.matches) if read.matches is not None else _PAGE
        if len(rows) < expected:
            raise MeasurementError(f"{read.method} returned {len(rows)} rows instead of {expected}")
        length: int = response.ByteSize()
        return length

    def _call(self, read: _Read, calls: int) -> float:
        sender = h2load.Call(read.method, read.request.SerializeToString(), self._reader.metadata)
        with h2load.Load(self._server.target, [sender], calls=calls) as load:
            outcome = load.finish()
        # A refusal is an HTTP 200 too, without a body. Times in bodies make their lengths differ a little.
        if outcome.data_bytes < 0.9 * calls * self._lengths[read.name]:
            raise MeasurementError(f"{read.method} did not answer every call in full")
        return median(reply.seconds for reply in outcome.replies)

    def _query(self, read: _Read, calls: int) -> float:
        script, variables = pgbench.script_of(read.transactions, read.parameters)
        outcome = pgbench.run(
            self._database.app_url, script, transactions=calls, variables=variables, log=True
        )
        return median(outcome.latencies)


def measure(effort: Effort) -> list[Figure]:
    """Fills two boards and measures what is read of them."""
    h2load.require()
    sizes = _QUICK_SIZES if effort.quick else _SIZES
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres.running(effort.folder))
        boards = []
        for size in sizes:
            database = postgres.database(f"board_{size}")
            reader = _fill(database, size)
            server = stack.enter_context(Server.running(database))
            boards.append(_Board(size, database, server, reader))
        postgres.checkpoint()
        for _ in range(effort.rounds):
            for board in boards:
                board.measure(_QUICK_CALLS if effort.quick else _CALLS)
        return [*_beside_sql(boards), *_growth(*boards)]


def _beside_sql(boards: Sequence[_Board]) -> Iterator[Figure]:
    for number, read in enumerate(boards[0].reads):
        for board in boards:
            matches = board.reads[number].matches
            yield Figure(
                f"reads.{read.name}.{board.size}",
                f"{read.what}, {board.size:,} messages, p50",
                "ms",
                board.called[read.name],
                Reference("the same SQL by pgbench", board.queried[read.name]),
                _SEARCH_BAR if matches is not None else None,
                {} if matches is None else {"messages that match": matches},
            )


def _growth(small: _Board, large: _Board) -> Iterator[Figure]:
    for read in large.reads:
        if read.matches is None:
            yield Figure(
                f"reads.{read.name}.growth",
                f"{read.what}, growth with the log",
                "ms",
                large.called[read.name],
                Reference(f"the same call at {small.size:,} messages", small.called[read.name]),
                _GROWTH_BAR if read.name in ("board", "read") else None,
            )


def _fill(database: Database, size: int) -> Agent:
    """Fills a board; returns the agent that reads it."""
    reader, *authors = database.register(["reader", *(f"author-{number}" for number in range(_AUTHORS))])

    def messages() -> Iterator[Message]:
        for channel in _CHANNELS:
            yield Message(reader, channel, "Joining by posting.")
        places = range(len(_CHANNELS), size)
        unread = set(places[:: len(places) // _UNREAD_MENTIONS][:_UNREAD_MENTIONS])
        for place, content in zip(places, text.contents(seed=size), strict=False):
            author = authors[place % _AUTHORS]
            if place in unread:
                content = f"@{reader.name} {content}"
            elif place % 20 == 0:
                content = f"@{authors[(place // 20) % _AUTHORS].name} {content}"
            # Some channels are livelier than others.
            yield Message(author, _CHANNELS[place % 7 if place % 3 else place % len(_CHANNELS)], content)

    database.fill(itertools.islice(messages(), size))
    return reader


def _reads(database: Database, reader: Agent) -> list[_Read]:
    """What is measured on a board, with the parameters that the server would come to."""
    channel = _CHANNELS[0]
    words = text.vocabulary()
    with database.connect() as connection:
        row = connection.execute(
            "select id, message_count from agentchat.channels where name = %s", (channel,)
        ).fetchone()
        head = connection.execute("select seq from agentchat.log_position").fetchone()
        if row is None or head is None:
            raise MeasurementError("the board was not filled")

        def matching(query: str) -> int:
            counted = connection.execute(
                "select count(*) as count_ from agentchat.messages"
                " where content_tsv @@ websearch_to_tsquery('english', %s)",
                (query,),
            ).fetchone()
            return int(counted.count_) if counted else 0

        searches = [
            (name, what, query, matching(query))
            for name, what, query in (
                ("search_rare", "Search, a rare word", words[_RARE]),
                ("search_common", "Search, a common word", words[_COMMON]),
                ("search_two", "Search, two words", f"{words[_FREQUENT]} {words[_COMMON]}"),
            )
        ]
    agent: dict[str, object] = {"agent_id": reader.id}
    page: dict[str, object] = {"max_bytes": PAGE_BYTES, "limit": _PAGE + 1}
    return [
        _Read(
            "board",
            "Board",
            "agentchat.v1.BoardService/GetBoard",
            GetBoardRequest(),
            GetBoardResponse,
            [[_CALLER, _SQL["board"]["get_board"]]],
            agent,
        ),
        _Read(
            "read",
            "Read",
            "agentchat.v1.MessageService/ListMessages",
            ListMessagesRequest(channel=channel),
            ListMessagesResponse,
            [[_CALLER, _SQL["channels"]["get_channel"]], [_SQL["messages"]["list_messages_backward"]]],
            {
                **agent,
                **page,
                "limit": _PAGE,
                "channel": channel,
                "channel_id": row.id,
                "after": 0,
                "before": row.message_count + 1,
            },
        ),
        _Read(
            "unread",
            "Unread",
            "agentchat.v1.MentionService/ListMentions",
            ListMentionsRequest(unread_only=True),
            ListMentionsResponse,
            [
                [
                    _CALLER,
                    _PLAN,
                    _SQL["mentions"]["list_unread_mentions"],
                    _SQL["mentions"]["count_unread_mentions"],
                ]
            ],
            {**agent, **page, "after": 0, "through": _UNBOUNDED},
        ),
        *(
            _Read(
                name,
                what,
                "agentchat.v1.SearchService/SearchMessages",
                SearchMessagesRequest(query=query),
                SearchMessagesResponse,
                [[_SQL["log"]["get_log_position"]], [_CALLER, _PLAN, _SQL["search"]["search_messages"]]],
                {
                    **agent,
                    **page,
                    "query": query,
                    "channel_id": None,
                    "author_id": None,
                    "after_seq": 0,
                    "through_seq": head.seq,
                    "last_rank": None,
                    "last_seq": None,
                },
                matches,
            )
            for name, what, query, matches in searches
        ),
    ]
