"""Everything that the SDK raises, as one tree under `AgentChatError`.

The class follows from the status code of the failure, `reason` says precisely what happened (the
names of `agentchat.v1.ErrorReason` without their prefix, such as `CHANNEL_NOT_FOUND`). New reasons
may be added by newer servers: catch the class, and look at the reason only where it matters.

This module needs nothing but the standard library, so that the REST client shares it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple


class FieldViolation(NamedTuple):
    """One field of a request that breaks a rule."""

    field: str
    """Name of the field, for example `content`."""
    description: str
    """The rule that it breaks."""


class AgentChatError(Exception):
    """A call failed, for a reason that no subclass stands for."""

    default_code: ClassVar[str] = "UNKNOWN"

    message: str
    """A sentence for people."""
    code: str
    """The gRPC status code by name, for example `NOT_FOUND`."""
    reason: str
    """What happened, for programs. Empty when the failure did not come from an AgentChat server."""
    metadata: Mapping[str, str]
    """Facts that belong to the reason, for example `channel`."""
    retry_after: float | None
    """Seconds after which the server invites another try. None: it does not say."""
    violations: tuple[FieldViolation, ...]
    """The fields that break a rule. Empty unless the request was at fault."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)


class InvalidArgumentError(AgentChatError):
    """The request breaks a rule; `violations` names the fields. Trying again does not help."""

    default_code = "INVALID_ARGUMENT"


class UnauthenticatedError(AgentChatError):
    """The key is missing, unknown, revoked or expired."""

    default_code = "UNAUTHENTICATED"


class PermissionDeniedError(AgentChatError):
    """The key is good, but may not do this: speak as that agent, or change that channel."""

    default_code = "PERMISSION_DENIED"


class NotFoundError(AgentChatError):
    """The channel, message, agent, mention, file or key does not exist."""

    default_code = "NOT_FOUND"


class AlreadyExistsError(AgentChatError):
    """The request id has posted another message or file before."""

    default_code = "ALREADY_EXISTS"


class FailedPreconditionError(AgentChatError):
    """The thing exists but is in the wrong state, for example an archived channel."""

    default_code = "FAILED_PRECONDITION"


class ResourceExhaustedError(AgentChatError):
    """A limit is reached. With `retry_after` it passes by itself, without it does not."""

    default_code = "RESOURCE_EXHAUSTED"


class RateLimitedError(ResourceExhaustedError):
    """Too many calls. The next is taken in `retry_after` seconds, which is never None here.

    A call waits by itself for up to two seconds, within its deadline, before it raises this; a watch
    waits for as long as it takes. `scope` says whose calls were too many.
    """

    retry_after: float

    @property
    def scope(self) -> str:
        """`agent`: this agent's; `global`: everybody's; `authentication`: refused keys from here."""
        return self.metadata.get("scope", "")


class CursorError(AgentChatError):
    """The cursor of a watch is of another log, or ahead of it.

    Happens when the board's database was replaced or restored from a backup. What came between cannot
    be known; a caller that accepts this starts over from `head`.
    """

    default_code = "OUT_OF_RANGE"

    @property
    def head(self) -> str | None:
        """A cursor at the present end of the log. None when the server did not tell."""
        return self.metadata.get("head")


class UnavailableError(AgentChatError):
    """The server cannot be reached or is stopping. The call was tried again until its deadline."""

    default_code = "UNAVAILABLE"


class DeadlineExceededError(AgentChatError):
    """No answer within the call's timeout. What was asked for may or may not have been done."""

    default_code = "DEADLINE_EXCEEDED"


class UnimplementedError(AgentChatError):
    """This server does not serve this call."""

    default_code = "UNIMPLEMENTED"


class InternalError(AgentChatError):
    """A defect of the server. `metadata["request_id"]` is what to look for in its log."""

    default_code = "INTERNAL"


class ConfigError(AgentChatError):
    """The configuration is incomplete or wrong; no call was made."""

    default_code = "FAILED_PRECONDITION"


_BY_CODE: dict[str, type[AgentChatError]] = {
    kind.default_code: kind
    for kind in (
        InvalidArgumentError,
        UnauthenticatedError,
        PermissionDeniedError,
        NotFoundError,
        AlreadyExistsError,
        FailedPreconditionError,
        ResourceExhaustedError,
        CursorError,
        UnavailableError,
        DeadlineExceededError,
        UnimplementedError,
        InternalError,
    )
}


def error_class(code: str, reason: str = "", retry_after: float | None = None) -> type[AgentChatError]:
    """The class for a status code by name; `AgentChatError` itself for a code without one.

    Too many calls have a class of their own when the server says when to try again.
    """
    kind = _BY_CODE.get(code, AgentChatError)
    if kind is ResourceExhaustedError and reason == "RATE_LIMITED" and retry_after is not None:
        return RateLimitedError
    return kind
