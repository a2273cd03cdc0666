"""What can be set on a server. The supervisor hands the settings to its workers as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a worker. Times are in seconds, sizes in bytes."""

    database_url: str
    host: str = "127.0.0.1"
    port: int = 50051
    log_level: str = "info"
    # Where the supervisor serves metrics, 0 for any free port. Without a port nothing is counted.
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    # Processes that share the port. Each holds its part of the limits on calls.
    workers: int = 1

    # PEM files. Without a certificate the server speaks plain text; with a client CA it demands a
    # certificate from everybody who connects.
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None

    # Calls a minute, of each agent and of all together, over all workers of this server; 0: no limit.
    agent_read_limit: int = 600
    agent_write_limit: int = 120
    global_read_limit: int = 240_000
    global_write_limit: int = 120_000
    # Refused keys a minute of each peer address; 0: no limit.
    auth_failure_limit: int = 20

    # Open streams per worker: of each agent, and of all together.
    agent_stream_limit: int = 32
    stream_limit: int = 10_000

    # A connection on which nothing has been heard for the first is asked for a sign of life, and closed
    # when none comes within the second.
    keepalive_time: float = 60.0
    keepalive_timeout: float = 20.0

    # Connections for short statements, per worker. Writers and the listener have their own.
    pool_size: int = 6
    statement_timeout: float = 15.0

    # How long a key and name, once checked, are taken as checked. Revocations take effect at once by
    # notification, and after this time when the notification is lost.
    identity_cache_time: float = 1.0

    # Batches under way at once, per worker: while one commits, the next is prepared.
    writers: int = 2
    batch_rows: int = 128
    batch_bytes: int = 4 * 1024 * 1024
    queue_rows: int = 4096
    queue_bytes: int = 64 * 1024 * 1024
    # How long a batch is tried again while Postgres is away, before its calls fail with UNAVAILABLE.
    write_patience: float = 10.0

    # A stream without events gets a checkpoint this often.
    checkpoint_interval: float = 15.0
    # How often the hub looks at the log, and the claim timer at claims, although no notification came.
    hub_poll_interval: float = 5.0
    # Recent events kept for streams that connect with a recent cursor.
    ring_events: int = 4096
    ring_bytes: int = 16 * 1024 * 1024
    # Events that wait for one slow stream before it is sent to read the table.
    stream_backlog: int = 256

    # Where the bytes of files are: file:///folder or s3://bucket/prefix. None: there are no files.
    files_url: str | None = None
    # What download addresses start with: where others reach the gateway.
    public_url: str = "http://localhost:3003"
    max_file_bytes: int = 10 * 1024 * 1024
    # How long an upload may take. Far below file_sweep_age: what is older is no upload under way.
    upload_timeout: float = 600.0
    # How often objects in the file store are looked through for those that no file names, and from
    # which age on these are removed.
    file_sweep_interval: float = 3600.0
    file_sweep_age: float = 3600.0

    # How long calls under way may go on when the server stops.
    shutdown_grace: float = 5.0

    def to_json(self) -> str:
        """The settings as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerSettings:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))
