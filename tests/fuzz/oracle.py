"""Whether a call was answered as the contract says, and what it left behind.

A refusal has one of the codes that mean "not like this", and exactly one ErrorInfo, whose reason has that
code in the contract; a BadRequest names a field that the request has. Its sentence tells nothing of Postgres,
of Python or of paths, and nothing has changed. An answer keeps to the page size, and one to a method that
only reads has changed nothing either. Whatever the answer, it came in time, and no error was logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import capture_logs

from tests.fuzz.contract import REASONS
from tests.fuzz.fuzzed_board import FuzzedBoard, Metadata, Outcome
from tests.fuzz.methods import Method

_Code = grpc.StatusCode

# What is wrong with a request. The other codes say that something is wrong with the server, which is not.
REFUSALS = {
    _Code.INVALID_ARGUMENT,
    _Code.NOT_FOUND,
    _Code.ALREADY_EXISTS,
    _Code.FAILED_PRECONDITION,
    _Code.OUT_OF_RANGE,
    _Code.PERMISSION_DENIED,
    _Code.UNAUTHENTICATED,
    _Code.RESOURCE_EXHAUSTED,
}

SLOW = 10.0
"""Seconds that no call takes, on a busy machine either."""

MAX_PAGE = 200

_INTERNALS = re.compile(
    r"psycopg|postgres|sqlstate|\bpg_|relation \"|constraint|violates|invalid input syntax|byte sequence|"
    r"out of range for type|traceback|exception|\.py\b|line \d|object at 0x|NoneType|/tmp/|/home/|/usr/|file://",
    re.IGNORECASE,
)


# What gRPC says for itself.
_TOO_LARGE = re.compile(r"message larger than max|metadata size exceeds")


class ErrorLog:
    """What was logged as an error, by the server or by a library of its."""

    def __init__(self) -> None:
        self._logged: list[MutableMapping[str, Any]] = []
        self._records: list[logging.LogRecord] = []

    def take(self) -> list[str]:
        """The errors logged since the last time."""
        errors = [
            structlog.processors.format_exc_info(None, "error", dict(entry))
            for entry in self._logged
            if entry["log_level"] in {"error", "critical", "exception"}
        ]
        texts = [str(error) for error in errors] + [record.getMessage() for record in self._records]
        self._logged.clear()
        self._records.clear()
        return texts

    @classmethod
    @contextmanager
    def kept(cls) -> Iterator[ErrorLog]:
        """Keeps what is logged within the block."""
        log = cls()
        handler = logging.Handler(logging.ERROR)
        handler.emit = log._records.append  # type: ignore[method-assign, assignment]
        logging.getLogger().addHandler(handler)
        try:
            with capture_logs() as logged:
                log._logged = logged
                yield log
        finally:
            logging.getLogger().removeHandler(handler)


class Oracle:
    """Calls a board, and judges every answer."""

    def __init__(self, board: FuzzedBoard, errors: ErrorLog) -> None:
        self.board = board
        self._errors = errors
        self._before = board.fingerprint()

    async def check(
        self,
        method: Method,
        requests: Sequence[bytes],
        metadata: Metadata,
        *,
        writes: bool | None = None,
        oversize: bool = False,
    ) -> Outcome:
        """Makes a call, judges it, and puts back what it changed.

        `writes` says whether it may change something when it succeeds; by default, what the contract says.
        `oversize`: gRPC itself may refuse it, as too large and without a reason of ours.
        """
        outcome = await self.board.call(method, requests, metadata)
        self.judge(method, outcome, oversize=oversize)
        after = self.board.fingerprint()
        may_write = not method.only_reads if writes is None else writes
        if outcome.code is _Code.OK and may_write:
            if after != self._before:
                self.board.restore()
                self._before = self.board.fingerprint()
        else:
            changed = [name for name, value in after.items() if self._before[name] != value]
            self._before = after
            assert not changed, f"{outcome.code}, and yet changed: {changed}"
        return outcome

    async def check_given_up(self, method: Method, requests: Sequence[bytes], metadata: Metadata) -> None:
        """Makes a call of many requests and cancels it before its end; waits until nothing is left of it."""
        await self.board.give_up(method, requests, metadata)
        async with asyncio.timeout(SLOW):
            while self.board.fingerprint() != self._before:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        errors = self._errors.take()
        assert not errors, "\n".join(errors)

    def unchanged(self) -> bool:
        """Whether the board is as it was, and no error was logged, since the last call."""
        return not self._errors.take() and self.board.fingerprint() == self._before

    def judge_service_of_grpc(self, outcome: Outcome) -> None:
        """Judges an answer of health or reflection, whose failures have no reason of ours."""
        errors = self._errors.take()
        assert not errors, "\n".join(errors)
        assert outcome.code in REFUSALS | {_Code.OK, _Code.UNIMPLEMENTED}, (
            f"{outcome.code}: {outcome.message}"
        )
        assert not _INTERNALS.search(outcome.message), outcome.message

    def judge(self, method: Method, outcome: Outcome, *, oversize: bool = False) -> None:
        """Judges an answer by itself."""
        errors = self._errors.take()
        assert not errors, "\n".join((f"{outcome.code}: {outcome.message}", *errors))
        assert outcome.seconds < SLOW
        if outcome.code is _Code.OK:
            return
        if oversize and outcome.code is _Code.RESOURCE_EXHAUSTED and not outcome.trailing:
            assert _TOO_LARGE.search(outcome.message), outcome.message
            return
        assert outcome.code in REFUSALS, f"{outcome.code}: {outcome.message}"
        assert not _INTERNALS.search(outcome.message), outcome.message
        _judge_details(method.input, outcome)


def judge_page(request: Message, response: Message) -> None:
    """Whether a page of a list is no longer than asked for."""
    if "page_size" not in request.DESCRIPTOR.fields_by_name:
        return
    asked: int = getattr(request, "page_size")  # noqa: B009 - not every request has it
    for field, value in response.ListFields():
        if field.is_repeated:
            assert len(value) <= (asked or MAX_PAGE)


def _judge_details(request: Descriptor, outcome: Outcome) -> None:
    (info,) = _details(outcome, error_details_pb2.ErrorInfo)
    assert info.domain == "agentchat"
    documented = REASONS[info.reason]
    assert outcome.code in documented.codes, f"{info.reason} with {outcome.code}"
    assert set(info.metadata) == documented.metadata, f"{info.reason} with {dict(info.metadata)}"

    violations = [
        violation
        for bad_request in _details(outcome, error_details_pb2.BadRequest)
        for violation in bad_request.field_violations
    ]
    assert bool(violations) == (info.reason == "FIELD_INVALID")
    for violation in violations:
        assert violation.field.split(".")[0] in _names(request), violation.field
        assert violation.description
    delays = [info.retry_delay.ToSeconds() for info in _details(outcome, error_details_pb2.RetryInfo)]
    assert len(delays) == documented.with_delay


def _details(outcome: Outcome, kind: type[Any]) -> list[Any]:
    """The details of a kind in the one status of an outcome."""
    (encoded,) = [value for key, value in outcome.trailing if key == "grpc-status-details-bin"]
    assert isinstance(encoded, bytes)
    status = status_pb2.Status.FromString(encoded)
    assert status.code == outcome.code.value[0]
    assert status.message == outcome.message
    found = []
    for detail in status.details:
        unpacked = kind()
        if detail.Unpack(unpacked):
            found.append(unpacked)
    return found


def _names(request: Descriptor) -> set[str]:
    """The fields and oneofs of a request, and of what it is made of."""
    names = {field.name for field in request.fields} | {oneof.name for oneof in request.oneofs}
    for field in request.fields:
        if field.message_type is not None and field.message_type.file.package == request.file.package:
            names |= _names(field.message_type)
    return names
