"""Peers, as gRPC names them and as limits count them."""

from __future__ import annotations

import pytest

from agentchat_server.peers import peer_of


@pytest.mark.parametrize(
    ("grpc_peer", "peer"),
    [
        ("ipv4:192.0.2.1:50123", "192.0.2.1"),
        ("ipv6:%5B::1%5D:50123", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:50123", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::1%5D:9", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50123", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:50123", "192.0.2.1"),
        ("unix:/run/agentchat.sock", "unix"),
        ("unix:", "unix"),
        ("unix-abstract:name", "unknown"),
        ("ipv4:nonsense", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_peer_is_an_address_or_a_network_of_64_bits(grpc_peer: str, peer: str) -> None:
    assert peer_of(grpc_peer) == peer
