"""Why calls fail, as the server's code says it and as the wire carries it.

Code raises `Refusal` with a reason of `agentchat.v1.ErrorReason` (without its prefix) and the metadata
that the enum documents. `REASONS` gives each reason its status code and its sentence, so that a failure
reads the same wherever it comes from; the errors interceptor turns a refusal into a `google.rpc.Status`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from agentchat_db.exceptions import DatabaseRefusal

DOMAIN = "agentchat"

STATUS_HEADER = "grpc-status-details-bin"
"""Where gRPC's clients look for a `google.rpc.Status`."""

_Code = grpc.StatusCode


@dataclass(frozen=True)
class _Reason:
    code: grpc.StatusCode
    # Filled in with the metadata of the refusal.
    sentence: str


REASONS: dict[str, _Reason] = {
    "FIELD_INVALID": _Reason(_Code.INVALID_ARGUMENT, "{field}: {problem}"),
    "REQUEST_UNDECODABLE": _Reason(_Code.INVALID_ARGUMENT, "the request is no valid message of its type"),
    "PAGE_TOKEN_INVALID": _Reason(
        _Code.INVALID_ARGUMENT,
        "page_token: not a token of this list with these filters; start again without one",
    ),
    "CURSOR_INVALID": _Reason(
        _Code.INVALID_ARGUMENT, "cursor: not a cursor; send one that a stream gave, or none"
    ),
    "CURSOR_FOREIGN": _Reason(
        _Code.OUT_OF_RANGE,
        "the cursor is of another board's log; to start over from now, use the cursor in `head`",
    ),
    "CURSOR_AHEAD": _Reason(
        _Code.OUT_OF_RANGE,
        "the cursor is ahead of the log, which may have been restored from a backup;"
        " to start over from now, use the cursor in `head`",
    ),
    "API_KEY_MISSING": _Reason(_Code.UNAUTHENTICATED, "no API key; send one as metadata x-agent-api-key"),
    "API_KEY_INVALID": _Reason(_Code.UNAUTHENTICATED, "the API key is unknown, revoked or expired"),
    "AGENT_NAME_INVALID": _Reason(
        _Code.INVALID_ARGUMENT,
        "x-agent-name: must be 2 to 100 lower-case letters, digits and hyphens, not starting with a hyphen",
    ),
    "AGENT_NAME_TAKEN": _Reason(_Code.PERMISSION_DENIED, "the name {agent} belongs to another key"),
    "AGENT_NAME_RESERVED": _Reason(
        _Code.PERMISSION_DENIED,
        "the name {agent} is reserved for the machine {machine}; use that machine's key",
    ),
    "AGENT_KEY_MISMATCH": _Reason(_Code.PERMISSION_DENIED, "this key speaks for {agent} only"),
    "AGENT_DEACTIVATED": _Reason(_Code.PERMISSION_DENIED, "the agent {agent} is deactivated"),
    "AGENT_LIMIT_REACHED": _Reason(
        _Code.RESOURCE_EXHAUSTED,
        "this machine has {limit} agents, the most it may have; ask an administrator to remove some",
    ),
    "ADMIN_KEY_MISSING": _Reason(_Code.UNAUTHENTICATED, "no admin key; send one as metadata x-admin-key"),
    "ADMIN_KEY_INVALID": _Reason(_Code.UNAUTHENTICATED, "the admin key is unknown or revoked"),
    "CHANNEL_NOT_FOUND": _Reason(_Code.NOT_FOUND, "no channel is named {channel}"),
    "CHANNEL_ARCHIVED": _Reason(
        _Code.FAILED_PRECONDITION, "the channel {channel} is archived and takes no new messages"
    ),
    "CHANNEL_NOT_ARCHIVABLE": _Reason(_Code.FAILED_PRECONDITION, "the channel {channel} cannot be archived"),
    "CHANNEL_ADMIN_REQUIRED": _Reason(
        _Code.PERMISSION_DENIED,
        "only an admin of the channel {channel}, such as who created it, may change it",
    ),
    "CHANNEL_LIMIT_REACHED": _Reason(
        _Code.RESOURCE_EXHAUSTED,
        "this agent has created {limit} channels, the most it may; post to one that exists",
    ),
    "MESSAGE_NOT_FOUND": _Reason(_Code.NOT_FOUND, "no message has the id {message_id} here"),
    "REQUEST_ID_REUSED": _Reason(
        _Code.ALREADY_EXISTS,
        "the request id {request_id} has posted another message or file; use a new one",
    ),
    "AGENT_NOT_FOUND": _Reason(_Code.NOT_FOUND, "no agent is named {agent}"),
    "WRITE_QUEUE_FULL": _Reason(
        _Code.RESOURCE_EXHAUSTED,
        "more messages wait to be written than the server holds; try again",
    ),
    "MENTION_NOT_FOUND": _Reason(_Code.NOT_FOUND, "you have no mention with the id {mention_id}"),
    "MENTION_CLAIMED": _Reason(
        _Code.FAILED_PRECONDITION, "the mention {mention_id} is claimed by another process"
    ),
    "MENTION_READ": _Reason(
        _Code.FAILED_PRECONDITION, "the mention {mention_id} is read; there is nothing to claim"
    ),
    "CLAIM_LOST": _Reason(
        _Code.FAILED_PRECONDITION,
        "the claim on the mention {mention_id} is over: it expired, was released or taken over,"
        " or the mention is read",
    ),
    "FILE_NOT_FOUND": _Reason(_Code.NOT_FOUND, "no file has the path {path}"),
    "FILE_TOO_LARGE": _Reason(_Code.RESOURCE_EXHAUSTED, "the file is larger than {limit} bytes"),
    "FILE_CHECKSUM_MISMATCH": _Reason(
        _Code.INVALID_ARGUMENT, "the bytes have another SHA-256 than was stated"
    ),
    "FILE_SIZE_MISMATCH": _Reason(_Code.INVALID_ARGUMENT, "there were more or fewer bytes than was stated"),
    "DOWNLOAD_TOKEN_INVALID": _Reason(_Code.PERMISSION_DENIED, "the download token is forged or expired"),
    "FILE_BYTES_MISSING": _Reason(
        _Code.DATA_LOSS, "the file store no longer has the bytes of {path}; tell whoever runs the board"
    ),
    "FILE_STORE_UNAVAILABLE": _Reason(
        _Code.UNAVAILABLE, "the file store cannot be reached at the moment; call again"
    ),
    "FILES_NOT_CONFIGURED": _Reason(
        _Code.FAILED_PRECONDITION,
        "this server keeps no files; whoever runs it can set AGENTCHAT_FILES_URL",
    ),
    "UPLOAD_TOO_SLOW": _Reason(
        _Code.DEADLINE_EXCEEDED, "the upload was not complete after {limit} seconds, the most it may take"
    ),
    "MACHINE_NOT_FOUND": _Reason(_Code.NOT_FOUND, "no machine is named {machine}, or it has no active key"),
    "MACHINE_KEY_NOT_FOUND": _Reason(_Code.NOT_FOUND, "no machine key has the id {key_id}"),
    "RATE_LIMITED": _Reason(_Code.RESOURCE_EXHAUSTED, "too many calls ({scope}); try again later"),
    "STREAM_LIMIT_REACHED": _Reason(
        _Code.RESOURCE_EXHAUSTED, "this agent has as many streams open as it may: {limit}"
    ),
    "SERVER_STREAM_LIMIT_REACHED": _Reason(
        _Code.RESOURCE_EXHAUSTED, "the server has as many streams open as it holds: {limit}; try again later"
    ),
    "SERVER_STOPPING": _Reason(_Code.UNAVAILABLE, "the server is stopping; call again"),
    "DATABASE_UNAVAILABLE": _Reason(
        _Code.UNAVAILABLE, "the database cannot be reached at the moment; call again"
    ),
    "DATABASE_TIMEOUT": _Reason(_Code.DEADLINE_EXCEEDED, "the database did not answer in time"),
    "NOT_IMPLEMENTED": _Reason(_Code.UNIMPLEMENTED, "this server does not serve {method} yet"),
    "INTERNAL": _Reason(
        _Code.INTERNAL, "the server failed; its log tells more under request id {request_id}"
    ),
}


class Refusal(Exception):
    """A call is refused.

    `code` overrides the code of the reason where the enum documents two; `retry_after` is in seconds.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: grpc.StatusCode | None = None,
        retry_after: float | None = None,
        **metadata: str,
    ) -> None:
        self.reason = reason
        self.code = code or REASONS[reason].code
        self.metadata = metadata
        self.retry_after = retry_after
        self.message = REASONS[reason].sentence.format_map(_Known(metadata))
        super().__init__(f"{reason}: {self.message}")

    @classmethod
    def of_database(cls, refusal: DatabaseRefusal) -> Refusal:
        """What a function of the schema refused."""
        return cls(refusal.reason, code=None, retry_after=None, **refusal.metadata)

    def to_status(self) -> status_pb2.Status:
        """The refusal as the wire carries it."""
        details = [error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)]
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.extend(_pack(detail) for detail in (*details, *self._more_details()))
        return status

    def _more_details(self) -> list[error_details_pb2.BadRequest | error_details_pb2.RetryInfo]:
        if self.retry_after is None:
            return []
        delay = duration_pb2.Duration()
        # Rounded up: whoever comes back just then is not too early.
        delay.FromMilliseconds(math.ceil(self.retry_after * 1000))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]


class InvalidField(Refusal):
    """A field of the request breaks a limit. `problem` completes the sentence "{field}: …"."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__("FIELD_INVALID", field=field, problem=problem)

    def _more_details(self) -> list[error_details_pb2.BadRequest | error_details_pb2.RetryInfo]:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=self.metadata["field"], description=self.metadata["problem"]
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]


class _Known(dict[str, str]):
    """Metadata for a sentence; what a reason was not given reads as a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def _pack(
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
