"""How the server listens: the options of its connections, and its port, with TLS or without.

The sizes are those of the API: what no legal request needs is refused by gRPC itself, before anything of it
reaches a service, with RESOURCE_EXHAUSTED and without a reason of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import grpc
import grpc.aio
import structlog

from agentchat_server.settings import ServerSettings
from agentchat_server.tls import Certificate, CertificateError, CertificateFiles

MAX_REQUEST_BYTES = 1024 * 1024 + 64 * 1024
"""The largest request: a chunk of a file (1 MiB) with what wraps it. A message is far smaller."""

MAX_METADATA_BYTES = 16 * 1024
"""The most metadata of a call, keys and values together with 32 bytes for each, as HTTP/2 counts them."""

MAX_STREAMS_PER_CONNECTION = 1024
"""Calls under way on one connection; a client's further ones wait in the client."""

# A connection must have introduced itself within this time, TLS included.
_HANDSHAKE_TIMEOUT_MS = 20_000

_log = structlog.get_logger(__name__)


def server_options(settings: ServerSettings) -> tuple[tuple[str, int], ...]:
    """What gRPC is told about the connections of a worker."""
    return (
        # Workers share the port. The supervisor has made sure that nobody else does.
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        # gRPC would refuse some of the calls between the first and the second; so it is all or none.
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_MS),
        # A client may ask every 10 seconds whether the connection lives, also without a call under way.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Ask it back, so that streams of a peer that is gone do not stay.
        ("grpc.keepalive_time_ms", round(settings.keepalive_time * 1000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout * 1000)),
        # Without this gRPC waits a minute for the answer to its ping, whatever the time-out above says.
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive_timeout * 1000)),
    )


def listen(server: grpc.aio.Server, settings: ServerSettings) -> int:
    """Binds the port of the settings; returns its number.

    Raises:
        OSError: when the port is taken.
        CertificateError: when the files of the certificate cannot be used.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    files = CertificateFiles.of_settings(settings)
    try:
        if files is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(files))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {settings.host} port {settings.port}") from error


def _credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC, in a thread of its own, for every connection that comes in."""
        try:
            certificate = files.read_if_changed()
        except CertificateError as error:
            _log.warning("keeping the certificate in use", error=str(error))
            return None
        if certificate is None:
            return None
        _log.info("serving a renewed certificate")
        return _configuration(certificate)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(files.read()),
        # Its type does not know of None, which the function's documentation offers.
        cast("Callable[[], grpc.ServerCertificateConfiguration]", renewed),
        files.demands_client_certificates,
    )


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.key, certificate.chain)], root_certificates=certificate.client_ca
    )
