"""The command without a server: usage, exit codes, what is missing, and that nothing ends in a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from agentchat import (
    AgentChatError,
    ConfigError,
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from agentchat_cli import main
from agentchat_cli.failures import describe_failure, missing_extra
from agentchat_cli.lazy import LazyGroup
from agentchat_cli.output import plural

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process with an empty home folder: exit code, stdout, stderr."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AGENTCHAT_API_KEY", "AGENTCHAT_CONFIG", "AGENTCHAT_ADMIN_KEY", "AGENTCHAT_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run_it(*arguments: str) -> tuple[int, str, str]:
        code = main.run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["chek"], "did you mean check?"),
        (["--nonsense"], "No such option"),
        (["read"], "CHANNEL"),
        (["read", "general", "-n", "0"], "1<=x<=200"),
        (["read", "general", "--before", "soon"], "2026-01-31T12:00:00Z"),
        (["read", "general", "--follow", "--before", "2h"], "--follow"),
        (["post", "general"], "MESSAGE"),
        (["post", "general", "x", "--metadata", "{"], "not JSON"),
        (["post", "general", "x", "--metadata", "[1]"], "JSON object"),
        (["search", "x", "-n", "51"], "1<=x<=50"),
        (["channels", "--type", "nonsense"], "technology"),
        (["mentions", "--mark-read"], "--mark-read"),
        (["mentions", "an-id"], "--mark-read"),
        (["mentions", "--watch", "--all"], "exclude each other"),
        (["upload", "notes.txt"], "CHANNEL"),
        (["upload", "-", "general"], "--name"),
        (["download", "notes.txt"], "agentchat files CHANNEL"),
        (["download", "general/1-../../x"], "agentchat files CHANNEL"),
        (["download", "general/1-.."], "agentchat files CHANNEL"),
        (["download", "general/1-x", "-o", "-", "--json"], "--json"),
        (["files", "general", "-n", "201"], "1<=x<=200"),
        (["serve", "--database-url", "x", "--public-url", "chat.example.com"], "--public-url"),
        (["admin", "keys", "revoke"], "--machine"),
        (["admin", "keys", "create", "m", "--expires-in", "soon"], "no length of time"),
        (["admin", "kesy"], "did you mean keys?"),
        (["completion", "tcsh"], "fish"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_help(run: Run, arguments: list[str], part: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert part in first
    assert second.startswith("try: agentchat")
    assert second.endswith("--help")


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"], ["read", "x"], ["post", "x", "y"], ["dm", "x", "y"], ["search", "x"], ["status"],
        ["channels"], ["mentions"], ["mentions", "--watch"], ["agents"], ["whoami"],
    ],
)  # fmt: skip
def test_without_a_key_every_command_says_where_one_goes(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: no API key: set AGENTCHAT_API_KEY")
    assert "agentchat up" in err


def test_a_broken_config_file_is_named_by_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".agentchat").mkdir()
    (tmp_path / ".agentchat" / "config").write_text("nonsense\n")
    (tmp_path / ".agentchat" / "config").chmod(0o600)
    code, _, err = run("whoami")
    assert code == 1
    assert "config, line 1: expected KEY=VALUE" in err


@pytest.mark.parametrize("arguments", [[], ["admin"], ["admin", "keys"], ["db"]])
def test_a_group_without_a_command_shows_its_help(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: agentchat")
    assert "\nCommands:\n" in err


def test_every_command_has_help_that_fits_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    paths = [[name] for name in main.COMMANDS]
    paths += [["admin", name] for name in ("keys", "agents", "channels", "agent-key")]
    paths += [["admin", "keys", name] for name in ("create", "rotate", "revoke", "list")]
    for path in [[], *paths]:
        code, out, err = run(*path, "--help")
        assert (code, err) == (0, ""), path
        assert max(map(len, out.splitlines())) <= 80, path
    assert run("-h")[1] == run("--help")[1]


def test_every_command_that_prints_data_takes_json(run: Run) -> None:
    for name in (
        "check",
        "read",
        "post",
        "dm",
        "search",
        "mentions",
        "status",
        "channels",
        "agents",
        "whoami",
    ):
        assert "--json" in run(name, "--help")[1], name


def test_the_version_is_printed(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("agentchat 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_calls_the_command(run: Run, shell: str) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0
    assert "_AGENTCHAT_COMPLETE" in out


def test_completion_knows_commands_without_importing_them() -> None:
    context = click.Context(main.cli, info_name="agentchat")
    assert [item.value for item in main.cli.shell_complete(context, "ch")] == ["check", "channels"]
    assert "--agent" in [item.value for item in main.cli.shell_complete(context, "--a")]


@pytest.mark.parametrize(
    ("raised", "code", "err"),
    [
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (
            NotFoundError("no channel is named \x1b[31mx", reason="CHANNEL_NOT_FOUND"),
            1,
            "\\x1b[31mx\nsee which",
        ),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied"),
        (RuntimeError("odd"), 1, "error: unexpected RuntimeError: odd\nset AGENTCHAT_DEBUG=1"),
        (click.FileError("x", "gone"), 1, "error: "),
    ],
)
def test_failures_end_with_their_exit_code_and_no_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, err: str
) -> None:
    def fail(**_: Any) -> None:
        raise raised

    monkeypatch.setattr(main.cli, "main", fail)
    result = run("whoami")
    assert (result[0], result[1]) == (code, "")
    assert err in result[2]
    assert "Traceback" not in result[2]


def test_debugging_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(main.cli, "main", fail)
    monkeypatch.setenv("AGENTCHAT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="odd"):
        run("whoami")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (UnavailableError("x"), "agentchat up"),
        (DeadlineExceededError("x"), "try again"),
        (ResourceExhaustedError("x", retry_after=2.4), "try again in 3 s"),
        (ResourceExhaustedError("x", retry_after=0.1), "try again in 1 s"),
        (InternalError("x", metadata={"request_id": "r1"}), "request_id r1"),
        (AgentChatError("x", reason="API_KEY_INVALID"), "agentchat admin keys create"),
    ],
)
def test_a_failure_comes_with_what_to_do_next(error: AgentChatError, hint: str) -> None:
    problem, advice = describe_failure(error)
    assert problem == "x"
    assert hint in (advice or "")
    assert describe_failure(ConfigError("odd file")) == ("odd file", None)


def test_a_missing_server_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pip install 'agentchat[server]'" in (
        missing_extra(ModuleNotFoundError("No module named 'psycopg'", name="psycopg.rows")) or ""
    )
    assert missing_extra(ModuleNotFoundError("No module named 'odd'", name="odd")) is None

    def missing(module: str) -> None:
        raise ModuleNotFoundError("No module named 'agentchat_server'", name="agentchat_server")

    monkeypatch.setattr("agentchat_cli.lazy.import_module", missing)
    group = LazyGroup("agentchat", lazy_commands={"up": ("agentchat_cli.serving:up", "Runs.")})
    result = CliRunner().invoke(group, ["up"])
    assert result.exit_code == 1
    assert "pip install 'agentchat[server]'" in result.output


def test_the_installed_command_runs_in_a_folder_and_home_that_it_cannot_read(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentchat_cli", "whoami"],
        env={"HOME": "/dev/null", "PATH": "", "LC_ALL": "C"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no API key")


def test_numbers_are_counted_in_english() -> None:
    assert [plural(n, "message") for n in (0, 1, 1234)] == ["0 messages", "1 message", "1,234 messages"]
