"""How connections to the server are made, for the asyncio and the blocking client."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
from grpc import aio

from agentchat._version import VERSION
from agentchat.address import ServerAddress
from agentchat.exceptions import ConfigError

AsyncChannel = aio.Channel
AsyncUnaryMethod = aio.UnaryUnaryMultiCallable
Channel = grpc.Channel
UnaryMethod = grpc.UnaryUnaryMultiCallable

_OPTIONS: Final = (
    ("grpc.primary_user_agent", f"agentchat-python/{VERSION}"),
    # Each client and each watch has a connection of its own, since one connection stays with one
    # worker of the server; and closing it closes it.
    ("grpc.use_local_subchannel_pool", 1),
    # Finds a dead peer within 55 s. The server allows a ping every 30 s; the rest is slack for jitter.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    # A restarted server is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # A page ends at 3 MiB of content; metadata and names come on top.
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
)


def open_async_channel(address: ServerAddress, credentials: grpc.ChannelCredentials | None) -> AsyncChannel:
    """A channel of the running event loop. Connects on its first call."""
    if credentials is None:
        return aio.insecure_channel(address.target, options=_OPTIONS)
    return aio.secure_channel(address.target, credentials, options=_OPTIONS)


def open_channel(address: ServerAddress, credentials: grpc.ChannelCredentials | None) -> Channel:
    """A blocking channel. Connects on its first call."""
    if credentials is None:
        return grpc.insecure_channel(address.target, options=_OPTIONS)
    return grpc.secure_channel(address.target, credentials, options=_OPTIONS)


def load_credentials(address: ServerAddress, ca_file: str | Path | None) -> grpc.ChannelCredentials | None:
    """What to check the server's certificate against; None for a connection without TLS.

    Raises `ConfigError` when the file of certificates cannot be read.
    """
    if not address.tls:
        return None
    if ca_file is None:
        return grpc.ssl_channel_credentials()
    try:
        return grpc.ssl_channel_credentials(Path(ca_file).expanduser().read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the certificates in {ca_file}: {error.strerror}") from error
