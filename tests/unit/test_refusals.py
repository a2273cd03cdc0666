"""The reasons why calls fail: the contract lists the same ones as the server, and says what they carry."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from agentchat_db.exceptions import DatabaseRefusal
from agentchat_proto.v1.error_reason_pb2 import ErrorReason
from agentchat_server.refusals import DOMAIN, REASONS, InvalidField, Refusal

CONTRACT = Path(__file__).parents[2] / "proto/agentchat/v1/error_reason.proto"
PREFIX = "ERROR_REASON_"


def comments() -> dict[str, str]:
    """What the contract says of each reason."""
    found: dict[str, str] = {}
    lines: list[str] = []
    for line in CONTRACT.read_text("utf-8").splitlines():
        if comment := re.match(r"\s*// ?(.*)", line):
            lines.append(comment[1])
        else:
            if value := re.match(rf"\s*{PREFIX}(\w+) = \d+;", line):
                found[value[1]] = " ".join(lines)
            lines = []
    return found


def documented_metadata(reason: str) -> set[str]:
    """The metadata that the contract promises for a reason."""
    listed: list[str] = re.findall(r"Metadata((?:,? `\w+`)+)", comments()[reason])
    return {name for names in listed for name in re.findall(r"`(\w+)`", names)}


def placeholders(reason: str) -> set[str]:
    """The metadata that a reason's sentence is filled in with."""
    return {name for _, name, _, _ in Formatter().parse(REASONS[reason].sentence) if name}


def details(status: status_pb2.Status) -> list[Message]:
    """The details of a status, unpacked."""
    unpacked: list[Message] = []
    for detail in status.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        ):
            message = kind()
            if detail.Unpack(message):
                unpacked.append(message)
    assert len(unpacked) == len(status.details)
    return unpacked


def test_the_contract_and_the_server_know_the_same_reasons() -> None:
    values = {name.removeprefix(PREFIX) for name in ErrorReason.keys()}  # noqa: SIM118 - no mapping
    assert set(REASONS) == values - {"UNSPECIFIED"}
    assert set(comments()) == values


@pytest.mark.parametrize("reason", REASONS)
def test_the_contract_says_the_code_of_a_reason(reason: str) -> None:
    assert comments()[reason].startswith(REASONS[reason].code.name)


@pytest.mark.parametrize("reason", REASONS)
def test_a_sentence_is_filled_in_with_documented_metadata_only(reason: str) -> None:
    assert placeholders(reason) <= documented_metadata(reason)


@pytest.mark.parametrize("reason", REASONS)
def test_a_sentence_reads_as_one(reason: str) -> None:
    metadata: dict[str, Any] = dict.fromkeys(placeholders(reason), "value")
    message = Refusal(reason, **metadata).message
    assert "?" not in message
    assert "{" not in message
    assert not message.endswith(".")
    assert len(message) < 160


@pytest.mark.parametrize("reason", REASONS)
def test_a_refusal_goes_over_the_wire(reason: str) -> None:
    metadata: dict[str, Any] = dict.fromkeys(placeholders(reason), "välue")
    refusal = Refusal(reason, **metadata)
    status = status_pb2.Status.FromString(refusal.to_status().SerializeToString())
    assert status.code == REASONS[reason].code.value[0]
    assert status.message == refusal.message
    assert details(status) == [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)]


def test_a_refusal_says_when_to_come_back() -> None:
    status = Refusal("WRITE_QUEUE_FULL", retry_after=0.5).to_status()
    _, retry = details(status)
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 500


def test_a_retry_delay_is_never_shorter_than_the_truth() -> None:
    _, retry = details(Refusal("RATE_LIMITED", retry_after=0.0101, scope="agent").to_status())
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 11


def test_an_invalid_field_is_named_with_its_problem() -> None:
    refusal = InvalidField("page_size", "must be {odd}")
    assert refusal.message == "page_size: must be {odd}"
    status = refusal.to_status()
    assert status.code == StatusCode.INVALID_ARGUMENT.value[0]
    info, bad_request = details(status)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.reason == "FIELD_INVALID"
    assert isinstance(bad_request, error_details_pb2.BadRequest)
    (violation,) = bad_request.field_violations
    assert (violation.field, violation.description) == ("page_size", "must be {odd}")


def test_a_code_of_its_own_replaces_that_of_the_reason() -> None:
    refusal = Refusal("AGENT_DEACTIVATED", code=StatusCode.FAILED_PRECONDITION, agent="bob")
    assert refusal.to_status().code == StatusCode.FAILED_PRECONDITION.value[0]


def test_a_sentence_without_its_metadata_still_reads() -> None:
    assert Refusal("AGENT_NOT_FOUND").message == "no agent is named ?"


def test_what_the_database_refuses_is_refused_with_its_metadata() -> None:
    refusal = Refusal.of_database(DatabaseRefusal("CHANNEL_NOT_FOUND", {"channel": "project-x"}))
    assert refusal.message == "no channel is named project-x"
    assert refusal.code is StatusCode.NOT_FOUND
    assert refusal.metadata == {"channel": "project-x"}
