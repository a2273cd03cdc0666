"""From failed calls to exceptions."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

import agentchat
from agentchat import (
    AgentChatError,
    CursorError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    RateLimitedError,
    ResourceExhaustedError,
    UnavailableError,
)
from agentchat._failures import decode_failure, more_telling


class FailedCall(grpc.RpcError):
    """What gRPC raises, with what a server sent."""

    def __init__(self, code: grpc.StatusCode, details: str, *protos: Any, domain: str = "agentchat") -> None:
        super().__init__()
        self._code, self._details = code, details
        status = status_pb2.Status(code=code.value[0], message=details)
        for proto in protos:
            if isinstance(proto, error_details_pb2.ErrorInfo):
                proto.domain = domain
            packed = any_pb2.Any()
            packed.Pack(proto)
            status.details.append(packed)
        self._metadata = (
            [("other", "x"), ("grpc-status-details-bin", status.SerializeToString())] if protos else []
        )

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata


def decoded(code: grpc.StatusCode, details: str, *protos: Any, domain: str = "agentchat") -> AgentChatError:
    return decode_failure(FailedCall(code, details, *protos, domain=domain), "board:1")


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, metadata=metadata)


def test_a_failure_of_the_server_has_its_sentence_reason_and_metadata() -> None:
    error = decoded(
        grpc.StatusCode.NOT_FOUND, "no channel is named x", info("CHANNEL_NOT_FOUND", channel="x")
    )
    assert type(error) is NotFoundError
    assert str(error) == error.message == "no channel is named x"
    assert (error.code, error.reason, error.metadata) == ("NOT_FOUND", "CHANNEL_NOT_FOUND", {"channel": "x"})
    assert (error.retry_after, error.violations) == (None, ())


def test_refused_fields_are_listed() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="content", description="is empty")
    error = decoded(
        grpc.StatusCode.INVALID_ARGUMENT,
        "content: is empty",
        info("FIELD_INVALID"),
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
    assert type(error) is InvalidArgumentError
    assert error.violations == (FieldViolation("content", "is empty"),)


def test_a_retry_delay_is_in_seconds() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    error = decoded(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", info("RATE_LIMITED", scope="agent"), retry
    )
    assert type(error) is RateLimitedError
    assert isinstance(error, ResourceExhaustedError)
    assert error.retry_after == 1.5
    assert error.scope == "agent"


@pytest.mark.parametrize(
    ("innermost", "part"),
    [
        ("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED: unable to get issuer", "set AGENTCHAT_CA_FILE"),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "its certificate has expired"),
        ("UNAUTHENTICATED: Hostname Verification Check failed.", "for another name"),
        ("SSL_ERROR_SSL: WRONG_VERSION_NUMBER: OK", "it speaks no TLS"),
        ("UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", "grpcs://"),
    ],
)
def test_ends_that_do_not_agree_on_tls_are_explained(innermost: str, part: str) -> None:
    details = f"failed to connect to all addresses; last error: UNKNOWN: {innermost}"
    assert part in decoded(grpc.StatusCode.UNAVAILABLE, details).message


def test_a_connection_that_is_lost_is_no_matter_of_tls() -> None:
    assert "grpcs://" not in decoded(grpc.StatusCode.UNAVAILABLE, "Socket closed").message


def test_a_refused_connection_does_not_hide_what_another_address_said() -> None:
    refused = UnavailableError("cannot reach it: Connection refused")
    said = UnavailableError("cannot reach it: its certificate has expired")
    assert more_telling(refused, None) is refused
    assert more_telling(refused, said) is said
    assert more_telling(said, refused) is said


def test_a_cursor_error_tells_the_head() -> None:
    error = decoded(grpc.StatusCode.OUT_OF_RANGE, "foreign", info("CURSOR_FOREIGN", head="abc"))
    assert isinstance(error, CursorError)
    assert error.head == "abc"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_code_gives_an_error_that_keeps_it(code: grpc.StatusCode) -> None:
    error = decoded(code, "details", info("SOMETHING_NEW"))
    assert isinstance(error, AgentChatError)
    assert (error.code, error.reason) == (code.name, "SOMETHING_NEW")
    assert decoded(code, "details").code == code.name


def test_details_of_another_domain_or_damaged_ones_are_not_taken_for_ours() -> None:
    error = decoded(grpc.StatusCode.INTERNAL, "proxy", info("X"), domain="proxy.example")
    assert type(error) is InternalError
    assert error.reason == ""
    broken = FailedCall(grpc.StatusCode.UNAVAILABLE, "gone")
    broken._metadata = [("grpc-status-details-bin", b"\xff\xff\xff")]
    assert decode_failure(broken, "board:1").reason == ""


@pytest.mark.parametrize(
    ("details", "end"),
    [
        (
            "failed to connect; last error: UNKNOWN: Failed to connect to remote host: connect: no (111)",
            "no (111)",
        ),
        (
            "failed to connect; last error: UNKNOWN: tcp handshaker shutdown",
            "UNKNOWN: tcp handshaker shutdown",
        ),
        ("DNS resolution failed for nowhere:1", "DNS resolution failed for nowhere:1"),
        ("", "no reason given"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named_with_the_innermost_reason(details: str, end: str) -> None:
    error = decoded(grpc.StatusCode.UNAVAILABLE, details)
    assert type(error) is UnavailableError
    assert error.message == f"cannot reach the AgentChat server at board:1: {end}"


def test_every_exception_is_in_one_tree() -> None:
    errors = [getattr(agentchat, name) for name in agentchat.__all__ if name.endswith("Error")]
    assert len(errors) == 15
    assert all(issubclass(error, AgentChatError) for error in errors)
