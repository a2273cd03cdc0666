"""Traces: what an OpenTelemetry collector receives, over real OTLP, of a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from agentchat_proto.v1 import message_service_pb2, message_service_pb2_grpc
from tests.board import DEADLINE, Board, Failure
from tests.serving import Server, eventually, serving

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"


@dataclass
class Collector:
    """What was received: spans, and the resources that they are of."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    def receive(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        """Takes an export."""
        for resource in request.resource_spans:
            self.resources.append(_attributes(resource.resource))
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Span]:
        """The spans of a name."""
        return [span for span in self.spans if span.name == name]


def _attributes(holder: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}


@asynccontextmanager
async def grpc_collector() -> AsyncIterator[Collector]:
    """Receives OTLP over gRPC."""
    collector = Collector()

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        async def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:
            collector.receive(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.aio.server()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(Service(), server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


@contextmanager
def http_collector() -> Iterator[Collector]:
    """Receives OTLP over HTTP."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.receive(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        collector.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join(DEADLINE)


async def call(server: Server, key: str, method: str, request: Any) -> Any:
    """A call of the agent ada, within a trace, that names itself `from-the-test`."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub: Any = message_service_pb2_grpc.MessageServiceStub(channel)
        return await getattr(stub, method)(
            request,
            timeout=DEADLINE,
            metadata=(
                ("x-agent-api-key", key),
                ("x-agent-name", "ada"),
                ("x-request-id", "from-the-test"),
                ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"),
            ),
        )


async def test_a_call_and_its_statements_are_spans_of_the_callers_trace(tmp_path: Path, board: Board) -> None:
    key = await board.machine("testbed")
    async with (
        grpc_collector() as collector,
        serving(
            tmp_path / "output",
            board.database_url,
            "--log-level=debug",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_BSP_SCHEDULE_DELAY="50",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        ) as server,
    ):
        send = message_service_pb2.SendMessageRequest(channel="general", content="a secret of ada")
        await call(server, key, "SendMessage", send)
        (span,) = await eventually(lambda: collector.named("agentchat.v1.MessageService/SendMessage"))
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
        assert span.kind == Span.SPAN_KIND_SERVER
        assert _attributes(span) == {
            "rpc.system": "grpc",
            "rpc.service": "agentchat.v1.MessageService",
            "rpc.method": "SendMessage",
            "rpc.grpc.status_code": 0,
            "agentchat.agent": "ada",
            "agentchat.request_id": "from-the-test",
        }

        (lookup,) = await eventually(lambda: collector.named("authenticate"))
        assert (lookup.trace_id, lookup.parent_span_id) == (span.trace_id, span.span_id)
        assert _attributes(lookup)["db.system.name"] == "postgresql"
        assert "authenticate" in _attributes(lookup)["db.query.text"]

        (batch,) = await eventually(lambda: collector.named("send_batch"))
        assert not batch.parent_span_id
        assert [(link.trace_id, link.span_id) for link in batch.links] == [(span.trace_id, span.span_id)]
        assert _attributes(batch)["db.operation.batch.size"] == 1

        resource = collector.resources[0]
        assert resource["service.name"] == "agentchat"
        assert resource["deployment.environment.name"] == "test"
        (line,) = (line for line in server.log() if line.get("event") == "call")
        assert (line["trace_id"], line["request_id"]) == (TRACE_ID, "from-the-test")
        assert "secret" not in str(collector.spans)
        assert key not in str(collector.spans)


async def test_a_refusal_is_on_the_span_and_only_the_servers_faults_are_errors(
    tmp_path: Path, board: Board
) -> None:
    key = await board.machine("testbed")
    with http_collector() as collector:
        async with serving(
            tmp_path / "output",
            board.database_url,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_SERVICE_NAME="my-board",
        ) as server:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(
                    server, key, "ListMessages", message_service_pb2.ListMessagesRequest(channel="nowhere")
                )
            assert Failure(refused.value).reason == "CHANNEL_NOT_FOUND"
            assert collector.spans == []
        # The server sends what it has when it stops.
        (span,) = collector.named("agentchat.v1.MessageService/ListMessages")
        assert _attributes(span)["agentchat.reason"] == "CHANNEL_NOT_FOUND"
        assert _attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
        assert span.status.code == Status.STATUS_CODE_UNSET
        assert collector.resources[0]["service.name"] == "my-board"


async def test_a_collector_that_is_away_costs_no_call_and_no_long_wait_at_the_end(
    tmp_path: Path, board: Board
) -> None:
    key = await board.machine("testbed")
    async with serving(
        tmp_path / "output", board.database_url, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"
    ) as server:
        read = message_service_pb2.ListMessagesRequest(channel="general")
        for _ in range(3):
            await call(server, key, "ListMessages", read)
        async with asyncio.timeout(DEADLINE):
            assert await asyncio.to_thread(server.stop) == 0


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_RESOURCE_ATTRIBUTES": "service.name=x"},
    ],
)
async def test_nothing_is_traced_unless_it_is_asked_for(
    tmp_path: Path, board: Board, environment: dict[str, str]
) -> None:
    key = await board.machine("testbed")
    async with serving(tmp_path / "output", board.database_url, "--log-level=debug", **environment) as server:
        await call(server, key, "ListMessages", message_service_pb2.ListMessagesRequest(channel="general"))
        (line,) = await eventually(lambda: [line for line in server.log() if line.get("event") == "call"])
        assert "trace_id" not in line


def test_a_worker_without_metrics_and_traces_loads_nothing_for_them() -> None:
    code = "import sys, agentchat_server.worker; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "agentchat_server" in loaded
    assert not loaded & {"opentelemetry", "prometheus_client", "requests"}


async def test_an_exporter_that_is_not_installed_is_named(tmp_path: Path, board: Board) -> None:
    with pytest.raises(AssertionError, match="OTEL_TRACES_EXPORTER: no exporter smoke-signals is installed"):
        async with serving(tmp_path / "output", board.database_url, OTEL_TRACES_EXPORTER="smoke-signals"):
            pass
