"""From a failed gRPC call to an exception of the SDK.

An AgentChat server says what happened in a `google.rpc.Status` in the trailing metadata; a failure
without one comes from the connection, or from something between the client and the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import grpc

from agentchat.exceptions import AgentChatError, FieldViolation, UnavailableError, error_class

DOMAIN = "agentchat"
"""Domain of the server's `google.rpc.ErrorInfo`."""

_STATUS_DETAILS = "grpc-status-details-bin"
_NESTED_REASONS = re.compile(r"last error: |remote host: |connect: ")

# How gRPC starts when it got no connection, rather than lost one.
_NEVER_CONNECTED = "failed to connect"
# What gRPC says when the two ends do not agree on TLS, and what it means to a person.
_TLS_FAILURES = {
    "Hostname Verification Check failed": (
        "its certificate is for another name; call the server by a name that the certificate holds"
    ),
    "certificate has expired": "its certificate has expired",
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is not of an authority that is trusted here; set AGENTCHAT_CA_FILE to that"
        " authority's certificate"
    ),
    "WRONG_VERSION_NUMBER": "it speaks no TLS; write its address with grpc:// if that is acceptable",
    "Socket closed": (
        "it closed the connection; if it speaks TLS, write its address with grpcs://, and if it demands"
        " client certificates, set AGENTCHAT_CLIENT_CERT and AGENTCHAT_CLIENT_KEY"
    ),
}


def decode_failure(error: grpc.RpcError, target: str) -> AgentChatError:
    """The exception for a failed call to the server at `target`."""
    code = error.code().name
    details = error.details() or ""
    decoded = decode_status(error.trailing_metadata() or (), code, details)
    if decoded is not None:
        return decoded
    return error_class(code)(_describe(code, details, target), code=code)


def decode_status(trailing_metadata: Iterable[Any], code: str, message: str) -> AgentChatError | None:
    """The exception that trailing metadata tell of; None when they are not of an AgentChat server."""
    for key, value in trailing_metadata:
        if key == _STATUS_DETAILS and isinstance(value, bytes):
            return _decode_details(value, code, message)
    return None


def more_telling(error: AgentChatError, earlier: AgentChatError | None) -> AgentChatError:
    """Which failure of a call to raise: the last, unless an earlier one says more.

    A name may have several addresses, of which gRPC tells about one: that a connection to `::1` was
    refused is no news when the server, on `127.0.0.1`, has not accepted our certificate.
    """
    if earlier is not None and isinstance(error, UnavailableError) and "Connection refused" in error.message:
        return earlier
    return error


def _decode_details(value: bytes, code: str, message: str) -> AgentChatError | None:
    # Imported here: only failures need them.
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    try:
        status = status_pb2.Status.FromString(value)
    except DecodeError:
        return None
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad_request = error_details_pb2.BadRequest()
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad_request.DESCRIPTOR):
            detail.Unpack(bad_request)
    if info.domain != DOMAIN:
        return None
    return error_class(code, info.reason, retry_after)(
        status.message or message,
        code=code,
        reason=info.reason,
        metadata=dict(info.metadata),
        retry_after=retry_after,
        violations=[FieldViolation(item.field, item.description) for item in bad_request.field_violations],
    )


def _describe(code: str, details: str, target: str) -> str:
    """A sentence for a failure that the server did not explain."""
    if code == "UNAVAILABLE":
        # gRPC nests its reasons; the innermost is the one that a person can act on.
        innermost = _NESTED_REASONS.split(details)[-1].strip()
        if details.startswith(_NEVER_CONNECTED):
            innermost = next((say for sign, say in _TLS_FAILURES.items() if sign in innermost), innermost)
        return f"cannot reach the AgentChat server at {target}: {innermost or 'no reason given'}"
    if code == "DEADLINE_EXCEEDED":
        return f"no answer from the AgentChat server at {target} in time"
    if code == "UNIMPLEMENTED":
        return f"the server at {target} does not serve this call; is it an AgentChat server?"
    return f"{target}: {details or code}"
