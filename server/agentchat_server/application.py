"""One worker's server, put together: services, interceptors, database, writer, hub.

Start: database, hub, writer, then the port. Stop, in the order that loses nothing: health says NOT_SERVING,
streams end with UNAVAILABLE, no new calls, calls under way finish, the writer writes what is queued, the
connections close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from agentchat_db.database import Database, Row
from agentchat_proto.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    agent_service_pb2,
    agent_service_pb2_grpc,
    board_service_pb2,
    board_service_pb2_grpc,
    channel_service_pb2,
    channel_service_pb2_grpc,
    file_service_pb2,
    file_service_pb2_grpc,
    mention_service_pb2,
    mention_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from agentchat_server.authentication_limits import AuthenticationLimits
from agentchat_server.claims import ClaimTimer
from agentchat_server.file_store import open_file_store
from agentchat_server.file_sweep import FileSweeper
from agentchat_server.hub import LogHub
from agentchat_server.identity import Authenticator
from agentchat_server.interceptors import MethodTable
from agentchat_server.interceptors.authentication import AuthenticationInterceptor
from agentchat_server.interceptors.errors import ErrorInterceptor
from agentchat_server.interceptors.logging import LoggingInterceptor
from agentchat_server.listening import listen, server_options
from agentchat_server.metrics import Snapshot, WorkerMetrics
from agentchat_server.posting import log_event
from agentchat_server.rate_limits import RateLimits, writing_methods
from agentchat_server.services.admin import AdminService
from agentchat_server.services.agents import AgentService
from agentchat_server.services.board import BoardService
from agentchat_server.services.channels import ChannelService
from agentchat_server.services.files import FileService
from agentchat_server.services.mentions import MentionService
from agentchat_server.services.messages import MessageService
from agentchat_server.services.search import SearchService
from agentchat_server.settings import ServerSettings
from agentchat_server.streams import StreamRegistry
from agentchat_server.uploads import Uploader
from agentchat_server.watching import Watcher
from agentchat_server.writer import MessageWriter, Post

if TYPE_CHECKING:
    from agentchat_server.tracing import Tracing

_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (admin_service_pb2, "AdminService"),
        (agent_service_pb2, "AgentService"),
        (board_service_pb2, "BoardService"),
        (channel_service_pb2, "ChannelService"),
        (file_service_pb2, "FileService"),
        (mention_service_pb2, "MentionService"),
        (message_service_pb2, "MessageService"),
        (search_service_pb2, "SearchService"),
    )
)
SERVICE_NAMES = tuple(service.full_name for service in _SERVICES)

_log = structlog.get_logger(__name__)


class Application:
    """A server in this process. `start` it, and `stop` it once.

    It counts when the settings have a port for metrics, and traces to `tracing`, which it closes at its end.
    Raises FileStoreUnusable when the settings name a file store that cannot be used.
    """

    def __init__(self, settings: ServerSettings, *, tracing: Tracing | None = None) -> None:
        self._settings = settings
        self._metrics = None if settings.metrics_port is None else WorkerMetrics(self._sample)
        self._tracing = tracing
        self._database = Database(
            settings.database_url,
            pool_size=settings.pool_size,
            statement_timeout=settings.statement_timeout,
            observe=None if tracing is None else tracing.statement,
        )
        self._authentication_limits = AuthenticationLimits(settings)
        self._authenticator = Authenticator(
            self._database, self._authentication_limits, cache_time=settings.identity_cache_time
        )
        self._streams = StreamRegistry(
            self._database, limit=settings.stream_limit, limit_per_agent=settings.agent_stream_limit
        )
        self._hub = LogHub(
            self._database,
            settings,
            on_identities_changed=self._identities_changed,
            on_claims_changed=self._claims_changed,
        )
        self._claim_timer = ClaimTimer(self._database, self._hub, poll_interval=settings.hub_poll_interval)
        self._writer = MessageWriter(
            self._database,
            settings,
            on_written=self._written,
            metrics=self._metrics,
            tracing=tracing,
        )
        self._files = open_file_store(settings.files_url) if settings.files_url else None
        self._uploader: Uploader | None = None
        self._sweeper: FileSweeper | None = None
        if self._files is not None:
            self._uploader = Uploader(
                self._database,
                self._files,
                max_bytes=settings.max_file_bytes,
                timeout=settings.upload_timeout,
            )
            self._sweeper = FileSweeper(
                self._database,
                self._files,
                interval=settings.file_sweep_interval,
                age=settings.file_sweep_age,
            )
        self._health = health.aio.HealthServicer()
        self._server = self._make_server()
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Connects and serves; returns the port.

        Raises:
            DatabaseUnavailable: when Postgres cannot be reached.
            OSError: when the port is taken.
            CertificateError: when the files for TLS cannot be used.
        """
        settings = self._settings
        await self._database.open()
        await self._hub.open()
        self._writer.open()
        self._streams.open()
        self._claim_timer.open()
        if self._sweeper is not None:
            self._sweeper.open()
        port = listen(self._server, settings)
        await self._server.start()
        for name in ("", *SERVICE_NAMES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving", host=settings.host, port=port, tls=settings.tls_cert is not None)
        return port

    async def stop(self) -> None:
        """Stops serving without losing what was acknowledged. Idempotent."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    def snapshot(self) -> Snapshot | None:
        """The metrics as they are now, None when they are off."""
        return None if self._metrics is None else self._metrics.snapshot()

    async def _stop(self) -> None:
        await self._health.enter_graceful_shutdown()
        self._streams.end_all()
        await self._server.stop(self._settings.shutdown_grace)
        await self._writer.close()
        await self._claim_timer.close()
        for files in (self._uploader, self._sweeper, self._files):
            if files is not None:
                await files.close()
        await self._streams.close()
        await self._hub.close()
        await self._database.close()
        if self._tracing is not None:
            await self._tracing.close()
        _log.info("stopped")

    def _sample(self) -> dict[str, float]:
        """The metrics that parts of the server keep anyway."""
        pool = self._database.pool_use()
        return {
            "agentchat_batches_under_way": self._writer.batches_under_way,
            "agentchat_write_queue_messages": self._writer.queued_messages,
            "agentchat_write_queue_bytes": self._writer.queued_bytes,
            "agentchat_hub_head": self._hub.head,
            "agentchat_hub_behind_messages": self._hub.behind,
            "agentchat_hub_last_read_timestamp_seconds": self._hub.last_read_at,
            "agentchat_database_pool_connections": pool.connections,
            "agentchat_database_pool_in_use": pool.in_use,
            "agentchat_database_pool_waiting": pool.waiting,
            "agentchat_authentication_cache_hits_total": self._authenticator.cache_hits,
            "agentchat_authentication_cache_misses_total": self._authenticator.cache_misses,
        }

    def _identities_changed(self) -> None:
        self._authenticator.forget()
        self._streams.check_soon()

    def _written(self, posts: Sequence[Post], rows: Sequence[Row]) -> None:
        self._hub.append(
            log_event(post, row) for post, row in zip(posts, rows, strict=True) if row.outcome == "SENT"
        )

    def _claims_changed(self, notification: str) -> None:
        self._claim_timer.hear(notification)

    def _make_server(self) -> grpc.aio.Server:
        methods: Any = MethodTable(
            (
                LoggingInterceptor(metrics=self._metrics, tracing=self._tracing),
                ErrorInterceptor(),
                AuthenticationInterceptor(
                    self._authenticator,
                    self._authentication_limits,
                    RateLimits(self._settings),
                    writing_methods(*_SERVICES),
                ),
            )
        )
        database = self._database
        watcher = Watcher(self._hub, self._streams, self._settings.checkpoint_interval)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(database), methods)
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(AgentService(database), methods)
        board_service_pb2_grpc.add_BoardServiceServicer_to_server(BoardService(database), methods)
        channel_service_pb2_grpc.add_ChannelServiceServicer_to_server(ChannelService(database), methods)
        file_service_pb2_grpc.add_FileServiceServicer_to_server(
            FileService(database, self._files, self._uploader, public_url=self._settings.public_url), methods
        )
        mention_service_pb2_grpc.add_MentionServiceServicer_to_server(
            MentionService(database, watcher, self._claim_timer), methods
        )
        message_service_pb2_grpc.add_MessageServiceServicer_to_server(
            MessageService(database, self._writer, watcher), methods
        )
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(SearchService(database), methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        names = (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        # What `enable_server_reflection` adds to anything but an asyncio server holds a thread per stream.
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(names), methods
        )
        server = grpc.aio.server(options=server_options(self._settings))
        server.add_generic_rpc_handlers((methods,))
        return server
