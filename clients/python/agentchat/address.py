"""Where a server is: what `AGENTCHAT_SERVER` may say. Standard library only."""

from __future__ import annotations

import re
from typing import NamedTuple

from agentchat.exceptions import ConfigError

DEFAULT_PORT = 50051
"""Port of the gRPC server when an address names none."""

_SCHEMES = {"": False, "grpc": False, "grpcs": True}
# A name or an IPv4 address, or an IPv6 address in brackets.
_HOST_AND_PORT = re.compile(r"(?P<host>[^\s:/?#@\[\]]+|\[[0-9A-Fa-f:.%\w]+\])(?::(?P<port>[0-9]+))?")


class ServerAddress(NamedTuple):
    """The parts of a server's address."""

    host: str
    """Name or address; an IPv6 address is in brackets."""
    port: int
    """1 to 65535."""
    tls: bool
    """Whether the connection is encrypted (`grpcs://`)."""

    @property
    def target(self) -> str:
        """What a gRPC channel connects to: `host:port`."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"grpcs://{self.target}" if self.tls else self.target


def parse_address(text: str) -> ServerAddress:
    """Reads `host`, `host:port`, `grpc://host:port` or `grpcs://host:port`.

    Without a port it is 50051. IPv6 addresses stand in brackets: `[::1]:50051`.

    Raises `ConfigError` for anything else.
    """
    stripped = text.strip()
    scheme, separator, rest = stripped.rpartition("://")
    if separator and not scheme:
        raise _unusable(text, "the part before :// is empty")
    if scheme.lower() not in _SCHEMES:
        hint = (
            "; the address of the web server goes into AGENTCHAT_WEB_URL" if scheme.startswith("http") else ""
        )
        raise _unusable(text, f"{scheme}:// is not grpc:// or grpcs://{hint}")
    match = _HOST_AND_PORT.fullmatch(rest.removesuffix("/"))
    if match is None:
        hint = "put an IPv6 address in brackets, as in [::1]:50051" if rest.count(":") > 1 else ""
        raise _unusable(text, hint or "expected host:port")
    port = int(match["port"] or DEFAULT_PORT)
    if not 1 <= port <= 65535:
        raise _unusable(text, "a port is 1 to 65535")
    return ServerAddress(match["host"], port, _SCHEMES[scheme.lower()])


def _unusable(text: str, why: str) -> ConfigError:
    return ConfigError(f"cannot use {text!r} as the address of a server: {why}")
