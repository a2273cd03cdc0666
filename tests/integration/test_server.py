"""The server around its services: errors, health, reflection, logs, and what happens under pressure."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import MutableMapping
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from agentchat_proto.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    board_service_pb2,
    channel_service_pb2,
    file_service_pb2,
    mention_service_pb2,
    message_service_pb2,
    search_service_pb2,
)
from agentchat_server.application import SERVICE_NAMES
from agentchat_server.calls import add_call
from tests.board import DEADLINE, Board, Failure, Stubs

SERVICE_MODULES: tuple[Any, ...] = (
    admin_service_pb2,
    agent_service_pb2,
    board_service_pb2,
    channel_service_pb2,
    file_service_pb2,
    mention_service_pb2,
    message_service_pb2,
    search_service_pb2,
)
METHODS = [
    (service.full_name, method.name, method.client_streaming, method.server_streaming)
    for module in SERVICE_MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

METHODS_OF_GRPC = [
    ("grpc.health.v1.Health", "Check", False, False),
    ("grpc.health.v1.Health", "Watch", False, True),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", True, True),
]


async def raw_call(
    board: Board, service: str, method: str, streams: tuple[bool, bool], data: bytes
) -> Failure:
    """Sends raw bytes to a method; returns how it failed."""
    path = f"/{service}/{method}"
    metadata = (("x-agent-api-key", await board.machine("fuzzer")), ("x-admin-key", board.admin_key))
    call: Any
    channel: Any = board.channel
    match streams:
        case (False, False):
            call = channel.unary_unary(path)(data, metadata=metadata, timeout=5)
        case (False, True):
            call = channel.unary_stream(path)(data, metadata=metadata, timeout=5)
        case (True, False):
            call = channel.stream_unary(path)(iter([data]), metadata=metadata, timeout=5)
        case _:
            call = channel.stream_stream(path)(iter([data]), metadata=metadata, timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await (call.read() if streams[1] else call)
    return Failure(error.value)


async def test_bytes_that_are_no_message_are_an_invalid_argument_everywhere(file_board: Board) -> None:
    assert len(METHODS) > 30
    for service, method, *streams in (*METHODS, *METHODS_OF_GRPC):
        failure = await raw_call(
            file_board, service, method, (streams[0], streams[1]), b"\xff\xff\xff not protobuf"
        )
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "REQUEST_UNDECODABLE",
        ), method


async def test_an_unknown_method_is_unimplemented(board: Board) -> None:
    failure = await raw_call(board, "agentchat.v1.MessageService", "Nonsense", (False, False), b"")
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED


async def test_every_service_is_healthy_and_reflected_without_a_key(board: Board) -> None:
    health: Any = health_pb2_grpc.HealthStub(board.channel)
    for name in ("", *SERVICE_NAMES):
        response = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    channel: Any = board.channel
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = [response async for response in reflection.ServerReflectionInfo(iter([request]))]
    listed = {service.name for service in answer.list_services_response.service}
    assert listed >= {service for service, *_ in METHODS} | {"grpc.health.v1.Health"}


async def test_reflection_answers_however_many_ask_at_once(board: Board) -> None:
    channel: Any = board.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    calls = [stub.ServerReflectionInfo(timeout=DEADLINE) for _ in range(50)]
    for call in calls:
        await call.write(request)
        assert (await call.read()).HasField("list_services_response")
    for call in calls:
        call.cancel()


async def test_a_stopping_server_is_not_healthy(database_url: str, owner_url: str) -> None:
    async with Board.serve(database_url, owner_url) as board:
        health: Any = health_pb2_grpc.HealthStub(board.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(board.application.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


async def test_a_defect_tells_its_request_id_and_nothing_else(board: Board) -> None:
    (ada,) = await board.agents("ada")
    async with board.sql() as owner:
        await owner.execute("alter table agentchat.messages add check (content <> 'poison')")
    stubs = Stubs(
        board.channel,
        (("x-agent-api-key", ada.key), ("x-agent-name", "ada"), ("x-request-id", "find-me-123")),
    )
    request = message_service_pb2.SendMessageRequest(channel="general", content="poison")
    with (
        capture_logs(processors=[add_call]) as logged,
        pytest.raises(Failure) as failure,
    ):
        await stubs.messages.SendMessage(request)
    assert (failure.value.code, failure.value.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert failure.value.metadata == {"request_id": "find-me-123"}
    assert "find-me-123" in failure.value.message
    for secret in ("check", "constraint", "messages", "psycopg", "/"):
        assert secret not in failure.value.message
    assert any(line.get("request_id") == "find-me-123" and line.get("exc_info") for line in logged)
    # Postgres quotes the row; the log does not.
    assert not any("poison" in "".join(_told(line)) for line in logged)


def _told(line: MutableMapping[str, Any]) -> list[str]:
    """A log line in words, with the trace of its exception."""
    error = line.get("exc_info")
    trace = traceback.format_exception(error) if isinstance(error, BaseException) else []
    return [str(line), *trace]


async def test_one_bad_message_does_not_take_its_batch_along(board: Board) -> None:
    (ada,) = await board.agents("ada")
    async with board.sql() as owner:
        await owner.execute("alter table agentchat.messages add check (content <> 'poison')")
    contents = [f"good {number}" for number in range(60)]
    contents[13] = contents[37] = "poison"
    results = await asyncio.gather(
        *(ada.send("general", content) for content in contents), return_exceptions=True
    )
    failed = [index for index, result in enumerate(results) if isinstance(result, Failure)]
    assert failed == [13, 37]
    assert len((await ada.read("general", page_size=200)).messages) == 58


async def test_a_full_queue_refuses_with_a_delay_and_loses_nothing(database_url: str, owner_url: str) -> None:
    async with Board.serve(database_url, owner_url, queue_rows=10, batch_rows=5) as board:
        (ada,) = await board.agents("ada")
        async with board.sql() as owner, owner.transaction():
            await owner.execute("select from agentchat.log_position for update")
            posts = [asyncio.create_task(ada.send("general", f"{n}")) for n in range(50)]
            refused: list[Failure] = []
            while len(refused) < 30:
                done, _ = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
                posts = [post for post in posts if post not in done]
                refused += [error for post in done if isinstance(error := post.exception(), Failure)]
        results = await asyncio.gather(*posts, return_exceptions=True)
        refused += [result for result in results if isinstance(result, Failure)]
        for failure in refused:
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "WRITE_QUEUE_FULL",
            )
            assert failure.retry is not None
            assert failure.retry.retry_delay.ToMilliseconds() > 0
        assert len((await ada.read("general", page_size=200)).messages) == 50 - len(refused) > 0


async def test_a_database_that_does_not_answer_is_a_deadline_exceeded(
    database_url: str, owner_url: str
) -> None:
    settings = {"statement_timeout": 0.2, "write_patience": 0.5}
    async with Board.serve(database_url, owner_url, **settings) as board:
        (ada,) = await board.agents("ada")
        async with board.sql() as owner, owner.transaction():
            await owner.execute("select from agentchat.log_position for update")
            with pytest.raises(Failure) as failure:
                await ada.send("general", "stuck")
        assert (failure.value.code, failure.value.reason) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "DATABASE_TIMEOUT",
        )
        await ada.send("general", "works again")
