"""Sends: 64 senders that each post as fast as their posts are answered, to 1 and to 2 workers.

Every sender has a connection of its own, so that they spread over the workers evenly enough; the split is
reported. Eight processes of h2load have eight senders each, and are an agent each: a process for every sender
would itself cost a tenth of what the server costs. All post the same 200 characters to one channel, plain,
and with a mention in front: each process mentions one of 64 agents, another one every round.

What is counted is what is in the log: its counter before and after a window in the middle of the load, when
all senders are at work. It is checked against the rows of the tables, and no more answers may have come than
rows were written. Latencies are those of the calls that began and ended in the window. A batch is a
transaction, and so has one xmin: that tells how many messages a batch had.

Beside it, alternating: the same message inserted by pgbench (`yardstick`), and the empty gRPC call, a health
check, which shows what the senders and gRPC are capable of without a database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from agentchat_proto.v1.message_service_pb2 import SendMessageRequest
from bench import h2load, processes
from bench.board import Agent, Postgres, Server
from bench.failures import MeasurementError
from bench.report import Bar, Effort, Figure, Reference, percentile
from bench.text import MESSAGE
from bench.yardstick import CONNECTIONS, Yardstick

# Those who post, the connections of each, and those who are mentioned.
AUTHORS, CONNECTIONS_EACH, AGENTS = 8, 8, 64

_PREFIX = "agent-"
_NAMES = [f"{_PREFIX}{number}" for number in range(AGENTS)]
_CHANNEL = "general"
_WARM_UP = 1.5
_SEND = "agentchat.v1.MessageService/SendMessage"
_HEALTH_CHECK = "grpc.health.v1.Health/Check"

# The bars, for two workers.
_PLAIN_BAR = Bar(0.7, at_least=True)
_MENTIONS_BAR = Bar(2.5, at_least=True)


@dataclass(frozen=True)
class _Sample:
    """Counts at one moment. Times are in seconds: since 1970, and of processors."""

    at: float
    seq: int
    workers: tuple[float, ...]
    postgres: float
    senders: float


@dataclass(frozen=True)
class _Round:
    """One round's measurement of one kind of call; processor times are in µs a call."""

    per_second: float
    p50_ms: float
    p99_ms: float
    batch: float
    workers_us: float
    postgres_us: float
    senders_us: float
    # How many cores all three kept busy.
    busy_cores: float
    # What the worker with the least work did, as a share of all that workers did.
    least_share: float


def measure(effort: Effort) -> list[Figure]:
    """Measures sends for 1 and 2 workers."""
    h2load.require()
    figures: list[Figure] = []
    with Postgres.running(effort.folder) as postgres:
        reference = postgres.database("yardstick")
        yardstick = Yardstick(reference, reference.register(_NAMES), _PREFIX)
        for workers in (1, 2):
            database = postgres.database(f"board_{workers}")
            agents = database.register(_NAMES)
            with Server.running(database, workers=workers) as server:
                figures += _measure_server(effort, postgres, yardstick, server, agents)
    return figures


def _measure_server(
    effort: Effort, postgres: Postgres, yardstick: Yardstick, server: Server, agents: Sequence[Agent]
) -> list[Figure]:
    senders = _Senders(server, agents, effort.seconds)
    inserted: dict[bool, list[float]] = {False: [], True: []}
    inserted_us: dict[bool, list[float]] = {False: [], True: []}
    sent: dict[bool, list[_Round]] = {False: [], True: []}
    empty: list[_Round] = []
    for number in range(effort.rounds):
        for mentions in (False, True):
            postgres.checkpoint()
            rate, cpu = yardstick.insert(effort.seconds, mentions=mentions)
            inserted[mentions].append(rate)
            inserted_us[mentions].append(cpu * 1e6)
            postgres.checkpoint()
            sent[mentions].append(senders.send(number, mentions=mentions))
        empty.append(senders.check_health())

    workers = len(server.worker_pids)
    named = "1 worker" if workers == 1 else f"{workers} workers"
    floor = [each.per_second for each in empty]
    figures = [
        Figure(
            f"sends.{workers}.empty",
            f"Empty calls, {named}",
            "/s",
            floor,
            details=_details(empty, batch=False),
        )
    ]
    for mentions, kind, bar in ((False, "plain", _PLAIN_BAR), (True, "mentions", _MENTIONS_BAR)):
        rounds = sent[mentions]
        rates = [each.per_second for each in rounds]
        trigger = ", trigger and NOTIFY" if mentions else ""
        figures.append(
            Figure(
                f"sends.{workers}.{kind}",
                f"Sends, {kind}, {named}",
                "/s",
                rates,
                Reference(
                    f"pgbench, a row a transaction{trigger}, {CONNECTIONS} connections", inserted[mentions]
                ),
                bar if workers == 2 else None,
                {
                    **_details(rounds, batch=True),
                    "Postgres' µs/row of pgbench": median(inserted_us[mentions]),
                    "of the empty calls' rate": median(rates) / median(floor),
                },
            )
        )
    return figures


class _Senders:
    """The senders and what they call."""

    def __init__(self, server: Server, agents: Sequence[Agent], seconds: float) -> None:
        self._server = server
        self._agents = agents
        self._seconds = seconds

    def send(self, round_number: int, *, mentions: bool) -> _Round:
        """Posts for a while.

        Raises `MeasurementError` when a post was answered but not written.
        """
        calls = []
        for number, agent in enumerate(self._agents[:AUTHORS]):
            # Never the author itself, which would be no mention.
            mentioned = self._agents[(number + 1 + round_number * AUTHORS) % AGENTS]
            content = f"@{mentioned.name} {MESSAGE}" if mentions else MESSAGE
            request = SendMessageRequest(channel=_CHANNEL, content=content).SerializeToString()
            calls.append(h2load.Call(_SEND, request, agent.metadata))
        with self._server.database.connect() as connection:

            def seq() -> int:
                row = connection.execute("select seq from agentchat.log_position").fetchone()
                head: int = row.seq if row else 0
                return head

            first = seq()
            measured, before, after, answered = self._run(calls, seq)
            counted = connection.execute(
                "select count(*) as messages, count(distinct m.xmin::text) as batches,"
                " (select seq from agentchat.log_position) as last,"
                " (select count(*) from agentchat.messages where seq > %(first)s) as written,"
                " (select count(*) from agentchat.mentions where seq > %(first)s) as mentions"
                " from agentchat.messages m where m.seq > %(before)s and m.seq <= %(after)s",
                {"first": first, "before": before, "after": after},
            ).fetchone()
        if counted is None or counted.messages != after - before or counted.written != counted.last - first:
            raise MeasurementError("the log's counter and the rows of the table disagree")
        if counted.written < answered:
            raise MeasurementError(f"{answered} posts were answered, but only {counted.written} were written")
        if counted.mentions != (counted.written if mentions else 0):
            raise MeasurementError(f"{counted.written} posts made {counted.mentions} mentions")
        return replace(measured, batch=counted.messages / counted.batches)

    def check_health(self) -> _Round:
        """Makes empty calls for a while."""
        measured, *_ = self._run([h2load.Call(_HEALTH_CHECK)] * AUTHORS, None)
        return measured

    def _run(
        self, calls: Sequence[h2load.Call], seq: Callable[[], int] | None
    ) -> tuple[_Round, int, int, int]:
        """Runs a load and measures a window of it; counts by `seq`, or else by answers.

        Returns the measurement, the counts at the window's ends, and the answers of the whole load.
        """
        duration = _WARM_UP + self._seconds + 0.5
        with h2load.Load(self._server.target, calls, connections=CONNECTIONS_EACH, seconds=duration) as load:
            time.sleep(_WARM_UP)
            before = self._sample(load, seq)
            time.sleep(self._seconds)
            after = self._sample(load, seq)
            replies = load.finish().replies
        inside = [
            reply
            for reply in replies
            if reply.sent_at >= before.at and reply.sent_at + reply.seconds <= after.at
        ]
        if not inside:
            raise MeasurementError("no call was answered in the time that was measured")
        latencies = [reply.seconds * 1000 for reply in inside]
        took = after.at - before.at
        count = after.seq - before.seq if seq else len(inside)
        if not count:
            raise MeasurementError(f"{len(replies)} posts were answered, but none was written")
        workers = [late - early for early, late in zip(before.workers, after.workers, strict=True)]
        postgres, senders = after.postgres - before.postgres, after.senders - before.senders
        measured = _Round(
            per_second=count / took,
            p50_ms=percentile(latencies, 50),
            p99_ms=percentile(latencies, 99),
            batch=0.0,
            workers_us=sum(workers) / count * 1e6,
            postgres_us=postgres / count * 1e6,
            senders_us=senders / count * 1e6,
            busy_cores=(sum(workers) + postgres + senders) / took,
            least_share=min(workers) / sum(workers) if sum(workers) else 0.0,
        )
        return measured, before.seq, after.seq, len(replies)

    def _sample(self, load: h2load.Load, seq: Callable[[], int] | None) -> _Sample:
        return _Sample(
            seq=seq() if seq else 0,
            at=time.time(),
            workers=tuple(processes.cpu_seconds([pid]) for pid in self._server.worker_pids),
            postgres=processes.cpu_seconds([self._server.database.postgres_pid]),
            senders=processes.cpu_seconds(load.pids),
        )


def _details(rounds: Sequence[_Round], *, batch: bool) -> dict[str, float | str]:
    def of(name: str) -> float:
        return median(float(getattr(each, name)) for each in rounds)

    details: dict[str, float | str] = {"p50 ms": of("p50_ms"), "p99 ms": of("p99_ms")}
    if batch:
        details["messages a batch"] = of("batch")
    if processes.AVAILABLE:
        details["workers' µs/call"] = of("workers_us")
        details["Postgres' µs/call"] = of("postgres_us")
        details["senders' µs/call"] = of("senders_us")
        details["busy cores"] = of("busy_cores")
        details["least worker's share"] = of("least_share")
    return details
