"""Deadlines, retries and reconnects, against a server that fails as it is told."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from agentchat import (
    AdminClient,
    AgentChatClient,
    AgentChatError,
    AsyncAdminClient,
    AsyncAgentChatClient,
    CursorError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from agentchat._backoff import Backoff, reconnect_delay, retry_delay
from agentchat_proto.v1 import admin_service_pb2, mention_service_pb2, message_pb2, message_service_pb2

wire = message_service_pb2
Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Any]


class ScriptedServer:
    """Answers the calls of each method with one behaviour after the other, the last one for good."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.script: dict[str, list[Behaviour]] = {}
        self.target = ""
        self._types = {
            "SendMessage": wire.SendMessageRequest,
            "WatchMessages": wire.WatchMessagesRequest,
            "WatchMentions": mention_service_pb2.WatchMentionsRequest,
            "CreateMachineKey": admin_service_pb2.CreateMachineKeyRequest,
            "RemoveAgent": admin_service_pb2.RemoveAgentRequest,
            "GetMessage": wire.GetMessageRequest,
        }

    def handler(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method.rpartition("/")[2]
        request_type: Any = self._types[name]

        def take(request: Any) -> Behaviour:
            self.requests.append(request)
            behaviours = self.script[name]
            return behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]

        async def unary(request: Any, context: Any) -> Any:
            return await take(request)(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in take(request)(request, context):
                yield response

        make: Any = (
            grpc.unary_stream_rpc_method_handler if "Watch" in name else grpc.unary_unary_rpc_method_handler
        )
        return make(
            stream if "Watch" in name else unary,
            request_deserializer=request_type.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()

    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return scripted.handler(handler_call_details)

    served = grpc.aio.server()
    served.add_generic_rpc_handlers((Handlers(),))
    scripted.target = f"127.0.0.1:{served.add_insecure_port('127.0.0.1:0')}"
    await served.start()
    yield scripted
    await served.stop(0)


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[AsyncAgentChatClient]:
    async with AsyncAgentChatClient(server.target, "ack_x", "laptop-x") as opened:
        yield opened


def failing(
    code: grpc.StatusCode, reason: str = "", *, retry_after: float | None = None, **metadata: str
) -> Behaviour:
    """Fails a call as our server does."""

    async def fail(_: Any, context: Any) -> None:
        status = status_pb2.Status(code=code.value[0], message=f"scripted {reason}")
        details: list[Any] = []
        if reason:
            details.append(error_details_pb2.ErrorInfo(domain="agentchat", reason=reason, metadata=metadata))
        if retry_after is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(int(retry_after * 1000))
            details.append(retry)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        trailing = (("grpc-status-details-bin", status.SerializeToString()),) if details else ()
        await context.abort(code, f"scripted {reason}", trailing)

    return fail


def broken(code: grpc.StatusCode, reason: str = "", **options: Any) -> Behaviour:
    """Fails a stream at once."""

    async def fail(request: Any, context: Any) -> AsyncIterator[Any]:
        await failing(code, reason, **options)(request, context)
        yield

    return fail


def answering(response: Any) -> Behaviour:
    async def answer(*_: Any) -> Any:
        return response

    return answer


async def hanging(*_: Any) -> None:
    await asyncio.Event().wait()


def posted(seq: int) -> wire.WatchMessagesResponse:
    event = wire.MessagePosted(message=message_pb2.Message(seq=seq))
    return wire.WatchMessagesResponse(message_posted=event, cursor=f"c{seq}")


def checkpoint(cursor: str) -> wire.WatchMessagesResponse:
    return wire.WatchMessagesResponse(checkpoint=wire.Checkpoint(), cursor=cursor)


def streaming(*responses: Any, then: Behaviour | None = None) -> Behaviour:
    """Sends some responses, then fails as told or stays silent."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        for response in responses:
            yield response
        await (then or hanging)(request, context)

    return stream


LOST = failing(grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")


async def test_a_message_is_sent_again_under_the_same_request_id_while_the_server_is_unavailable(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    server.script["SendMessage"] = [LOST, LOST, answering(wire.SendMessageResponse(replayed=True))]

    assert (await client.send_message("general", "hi")).replayed

    ids = [request.request_id for request in server.requests]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert len(ids[0]) == 36


async def test_two_messages_have_two_request_ids_and_the_callers_own_is_kept(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    server.script["SendMessage"] = [answering(wire.SendMessageResponse())]
    for request_id in (None, None, "mine"):
        await client.send_message("general", "hi", request_id=request_id)
    first, second, third = (request.request_id for request in server.requests)
    assert first != second
    assert third == "mine"


async def test_a_server_that_stays_unavailable_fails_the_call_at_its_deadline(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    server.script["SendMessage"] = [LOST]
    started = time.monotonic()
    with pytest.raises(UnavailableError) as gone:
        await client.send_message("general", "hi", timeout=0.6)
    assert time.monotonic() - started < 3
    assert gone.value.reason == "SERVER_STOPPING"
    assert len(server.requests) > 1


async def test_a_server_that_does_not_answer_fails_the_call_at_its_deadline(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    server.script["GetMessage"] = [hanging]
    with pytest.raises(DeadlineExceededError) as late:
        await client.get_message("x", timeout=0.2)
    assert server.target in late.value.message
    assert len(server.requests) == 1


async def test_a_default_timeout_covers_calls_that_state_none(server: ScriptedServer) -> None:
    server.script["GetMessage"] = [hanging]
    async with AsyncAgentChatClient(server.target, "k", timeout=0.2) as client:
        with pytest.raises(DeadlineExceededError):
            await client.get_message("x")


async def test_the_number_of_tries_can_be_limited(server: ScriptedServer) -> None:
    server.script["GetMessage"] = [LOST]
    async with AsyncAgentChatClient(server.target, "k", max_attempts=2) as client:
        with pytest.raises(UnavailableError):
            await client.get_message("x")
    assert len(server.requests) == 2


async def test_a_short_delay_that_the_server_asks_for_is_waited_for_and_a_long_one_is_not(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    limited = grpc.StatusCode.RESOURCE_EXHAUSTED
    server.script["SendMessage"] = [
        failing(limited, "WRITE_QUEUE_FULL", retry_after=0.05),
        answering(wire.SendMessageResponse()),
        failing(limited, "RATE_LIMITED", retry_after=30.0),
    ]
    await client.send_message("general", "hi")
    with pytest.raises(ResourceExhaustedError) as limit:
        await client.send_message("general", "hi")
    assert limit.value.retry_after == 30.0
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED]
)
async def test_other_failures_are_not_tried_again(
    server: ScriptedServer, client: AsyncAgentChatClient, code: grpc.StatusCode
) -> None:
    server.script["SendMessage"] = [failing(code)]
    with pytest.raises(AgentChatError):
        await client.send_message("general", "hi")
    assert len(server.requests) == 1


async def test_calls_of_an_administrator_that_do_something_else_twice_are_made_once(
    server: ScriptedServer,
) -> None:
    server.script["CreateMachineKey"] = server.script["RemoveAgent"] = [LOST]
    async with AsyncAdminClient(server.target, "aca_x") as admin:
        with pytest.raises(UnavailableError):
            await admin.create_machine_key("laptop")
        with pytest.raises(UnavailableError):
            await admin.remove_agent("laptop-x")
    with AdminClient(server.target, "aca_x") as blocking, pytest.raises(UnavailableError):
        await asyncio.to_thread(blocking.create_machine_key, "laptop")
    assert len(server.requests) == 3


async def test_a_watch_resumes_at_its_last_cursor_and_gives_each_event_once(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    async def end(*_: Any) -> None: ...

    server.script["WatchMessages"] = [
        streaming(checkpoint("c0"), posted(1), posted(2), then=LOST),
        # A checkpoint moves the cursor on without an event.
        streaming(checkpoint("c5"), then=failing(grpc.StatusCode.INTERNAL)),
        broken(grpc.StatusCode.CANCELLED),
        streaming(posted(6), then=end),
        streaming(posted(7)),
    ]
    told: list[AgentChatError] = []
    async with client.watch_messages(on_reconnect=lambda error, _: told.append(error)) as watch:
        async with asyncio.timeout(20):
            seen = [await anext(watch) for _ in range(4)]
    assert [event.seq for event in seen] == [1, 2, 6, 7]
    assert [event.cursor for event in seen] == ["c1", "c2", "c6", "c7"]
    assert [request.cursor for request in server.requests] == ["", "c2", "c5", "c5", "c6"]
    assert [error.code for error in told] == ["UNAVAILABLE", "INTERNAL", "CANCELLED", "UNAVAILABLE"]


async def test_a_silent_connection_is_given_up(server: ScriptedServer, client: AsyncAgentChatClient) -> None:
    server.script["WatchMessages"] = [streaming(posted(1)), streaming(posted(2))]
    told: list[AgentChatError] = []
    watch = client.watch_messages(on_reconnect=lambda error, _: told.append(error))
    watch._silence = 0.3
    async with asyncio.timeout(20):
        assert [(await anext(watch)).seq, (await anext(watch)).seq] == [1, 2]
    assert told[0].message == "no sign of life for 0.3 s"
    assert server.requests[1].cursor == "c1"
    await watch.close()


async def test_a_blocking_watch_gives_up_a_silent_connection_too(server: ScriptedServer) -> None:
    server.script["WatchMessages"] = [streaming(posted(1)), streaming(posted(2), posted(3))]

    def consume() -> list[int]:
        with AgentChatClient(server.target, "ack_x") as client:
            watch = client.watch_messages()
            watch._silence = 0.3
            first = next(watch).seq
            # Time that the consumer takes is no silence.
            time.sleep(0.5)
            return [first, next(watch).seq, next(watch).seq]

    async with asyncio.timeout(20):
        assert await asyncio.to_thread(consume) == [1, 2, 3]
    assert server.requests[-1].cursor == "c1"
    async with asyncio.timeout(10):
        while [t for t in threading.enumerate() if t.name == "agentchat-watchdog"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (broken(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_AHEAD", head="h"), CursorError),
        (broken(grpc.StatusCode.PERMISSION_DENIED, "AGENT_DEACTIVATED"), PermissionDeniedError),
        (broken(grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAM_LIMIT_REACHED"), ResourceExhaustedError),
        (broken(grpc.StatusCode.INTERNAL, "INTERNAL", request_id="r"), InternalError),
    ],
)
async def test_what_waiting_does_not_cure_ends_a_watch(
    server: ScriptedServer,
    client: AsyncAgentChatClient,
    behaviour: Behaviour,
    expected: type[AgentChatError],
) -> None:
    server.script["WatchMentions"] = [behaviour]
    watch = client.watch_mentions()
    with pytest.raises(expected):
        await anext(watch)
    assert [event async for event in watch] == []
    assert len(server.requests) == 1


async def test_start_keeps_an_event_that_came_first(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    server.script["WatchMessages"] = [streaming(posted(1), posted(2))]
    async with client.watch_messages(cursor="c0") as watch:
        await watch.start()
        await watch.start()
        assert [(await anext(watch)).seq, (await anext(watch)).seq] == [1, 2]
    assert [request.cursor for request in server.requests] == ["c0"]


async def test_closing_wakes_a_watch_that_waits_to_reconnect() -> None:
    async with AsyncAgentChatClient("127.0.0.1:1", "ack_x") as unreachable:
        waiting = asyncio.Event()
        watch = unreachable.watch_messages(on_reconnect=lambda *_: waiting.set())
        consumer = asyncio.create_task(_count(watch))
        async with asyncio.timeout(20):
            await waiting.wait()
            await watch.close()
            assert await consumer == 0


async def test_cancelling_a_consumer_is_not_swallowed(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    server.script["WatchMessages"] = [streaming(checkpoint("c0"))]
    watch = await client.watch_messages().start()
    consumer = asyncio.create_task(_count(watch))
    await asyncio.sleep(0)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    await watch.close()


async def test_a_call_that_the_server_cancels_does_not_cancel_the_callers_task(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    server.script["GetMessage"] = [failing(grpc.StatusCode.CANCELLED)]
    with pytest.raises(AgentChatError) as cancelled:
        await client.get_message("x")
    assert cancelled.value.code == "CANCELLED"


async def test_closing_a_client_fails_its_calls_with_an_error_of_ours(server: ScriptedServer) -> None:
    server.script["GetMessage"] = [hanging]
    client = AsyncAgentChatClient(server.target, "k")
    blocking = AgentChatClient(server.target, "k")
    calls = [
        asyncio.create_task(client.get_message("x")),
        asyncio.create_task(asyncio.to_thread(blocking.get_message, "x")),
    ]
    async with asyncio.timeout(10):
        while len(server.requests) < 2:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        await client.close()
        await asyncio.to_thread(blocking.close)
        for call in calls:
            with pytest.raises(FailedPreconditionError, match="this client is closed"):
                await call


async def test_cancelling_a_call_cancels_its_task(
    server: ScriptedServer, client: AsyncAgentChatClient
) -> None:
    server.script["GetMessage"] = [hanging]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.get_message("x")


def test_delays_double_up_to_the_longest_and_vary_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    backoff = Backoff(0.1, 1.0)
    assert [backoff.next() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    backoff.reset()
    assert backoff.next() == pytest.approx(0.1)
    monkeypatch.setattr(random, "uniform", lambda low, high: low)
    assert Backoff(0.1, 1.0).next() == pytest.approx(0.05)


def test_no_delay_leads_past_the_deadline() -> None:
    error = UnavailableError("gone")
    assert retry_delay(error, Backoff(1.0, 1.0), remaining=0.4) is None
    assert retry_delay(UnavailableError("gone", retry_after=5.0), Backoff(0.1, 1.0), remaining=9.0) == 5.0
    assert reconnect_delay(ResourceExhaustedError("x", retry_after=7.0), Backoff(0.1, 1.0)) == 7.0


@pytest.mark.parametrize("key", ["", "with\nbreak", "größe", " padded "])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(AgentChatError, match="x-agent-api-key"):
        AgentChatClient("localhost:1", key)


async def _count(watch: Any) -> int:
    return len([event async for event in watch])
