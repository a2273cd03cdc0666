"""The generated package works under its rewritten name, and its types catch mistakes."""

import asyncio
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from agentchat_proto.v1 import message_service_pb2, message_service_pb2_grpc
from tests.typing import generated_stubs

ROOT = Path(__file__).resolve().parents[2]

# Each mistake with the error that mypy must report on its line.
MISTAKES = """\
import grpc
from agentchat_proto.v1 import search_service_pb2 as pb, search_service_pb2_grpc as services

request = pb.SearchMessagesRequest(query=1)  # arg-type
request = pb.SearchMessagesRequest(no_such_field="")  # call-arg

def blocking(channel: grpc.Channel) -> None:
    services.SearchServiceStub(channel).SearchMessages("words")  # arg-type
    services.SearchServiceStub(channel).NoSuchCall(request)  # attr-defined

async def concurrent(channel: grpc.aio.Channel) -> None:
    services.SearchServiceStub(channel).SearchMessages(request).results  # attr-defined

class Unfinished(services.SearchServiceServicer):
    pass

Unfinished()  # abstract

class Wrong(services.SearchServiceServicer):
    async def SearchMessages(  # override
        self, request: pb.SearchMessagesRequest, context: object
    ) -> pb.SearchMessagesRequest:
        return request
"""


def run_mypy(path: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        str(path),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_strict_mypy_accepts_both_kinds_of_stub_and_an_asyncio_servicer() -> None:
    result = run_mypy(ROOT / "tests" / "typing" / "generated_stubs.py")

    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_finds_wrong_requests_calls_and_servicers(tmp_path: Path) -> None:
    path = tmp_path / "mistakes.py"
    path.write_text(MISTAKES, "utf-8")
    expected = {
        (number, comment.group(1))
        for number, line in enumerate(MISTAKES.splitlines(), start=1)
        if (comment := re.search(r"# ([a-z-]+)$", line))
    }

    result = run_mypy(path)

    found = re.findall(r"mistakes\.py:(\d+): error: .*\[([a-z-]+)\]$", result.stdout, re.MULTILINE)
    assert {(int(number), code) for number, code in found} == expected, result.stdout


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Address of a server of the checked servicer."""
    server = grpc.aio.server()
    generated_stubs.serve(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(grace=None)


async def test_an_asyncio_stub_calls_an_asyncio_servicer(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await generated_stubs.asyncio_calls(channel, [b"one ", b"two"])

    assert answer == (7, "general/1-notes.txt", b"one two")


async def test_a_blocking_stub_calls_an_asyncio_servicer(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        answer = await asyncio.to_thread(generated_stubs.blocking_calls, channel, [b"one ", b"two"])

    assert answer == (7, "general/1-notes.txt", b"one two")


def test_the_wire_package_keeps_its_name() -> None:
    assert message_service_pb2.DESCRIPTOR.package == "agentchat.v1"
    assert message_service_pb2.SendMessageRequest.DESCRIPTOR.full_name == ("agentchat.v1.SendMessageRequest")


def test_the_declared_dependencies_start_at_the_versions_that_the_generated_code_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = {(each := Requirement(line)).name: each for line in project["dependencies"]}
    source = Path(message_service_pb2.__file__).read_text("utf-8")
    versions = re.search(r"Domain\.PUBLIC,\s*(\d+),\s*(\d+),\s*(\d+),", source)
    assert versions

    floors = {
        name: Version(specifier.version)
        for name in ("grpcio", "protobuf")
        for specifier in requirements[name].specifier
        if specifier.operator == ">="
    }

    assert floors == {
        "grpcio": Version(message_service_pb2_grpc.GRPC_GENERATED_VERSION),
        "protobuf": Version(".".join(versions.groups())),
    }
