"""The few things that asyncio and threads do differently, side by side.

Everything else of the blocking client is generated from the asyncio one, which uses the `Async…`
half of this module; scripts/gen_sync.py renames to the other half.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar, cast

import grpc
from grpc import aio

from agentchat._channels import AsyncUnaryMethod, UnaryMethod

Request = TypeVar("Request")
R = TypeVar("R")
P = ParamSpec("P")

Metadata = tuple[tuple[str, str], ...]
"""What is sent along with a call."""


class CallCancelledError(Exception):
    """A call ended because the channel was closed, or because the other side cancelled it."""


class SilentStreamError(Exception):
    """A stream has been silent for longer than its server would be."""


class StreamClosedError(Exception):
    """A stream was cancelled by `cancel` of its reader."""


class AsyncStopSignal:
    """Says once that something is to stop, and lets others wait for that."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def is_set(self) -> bool:
        """Whether it was said."""
        return self._event.is_set()

    def set(self) -> None:
        """Says it."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Returns when it is said, or after some time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class StopSignal:
    """Says once that something is to stop, and lets other threads wait for that."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def is_set(self) -> bool:
        """Whether it was said."""
        return self._event.is_set()

    def set(self) -> None:
        """Says it."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Returns when it is said, or after some time."""
        self._event.wait(seconds)


class AsyncStreamReader(Generic[R]):
    """Reads a stream's responses, waiting at most `silence` seconds for each."""

    def __init__(self, call: Any, silence: float) -> None:
        self._call = call
        self._silence = silence
        self._cancelled = False

    async def read(self) -> R | None:
        """The next response; None when the server has ended the stream.

        Raises `SilentStreamError`, `StreamClosedError`, or `grpc.RpcError`.
        """
        try:
            async with asyncio.timeout(self._silence):
                response = await self._call.read()
        except TimeoutError:
            raise SilentStreamError from None
        except asyncio.CancelledError:
            if _task_is_cancelled():
                raise
            if self._cancelled:
                raise StreamClosedError from None
            # grpc.aio takes a status CANCELLED of the other side for a cancellation of ours.
            return None
        return None if response is aio.EOF else cast("R", response)

    def cancel(self) -> None:
        """Ends the stream, also for a `read` that is under way."""
        self._cancelled = True
        self._call.cancel()


class StreamReader(Generic[R]):
    """Reads a stream's responses, waiting at most `silence` seconds for each."""

    def __init__(self, call: Any, silence: float) -> None:
        self._call = call
        self._responses: Iterator[R] = iter(call)
        self._watchdog = _Watchdog(call, silence)
        self._cancelled = False

    def read(self) -> R | None:
        """The next response; None when the server has ended the stream.

        Raises `SilentStreamError`, `StreamClosedError`, or `grpc.RpcError`.
        """
        try:
            with self._watchdog:
                return next(self._responses, None)
        except grpc.RpcError:
            if self._watchdog.barked:
                raise SilentStreamError from None
            if self._cancelled:
                raise StreamClosedError from None
            raise

    def cancel(self) -> None:
        """Ends the stream, also for a `read` that is under way in another thread."""
        self._cancelled = True
        self._watchdog.retire()
        self._call.cancel()

    def __del__(self) -> None:
        # A loop that was left without `close` must leave neither a call nor a thread behind.
        self.cancel()


class _Watchdog:
    """Cancels a call whose reader has waited too long, from a thread of its own.

    A blocking read of gRPC takes no timeout. The thread sees to one read after the other: reading
    only notes until when, so a busy stream costs it nothing.
    """

    def __init__(self, call: Any, silence: float) -> None:
        self.barked = False
        self._call = call
        self._silence = silence
        self._deadline: float | None = None
        self._retired = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._deadline = time.monotonic() + self._silence
        if self._thread is None:
            self._thread = threading.Thread(target=self._guard, name="agentchat-watchdog", daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._deadline = None

    def retire(self) -> None:
        """Ends the thread."""
        self._retired.set()

    def _guard(self) -> None:
        wait = self._silence
        while not self._retired.wait(wait):
            deadline = self._deadline
            # Nobody waits now: a read that starts later is due only after a whole silence.
            wait = self._silence if deadline is None else deadline - time.monotonic()
            if wait <= 0:
                self.barked = True
                self._call.cancel()
                return


async def async_invoke(
    method: AsyncUnaryMethod[Request, R], request: Request, timeout: float, metadata: Metadata
) -> R:
    """Makes one call. Raises `grpc.RpcError`, or `CallCancelledError` when the channel was closed."""
    try:
        return await method(request, timeout=timeout, metadata=metadata)
    except aio.UsageError as error:
        raise CallCancelledError from error
    except asyncio.CancelledError:
        if _task_is_cancelled():
            raise
        raise CallCancelledError from None


def invoke(method: UnaryMethod[Request, R], request: Request, timeout: float, metadata: Metadata) -> R:
    """Makes one call. Raises `grpc.RpcError`, or `CallCancelledError` when the channel was closed."""
    try:
        return method(request, timeout=timeout, metadata=metadata)
    except ValueError as error:
        raise CallCancelledError from error


async def async_send_stream(
    method: Any, first: Any, others: AsyncIterator[Any], timeout: float, metadata: Metadata
) -> Any:
    """Makes a call with a stream of requests, whose others are sent when the server has accepted the first.

    grpc.aio loses the status of a call that ends while it sends, so nothing is sent to a server that
    refuses. Raises as `async_invoke` does, and what `others` raises.
    """
    call: Any = None
    try:
        call = method(timeout=timeout, metadata=metadata)
        await call.write(first)
        # Comes with the status when the server refuses.
        await call.initial_metadata()
        async for request in others:
            if call.done():
                break
            await call.write(request)
        else:
            await call.done_writing()
    except aio.AioRpcError:
        # It has ended: its status tells how.
        pass
    except asyncio.InvalidStateError:
        pass
    except aio.UsageError as error:
        raise CallCancelledError from error
    except BaseException as error:
        if call is not None:
            call.cancel()
        if isinstance(error, asyncio.CancelledError) and not _task_is_cancelled():
            raise CallCancelledError from None
        raise
    try:
        return await call
    except asyncio.CancelledError:
        if _task_is_cancelled():
            raise
        raise CallCancelledError from None


def send_stream(method: Any, first: Any, others: Iterator[Any], timeout: float, metadata: Metadata) -> Any:
    """Makes a call with a stream of requests.

    Raises as `invoke` does, and what `others` raises, which is asked from another thread.
    """
    problems: list[Exception] = []

    def requests() -> Iterator[Any]:
        yield first
        try:
            yield from others
        except Exception as error:  # noqa: BLE001 - gRPC would log it and tell nobody
            problems.append(error)

    try:
        response = invoke(method, requests(), timeout, metadata)
    except (grpc.RpcError, CallCancelledError):
        if problems:
            raise problems[0] from None
        raise
    return response


async def async_run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls something that reads or writes files, without holding up other tasks."""
    return await asyncio.to_thread(function, *args, **kwargs)


def run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls something."""
    return function(*args, **kwargs)


def _task_is_cancelled() -> bool:
    """Whether a CancelledError is meant for the running task, and not only for a call that it awaits."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def async_sleep(seconds: float) -> None:
    """Waits without holding up other tasks."""
    await asyncio.sleep(seconds)


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)
