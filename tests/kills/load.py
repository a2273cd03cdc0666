"""The load of the kill proof: eight writers and eight watchers, each with a connection of its own."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import grpc
import grpc.aio

from agentchat import AgentChatError, AsyncAgentChatClient
from tests.board import Agent
from tests.kills.history import History, Post, Watch
from tests.kills.model import missed
from tests.kills.service import PATIENCE, Service
from tests.kills.stored import Stored, read_stored
from tests.kills.watchers import RawWatcher, SdkWatcher, resume
from tests.kills.writers import ClaimWorker, Gate, Poster, RawPoster, SdkPoster, Writer

WRITERS = 8
_INBOXES = ("eve", "frank")
_WORKER = "worker"
_PROBER = "prober"
_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
# How many connections are tried until every worker has accepted one: each takes it with a chance of 1/2.
_MOST_CONNECTIONS = 50
# How far back a watcher resumes that is called upon to do so.
_RESUMED_EVENTS = 500


class Load:
    """Writers and watchers of a board, and their history. Open it with `under_load`."""

    def __init__(self, service: Service, dice: random.Random, resources: AsyncExitStack) -> None:
        self.history = History()
        self.gate = Gate()
        self._service = service
        self._dice = dice
        self._resources = resources
        self._downloads: dict[str, str] = {}
        self._raw_posters: list[RawPoster] = []
        self._probes = 0

    @property
    def answers_lost(self) -> int:
        """How many posts were written whose answer never came, as their repeats have shown."""
        return sum(poster.answers_lost for poster in self._raw_posters)

    async def start(self) -> list[Coroutine[None, None, None]]:
        """Registers the agents and connects the watchers; returns what they all do, until cancelled."""
        agents = [f"writer-{number}" for number in range(WRITERS)]
        posters: list[Poster] = []
        for number, name in enumerate(agents):
            if number % 2:
                raw = RawPoster(await self._agent(name), self._fork())
                self._raw_posters.append(raw)
                posters.append(raw)
            else:
                posters.append(SdkPoster(await self._client(name), name))
        # Who is to be mentioned has to exist before.
        for name in (*_INBOXES, _WORKER):
            await self._client(name)
        self._downloader = await self._client(_PROBER)
        watchers, workers = await self._watchers()
        for watcher in watchers:
            await watcher.start()
        writers = [
            Writer(poster, self.history, self.gate, self._fork(), (*_INBOXES, _WORKER)) for poster in posters
        ]
        return [each.run() for each in (*watchers, *workers, *writers)]

    async def probe(self) -> None:
        """Posts over a new connection until that is acknowledged."""
        async with self._fresh_agent() as prober:
            await self._probe(prober)

    async def settle(self) -> Stored:
        """At rest, sees everybody through to the end of the log, and returns what is stored.

        Every worker has acknowledged a post, every file was downloaded once, and somebody has resumed from a
        cursor of earlier. Gives up waiting for watchers after a time; the model then says who missed what.
        """
        await self._catch_up()
        await self._reach_every_worker()
        stored = await self._catch_up()
        for file in stored.files:
            if file.path not in self._downloads:
                self._downloads[file.path] = await self._download(file.path)
        events = [
            event
            for watch in self.history.watches
            if watch.follows == "messages" and watch.through is None
            for event in watch.events[-_RESUMED_EVENTS:]
            if event.seq < stored.head
        ]
        if events:
            async with self._fresh_agent() as agent:
                await resume(agent, self._dice.choice(events), stored.head, self.history)
        return stored

    def forget_downloads(self) -> None:
        """Lets `settle` download all files once more."""
        self._downloads.clear()

    async def _catch_up(self) -> Stored:
        stored = await read_stored(self._service.owner_url, self._service.files, self._downloads)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while any(missed(watch, stored) for watch in self.history.watches):  # noqa: ASYNC110 - many
                    await asyncio.sleep(0.1)
        return stored

    async def _reach_every_worker(self) -> None:
        """Posts over new connections until every worker has accepted one, while nobody else connects."""
        missing = {pid: self._service.connections(pid) for pid in self._service.workers}
        async with AsyncExitStack() as held:
            for _ in range(_MOST_CONNECTIONS):
                await self._probe(await held.enter_async_context(self._fresh_agent()))
                for pid, before in list(missing.items()):
                    if self._service.connections(pid) - before:
                        del missing[pid]
                if not missing:
                    return
        raise AssertionError(f"the workers {list(missing)} accept no connection")

    async def _download(self, path: str) -> str:
        """The SHA-256 of what a download gives, or why it fails."""
        try:
            content = await self._downloader.download_file(path, timeout=PATIENCE)
        except AgentChatError as error:
            return repr(error)
        return hashlib.sha256(content).hexdigest()

    async def _watchers(self) -> tuple[list[SdkWatcher | RawWatcher], list[ClaimWorker]]:
        history = self.history
        watchers: list[SdkWatcher | RawWatcher] = []
        workers: list[ClaimWorker] = []
        for number, channel in enumerate((None, "general")):
            watch = Watch(f"SDK watcher {number} of {channel or 'all'}", "eve", "messages", channel=channel)
            watchers.append(SdkWatcher(await self._client("eve"), watch, history))
        for number, channel in enumerate((None, "direct-messages")):
            watch = Watch(f"raw watcher {number} of {channel or 'all'}", "eve", "messages", channel=channel)
            watchers.append(RawWatcher(await self._agent("eve"), watch, history, self._fork()))
        sdk_inbox, raw_inbox = _INBOXES
        watch = Watch(f"SDK watcher of {sdk_inbox}'s mentions", sdk_inbox, "mentions")
        watchers.append(SdkWatcher(await self._client(sdk_inbox), watch, history))
        watch = Watch(f"raw watcher of {raw_inbox}'s mentions", raw_inbox, "mentions")
        watchers.append(RawWatcher(await self._agent(raw_inbox), watch, history, self._fork()))
        for number in range(2):
            worker = ClaimWorker(await self._client(_WORKER), _WORKER, history, self.gate, self._fork())
            workers.append(worker)
            watch = Watch(f"claiming watcher {number}", _WORKER, "mentions")
            client = await self._client(_WORKER)
            watchers.append(SdkWatcher(client, watch, history, worker.mentions.put_nowait))
        return watchers, workers

    async def _client(self, name: str) -> AsyncAgentChatClient:
        """A registered agent, through the SDK, on a connection of its own."""
        client = AsyncAgentChatClient(self._service.address, self._service.key, name)
        await self._resources.enter_async_context(client)
        await client.register(timeout=PATIENCE)
        return client

    async def _agent(self, name: str) -> Agent:
        """A registered agent, through the stubs, on a connection of its own."""
        agent = await self._resources.enter_async_context(self._fresh_agent(name))
        await agent.read("general")
        return agent

    @asynccontextmanager
    async def _fresh_agent(self, name: str = _PROBER) -> AsyncIterator[Agent]:
        async with grpc.aio.insecure_channel(self._service.address, _CHANNEL_OPTIONS) as channel:
            yield Agent(channel, self._service.key, name)

    async def _probe(self, prober: Agent) -> None:
        self._probes += 1
        request_id = f"00000000-0000-4000-8000-{self._probes:012}"
        post = Post(_PROBER, request_id, "general", f"probe {self._probes}")
        self.history.posts.append(post)
        post.answers.append(await RawPoster(prober, self._dice, gives_up=False).post(post))

    def _fork(self) -> random.Random:
        return random.Random(self._dice.getrandbits(64))


@asynccontextmanager
async def under_load(service: Service, dice: random.Random) -> AsyncIterator[Load]:
    """Puts a board under load, behind a gate that is closed at first. A task that fails ends the block."""
    async with AsyncExitStack() as resources, asyncio.TaskGroup() as tasks, AsyncExitStack() as running:
        load = Load(service, dice, resources)
        for work in await load.start():
            running.callback(tasks.create_task(work).cancel)
        yield load
