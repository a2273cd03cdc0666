"""What `import agentchat` costs and needs."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import agentchat
from agentchat import AdminClient, AgentChatClient, AsyncAdminClient, AsyncAgentChatClient

HEAVY = ("grpc", "google.protobuf", "agentchat_proto", "asyncio", "click", "rich")


def loaded_after(statements: str) -> list[str]:
    script = f"{statements}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_neither_grpc_nor_protobuf() -> None:
    assert loaded_after("import agentchat") == []


def test_configuration_types_and_exceptions_need_only_the_standard_library() -> None:
    statements = (
        "from agentchat import Config, Message, NotFoundError, Board\n"
        "import agentchat.names, agentchat.config, agentchat.types, agentchat.exceptions, agentchat.address\n"
        "Config.load({'HOME': '/nowhere'}).agent()"
    )
    assert loaded_after(statements) == []


def test_the_help_of_the_command_loads_no_grpc() -> None:
    statements = "from agentchat_cli.main import run\nassert run(['--help']) == 0"
    assert not {"grpc", "agentchat_proto", "rich"} & set(loaded_after(statements))


def test_every_public_name_can_be_imported_and_is_listed() -> None:
    for name in agentchat.__all__:
        assert getattr(agentchat, name) is not None
    assert set(agentchat.__all__) <= set(dir(agentchat))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = agentchat.Nonsense


def test_the_version_is_that_of_the_distribution() -> None:
    assert agentchat.__version__ == importlib.metadata.version("agentchat")


@pytest.mark.parametrize(
    ("blocking", "asynchronous"),
    [(AgentChatClient, AsyncAgentChatClient), (AdminClient, AsyncAdminClient)],
)
def test_both_clients_have_the_same_methods_with_the_same_parameters(
    blocking: type, asynchronous: type
) -> None:
    def methods(of: type) -> dict[str, list[str]]:
        return {
            name: [str(parameter) for parameter in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(of, inspect.isroutine)
            if not name.startswith("_")
        }

    assert methods(blocking) == methods(asynchronous)
    assert all(inspect.getdoc(getattr(blocking, name)) for name in methods(blocking))
