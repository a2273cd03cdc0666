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
    # Finds a dead peer within 55 s. The server allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.ping_timeout_ms", 15_000),
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


def load_credentials(
    address: ServerAddress,
    ca_file: str | Path | None,
    client_cert: str | Path | None,
    client_key: str | Path | None,
) -> grpc.ChannelCredentials | None:
    """What to check the server's certificate against, and what to show it; None without TLS.

    Raises `ConfigError` when a file cannot be read or used, or only one of the last two is given.
    """
    if not address.tls:
        return None
    if bool(client_cert) != bool(client_key):
        missing = "AGENTCHAT_CLIENT_KEY" if client_cert else "AGENTCHAT_CLIENT_CERT"
        raise ConfigError(f"a client certificate needs its private key, and the reverse: set {missing}")
    trusted = _read(ca_file, "the certificates") if ca_file else None
    chain = _read(client_cert, "the client certificate") if client_cert else None
    key = _read(client_key, "the private key") if client_key else None
    _check(ca_file, client_cert, client_key)
    return grpc.ssl_channel_credentials(trusted, key, chain)


def _read(file: str | Path, what: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {what} in {file}: {error.strerror}") from error


def _check(ca_file: str | Path | None, client_cert: str | Path | None, client_key: str | Path | None) -> None:
    """Has OpenSSL look at the files: gRPC would only say, at each call, that it cannot connect."""
    import ssl  # only for TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca_file:
            context.load_verify_locations(Path(ca_file).expanduser())
    except ssl.SSLError as error:
        raise ConfigError(f"{ca_file} holds no certificate in PEM format") from error
    try:
        if client_cert and client_key:
            # No password fits an encrypted key; without one the terminal would be asked.
            context.load_cert_chain(
                Path(client_cert).expanduser(), Path(client_key).expanduser(), password=""
            )
    except ssl.SSLError as error:
        raise ConfigError(
            f"{client_cert} and {client_key} are no certificate with its private key"
            " (PEM, without a password)"
        ) from error
