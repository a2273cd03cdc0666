"""The writers of the kill proof: they post, share files, complete claims, and write down what they are told.

Half of them use the SDK, which tries again by itself. The others call the stubs and do what a careful caller
does: when the outcome is unknown they call again with the same request id, or else leave it unknown.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from agentchat import AgentChatError, AsyncAgentChatClient
from agentchat.types import Message, WatchedMention
from agentchat_proto.v1 import message_pb2, message_service_pb2
from tests.board import Agent, Failure
from tests.kills.history import Answer, Completion, History, Post, Upload, UploadAnswer

R = TypeVar("R")

CHANNELS = ("general", "project-load", "tech-load")
NOBODY = "nobody-there"
"""An agent that does not exist."""
_DIRECT = "direct-messages"

# Seconds for which a call is tried again; longer than any recovery.
_PATIENCE = 60.0
# Seconds for one try of a careful caller.
_CALL_PATIENCE = 15.0
_LEASE = timedelta(seconds=5)
# Codes of calls whose outcome nobody knows; the second kind is a broken connection when it has no reason.
_UNKNOWN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
_BROKEN = frozenset({"INTERNAL", "CANCELLED"})
_REFUSED = frozenset({"NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"})


class Gate:
    """Lets writers work while it is open. Closed, it lets them finish what they are at."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._inside = 0
        self._quiet = asyncio.Event()

    def open(self) -> None:
        """Lets them work."""
        self._open.set()

    async def close(self, patience: float) -> None:
        """Returns when nobody works any more; fails after `patience` seconds."""
        self._open.clear()
        async with asyncio.timeout(patience):
            while self._inside:
                self._quiet.clear()
                await self._quiet.wait()

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """A piece of work, begun when the gate is open."""
        await self._open.wait()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._quiet.set()


class Poster(Protocol):
    """A way to post and to share files. Fails with `AgentChatError` or `Failure`."""

    name: str
    # Whether a post may go without a request id. The SDK makes one up.
    posts_once: bool

    async def post(self, post: Post) -> Answer:
        """Posts, or posts again what is there already."""

    async def upload(self, upload: Upload, content: bytes) -> UploadAnswer:
        """Shares a file."""


class SdkPoster:
    """Posts through the SDK, which tries again by itself."""

    posts_once = False

    def __init__(self, client: AsyncAgentChatClient, name: str) -> None:
        self.client = client
        self.name = name

    async def post(self, post: Post) -> Answer:
        if (target := direct_target(post)) is not None:
            text = post.content.removeprefix(f"@{target} ")
            sent = await self.client.send_direct_message(
                target, text, request_id=post.request_id, timeout=_PATIENCE
            )
        else:
            sent = await self.client.send_message(
                post.channel,
                post.content,
                parent_message_id=post.parent,
                request_id=post.request_id,
                timeout=_PATIENCE,
            )
        return answer_of(sent.message)

    async def upload(self, upload: Upload, content: bytes) -> UploadAnswer:
        shared = await self.client.upload_file(
            upload.channel, content=content, name=upload.name, request_id=upload.request_id, timeout=_PATIENCE
        )
        assert shared.message is not None
        return UploadAnswer(shared.file.id, shared.file.path, shared.file.sha256, answer_of(shared.message))


class RawPoster:
    """Posts through the stubs, tries again with the same request id, and sometimes gives up."""

    posts_once = True

    def __init__(self, agent: Agent, dice: random.Random, *, gives_up: bool = True) -> None:
        self.name = agent.name
        self._patiences = (0.0, _PATIENCE, _PATIENCE, _PATIENCE) if gives_up else (_PATIENCE,)
        self._agent = agent
        self._dice = dice
        # How often a repeated call showed that the first one had been written and its answer lost.
        self.answers_lost = 0

    async def post(self, post: Post) -> Answer:
        messages, target = self._agent.messages, direct_target(post)
        if target is not None:
            direct = message_service_pb2.SendDirectMessageRequest(
                target_agent=target,
                content=post.content.removeprefix(f"@{target} "),
                request_id=post.request_id,
            )
            response, repeated = await self._until_known(
                lambda: messages.SendDirectMessage(direct, timeout=_CALL_PATIENCE), post.request_id
            )
        else:
            request = message_service_pb2.SendMessageRequest(
                channel=post.channel,
                content=post.content,
                parent_message_id=post.parent,
                request_id=post.request_id,
            )
            response, repeated = await self._until_known(
                lambda: messages.SendMessage(request, timeout=_CALL_PATIENCE), post.request_id
            )
        self.answers_lost += repeated and response.replayed and not post.answers
        return answer_of_wire(response.message)

    async def upload(self, upload: Upload, content: bytes) -> UploadAnswer:
        response, _ = await self._until_known(
            lambda: self._agent.upload(
                content,
                upload.channel,
                upload.name,
                timeout=_CALL_PATIENCE,
                size=upload.size,
                sha256=upload.sha256,
                request_id=upload.request_id,
            ),
            upload.request_id,
        )
        file = response.file
        return UploadAnswer(file.id, file.path, file.sha256, answer_of_wire(response.message))

    async def _until_known(self, call: Callable[[], Awaitable[R]], request_id: str | None) -> tuple[R, bool]:
        """Calls until it is known what became of it, or patience is at its end; whether it was repeated."""
        patience = 0.0 if request_id is None else self._dice.choice(self._patiences)
        deadline = time.monotonic() + patience
        repeated = False
        while True:
            try:
                return await call(), repeated
            except Failure as failure:
                if not is_unknown(failure.code.name, failure.reason) or time.monotonic() > deadline:
                    raise
            repeated = True
            await asyncio.sleep(self._dice.uniform(0.05, 0.3))


class Writer:
    """Posts to a board for as long as the gate is open, a little of everything."""

    def __init__(
        self, poster: Poster, history: History, gate: Gate, dice: random.Random, mentionable: tuple[str, ...]
    ) -> None:
        self._poster = poster
        self._history = history
        self._gate = gate
        self._dice = dice
        self._mentionable = mentionable
        self._number = 0
        # Posts that were acknowledged: to repeat, and to reply to.
        self._acknowledged: list[Post] = []

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            async with self._gate.passed():
                await self._write_something()
            # Leaves the processor to the board now and then, which the same machine serves.
            await asyncio.sleep(self._dice.uniform(0.0, 0.04))

    async def _write_something(self) -> None:
        self._number += 1
        kind = self._dice.choices(
            ("plain", "mention", "reply", "direct", "repeat", "refused", "reused", "file"),
            (40, 20, 12, 10, 6, 4, 2, 4),
        )[0]
        earlier = self._dice.choice(self._acknowledged[-50:]) if self._acknowledged else None
        if kind == "file":
            await self._share()
            return
        if kind == "repeat" and earlier is not None:
            await self._send(earlier)
            return
        post = self._new_post(self._dice.choice(CHANNELS))
        match kind:
            case "mention":
                names = self._dice.sample(self._mentionable, self._dice.randint(1, 2))
                post.content += "".join(f" @{name}" for name in names)
                post.mentions = frozenset(names)
            case "reply" if earlier is not None:
                post.channel, post.parent = earlier.channel, earlier.answers[0].message_id
            case "direct":
                target = self._dice.choice(self._mentionable)
                post.channel, post.content = _DIRECT, f"@{target} {post.content}"
                post.mentions = frozenset({target})
            # The others must never be there, whatever their callers are told.
            case "refused" if self._dice.random() < 0.5:
                post.parent, post.refusal = str(uuid.uuid4()), "no such parent"
            case "refused":
                post.channel, post.content = _DIRECT, f"@{NOBODY} {post.content}"
                post.refusal = "no such agent"
            case "reused" if earlier is not None:
                post.request_id, post.refusal = earlier.request_id, "request id used"
            case _:
                pass
        if self._poster.posts_once and post.refusal is None and self._dice.random() < 0.6:
            post.request_id = None
        self._history.posts.append(post)
        await self._send(post)

    def _new_post(self, channel: str) -> Post:
        content = f"{self._poster.name} {self._number} " + "x" * int(self._dice.expovariate(1 / 200))
        return Post(self._poster.name, _uuid(self._dice), channel, content.strip())

    async def _send(self, post: Post) -> None:
        """Posts, and writes down what came of it."""
        try:
            answer = await self._poster.post(post)
        except (AgentChatError, Failure) as error:
            code, reason = _code_and_reason(error)
            if not is_unknown(code, reason) and (post.refusal is None or code not in _REFUSED):
                self._history.surprises.append(f"{self._poster.name} posted: {error!r}")
        else:
            if post.refusal is not None:
                self._history.surprises.append(f"{post.content!r} was acknowledged: {post.refusal}")
            elif not post.answers and post.request_id is not None:
                self._acknowledged.append(post)
            post.answers.append(answer)

    async def _share(self) -> None:
        content = self._dice.randbytes(int(self._dice.triangular(0, 1_000_000, 50_000)))
        upload = Upload(
            author=self._poster.name,
            request_id=_uuid(self._dice),
            channel=self._dice.choice(CHANNELS),
            name=f"{self._poster.name}-{self._number}.bin",
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        self._history.uploads.append(upload)
        try:
            upload.answers.append(await self._poster.upload(upload, content))
        except (AgentChatError, Failure) as error:
            if not is_unknown(*_code_and_reason(error)):
                self._history.surprises.append(f"{self._poster.name} shared a file: {error!r}")


class ClaimWorker:
    """One of several processes of an agent that answer its mentions. It crashes now and then."""

    def __init__(
        self, client: AsyncAgentChatClient, agent: str, history: History, gate: Gate, dice: random.Random
    ) -> None:
        self._client = client
        self._agent = agent
        self._history = history
        self._gate = gate
        self._dice = dice
        self.mentions: asyncio.Queue[WatchedMention] = asyncio.Queue()

    async def run(self) -> None:
        """Answers what is put into `mentions` until cancelled."""
        while True:
            mention = await self.mentions.get()
            async with self._gate.passed():
                try:
                    await self._work_on(mention)
                except AgentChatError as error:
                    expected = error.code == "FAILED_PRECONDITION" or is_unknown(error.code, error.reason)
                    if not expected:
                        self._history.surprises.append(f"{self._agent} worked on a mention: {error!r}")

    async def _work_on(self, mention: WatchedMention) -> None:
        # Whoever comes second, or comes again to what is done, is refused; an unfinished one comes again.
        claim = await self._client.claim_mention(mention.mention_id, _LEASE, timeout=_PATIENCE)
        fate = self._dice.random()
        if fate < 0.05:
            return  # It crashes: the claim expires.
        if fate < 0.1:
            await self._client.release_claim(claim, timeout=_PATIENCE)
            return
        completion = Completion(
            self._agent, mention.mention_id, mention.message_id, f"done {_uuid(self._dice)}"
        )
        self._history.completions.append(completion)
        try:
            for _ in range(self._dice.choice((1, 1, 1, 2))):
                sent = await self._client.complete_claim(claim, completion.content, timeout=_PATIENCE)
                completion.answers.append(answer_of(sent.message))
        except AgentChatError as error:
            if error.code == "FAILED_PRECONDITION":
                completion.refusal = error.reason
            raise


def direct_target(post: Post) -> str | None:
    """The agent that a post is a direct message for; None when it is none."""
    if post.channel != _DIRECT or post.parent is not None:
        return None
    return post.content.split()[0].removeprefix("@")


def is_unknown(code: str, reason: str) -> bool:
    """Whether nobody knows what became of a call that failed so."""
    return code in _UNKNOWN or (code in _BROKEN and not reason)


def answer_of(message: Message) -> Answer:
    """The message that the SDK was answered with."""
    return Answer(message.id, message.seq, message.ordinal, message.created_at)


def answer_of_wire(message: message_pb2.Message) -> Answer:
    """The message that a stub was answered with."""
    created_at: datetime = message.created_at.ToDatetime(UTC)
    return Answer(message.id, message.seq, message.ordinal, created_at)


def _code_and_reason(error: AgentChatError | Failure) -> tuple[str, str]:
    if isinstance(error, Failure):
        return error.code.name, error.reason
    return error.code, error.reason


def _uuid(dice: random.Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))
