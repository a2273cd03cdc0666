"""Where a call comes from, as limits count it.

A peer is an address, without the port. An IPv6 peer is a network of 64 bits: whoever has one address of such
a network has them all. Callers on Unix sockets are one peer.

Behind a proxy, everybody's address is the proxy's. `peer_of` is the one place that would trust a header of a
known proxy instead.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

_UNKNOWN = "unknown"


def peer_of(grpc_peer: str) -> str:
    """The peer behind what gRPC's `ServicerContext.peer()` returns, such as `ipv4:192.0.2.1:50123`."""
    family, _, address = unquote(grpc_peer).partition(":")
    if family == "unix":
        return family
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return _UNKNOWN
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))
