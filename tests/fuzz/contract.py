"""What error_reason.proto documents of each reason, read from its comments: codes, metadata, a retry delay.

Read from the contract and not from the server, so that a server which strays from it is noticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import grpc

from agentchat_proto.v1 import error_reason_pb2

_PROTO = Path(__file__).parents[2] / "proto/agentchat/v1/error_reason.proto"
_ENTRY = re.compile(r"((?:^  //.*\n)+)^  ERROR_REASON_(\w+) = (\d+);", re.MULTILINE)
_CODES = {code.name: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Reason:
    """What the contract says of a reason."""

    codes: frozenset[grpc.StatusCode]
    metadata: frozenset[str]
    with_delay: bool


def _read() -> dict[str, Reason]:
    reasons = {}
    for comment, name, number in _ENTRY.findall(_PROTO.read_text()):
        text = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        stated = re.search(r"Metadata ((?:`\w+`(?:, )?)+)", text)
        assert error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{name}") == int(number)
        reasons[name] = Reason(
            frozenset(_CODES[word] for word in re.findall(r"[A-Z_]{5,}", text) if word in _CODES),
            frozenset(re.findall(r"`(\w+)`", stated[1]) if stated else ()),
            "with a retry delay" in text,
        )
    return reasons


REASONS = _read()
"""By name, without the prefix."""
