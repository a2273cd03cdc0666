"""The `agentchat` command against the real server, as its users start it: in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentchat import AsyncAgentChatClient, Config
from tests.board import Board

COMMAND = (sys.executable, "-m", "agentchat_cli")
DEADLINE = 30.0
HOSTILE = "red \x1b[31malert\x1b[0m \x9b2J \u202egnp.exe\x07\nsecond line"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document that was printed."""
        assert self.err == ""
        assert self.code == 0
        assert self.out.count("\n") == 1
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """A machine with a configured home folder, on which commands are run."""

    home: Path
    environment: dict[str, str]

    async def start(self, *arguments: str, stdin: bytes | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            env=self.environment,
            cwd=self.home,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, stdin: bytes | None = None) -> Result:
        process = await self.start(*arguments, stdin=stdin)
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate(stdin)
        assert process.returncode is not None
        assert b"Traceback" not in err
        return Result(process.returncode, out.decode(), err.decode())

    async def run_at_terminal(self, *arguments: str, **environment: str) -> str:
        """What a terminal of 80 columns receives."""
        main_end, other_end = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            env={**self.environment, "COLUMNS": "80", "TERM": "xterm-256color", **environment},
            cwd=self.home,
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
        )
        os.close(other_end)
        received = await asyncio.to_thread(_drain, main_end)
        async with asyncio.timeout(DEADLINE):
            assert await process.wait() == 0
        return received.decode().replace("\r\n", "\n")


@pytest.fixture
async def shell(board: Board, tmp_path: Path) -> Shell:
    """The machine `laptop`, in a folder named `web-shop`."""
    return await configured_machine(board, tmp_path)


@pytest.fixture
async def file_shell(file_board: Board, tmp_path: Path) -> Shell:
    """The same machine, on a board that keeps files."""
    return await configured_machine(file_board, tmp_path)


async def configured_machine(board: Board, tmp_path: Path) -> Shell:
    """A machine with a key of its own."""
    key = await board.machine("laptop")
    home = tmp_path / "web-shop"
    (home / ".agentchat").mkdir(parents=True)
    config = home / ".agentchat" / "config"
    config.write_text(f"MACHINE_NAME=laptop\nAGENTCHAT_API_KEY={key}\nAGENTCHAT_SERVER={board.target}\n")
    config.chmod(0o600)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AGENTCHAT_", "MACHINE_"))
    }
    machine = Shell(home, {**kept, "HOME": str(home), "AGENTCHAT_ADMIN_KEY": board.admin_key})
    # Mentions need agents that are known.
    for name in ("laptop-web-shop", "laptop-ben"):
        await board.agent(key, name).read("general")
    return machine


async def test_whoami_tells_the_derived_name_and_the_server(shell: Shell, board: Board) -> None:
    plain = await shell.run("whoami")
    assert plain.out.startswith("laptop-web-shop\n")
    assert board.target in plain.out
    assert plain.err == ""
    assert (await shell.run("--project", "API v2", "whoami", "--json")).json["name"] == "laptop-api-v2"
    assert (await shell.run("--agent", "laptop-ben", "whoami", "--json")).json["name"] == "laptop-ben"


async def test_a_message_is_posted_read_answered_and_found(shell: Shell) -> None:
    sent = (await shell.run("post", "#general", "the migration is done", "--json")).json
    message = sent["message"]
    assert message["metadata"] == {"project": "web-shop"}
    reply = await shell.run(
        "--agent",
        "laptop-ben",
        "post",
        "general",
        "-",
        "--reply-to",
        message["id"],
        stdin="größer\n- no\n".encode(),
    )
    assert reply.code == 0

    page = (await shell.run("read", "general", "--json")).json
    assert [m["content"] for m in page["messages"]] == ["the migration is done", "größer\n- no"]
    assert page["messages"][1]["parent_message_id"] == message["id"]
    plain = await shell.run("read", "general")
    assert message["id"] in plain.out
    assert "  größer\n  - no\n" in plain.out
    found = (await shell.run("search", "migrations", "--channel", "general", "--json")).json
    assert found["query"] == "migrations"
    assert found["results"][0]["snippet"].endswith("**migration** is done")
    assert "**migration**" in (await shell.run("search", "migration", "--author", "laptop-web-shop")).out


async def test_pages_and_times_bound_what_is_read(shell: Shell) -> None:
    for number in range(3):
        await shell.run("post", "general", str(number))
    newest = (await shell.run("read", "general", "-n", "2", "--json")).json
    assert [m["content"] for m in newest["messages"]] == ["1", "2"]
    older = ["read", "general", "-n", "2", "--json", "--page-token", newest["next_page_token"]]
    assert [m["content"] for m in (await shell.run(*older)).json["messages"]] == ["0"]
    bounded = ["read", "general", "--json", "--before", newest["messages"][0]["created_at"]]
    assert [m["content"] for m in (await shell.run(*bounded)).json["messages"]] == ["0"]
    assert (await shell.run("read", "general", "--before", "2h", "--json")).json["messages"] == []


async def test_mentions_are_listed_with_ids_and_marked_read_by_them(shell: Shell) -> None:
    for number in range(3):
        await shell.run("--agent", "laptop-ben", "post", "general", f"@laptop-web-shop {number}")
    listed = (await shell.run("mentions", "--json")).json
    ids = [mention["mention_id"] for mention in listed["mentions"]]
    assert listed["unread_count"] == 3
    assert [mention["from"] for mention in listed["mentions"]] == ["laptop-ben"] * 3
    plain = (await shell.run("mentions")).out
    assert all(identifier in plain for identifier in ids)
    assert listed["mentions"][0]["message_id"] in plain

    assert (await shell.run("mentions", "--mark-read", *ids[:2], "--json")).json == {"marked_read": 2}
    assert [m["mention_id"] for m in (await shell.run("mentions", "--json")).json["mentions"]] == ids[2:]
    assert (await shell.run("mentions", "--mark-all-read")).out == "Marked 1 mention read.\n"
    everything = (await shell.run("mentions", "--all", "--json")).json["mentions"]
    assert [mention["mention_id"] for mention in everything] == ids[::-1]
    assert {mention["read"] for mention in everything} == {True}


async def test_a_direct_message_shows_on_the_board_of_its_target(shell: Shell) -> None:
    sent = (await shell.run("--agent", "laptop-ben", "dm", "@laptop-web-shop", "ready?", "--json")).json
    assert [agent["name"] for agent in sent["mentioned"]] == ["laptop-web-shop"]
    board = (await shell.run("check", "--json")).json
    assert board["unread_mentions"] == 1
    assert board["channels"][0]["channel_name"] == "direct-messages"
    assert board["channels"][0]["latest_message"]["content"] == "@laptop-web-shop ready?"
    plain = (await shell.run("check")).out
    assert "#direct-messages  1 unread\n  laptop-ben, " in plain
    assert "1 unread mention: agentchat mentions\n" in plain


async def test_channels_agents_and_status_are_listed(shell: Shell) -> None:
    await shell.run("--agent", "laptop-ben", "post", "project-shop", "hello")
    assert "#project-shop" not in (await shell.run("channels")).out
    shown = (await shell.run("channels", "--all", "--type", "project", "--json")).json["channels"]
    assert "project-shop" in [channel["name"] for channel in shown]
    assert {channel["type"] for channel in shown} == {"project"}
    agents = (await shell.run("agents", "--online", "--json")).json["agents"]
    assert {agent["name"] for agent in agents} == {"laptop-web-shop", "laptop-ben"}
    status = (await shell.run("status", "--json")).json
    assert status["agent"]["name"] == "laptop-web-shop"
    assert {channel["name"]: channel["unread_count"] for channel in status["channels"]}["general"] == 0
    assert "#general" in (await shell.run("status")).out


async def test_following_prints_what_is_there_and_what_comes_as_json_lines(shell: Shell) -> None:
    await shell.run("post", "general", "one")
    follower = await shell.start("read", "general", "--follow", "--json")
    assert follower.stdout is not None
    async with asyncio.timeout(DEADLINE):
        lines = [await follower.stdout.readline()]
        # The first line is printed when the watch is live, so nothing is missed from here on.
        for content in ("two", "three"):
            await shell.run("--agent", "laptop-ben", "post", "general", content)
        lines += [await follower.stdout.readline() for _ in range(2)]
        follower.send_signal(signal.SIGINT)
        _, err = await follower.communicate()

    assert [json.loads(line)["content"] for line in lines] == ["one", "two", "three"]
    assert (follower.returncode, err.strip()) == (130, b"")
    channels = (await shell.run("check", "--json")).json["channels"]
    assert {channel["channel_name"]: channel["unread_count"] for channel in channels}["general"] == 0


async def test_watching_mentions_prints_the_unread_ones_and_ends_with_130_when_interrupted(
    shell: Shell,
) -> None:
    await shell.run("--agent", "laptop-ben", "post", "general", "@laptop-web-shop first")
    watcher = await shell.start("mentions", "--watch")
    assert watcher.stdout is not None
    async with asyncio.timeout(DEADLINE):
        head = await watcher.stdout.readline()
        body = await watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        _, err = await watcher.communicate()
    assert head.startswith(b"laptop-ben  #general  ")
    assert body == b"  @laptop-web-shop first\n"
    assert (watcher.returncode, err.strip()) == (130, b"")


async def test_mentions_say_that_they_are_claimed_and_that_they_come_again(
    board: Board, shell: Shell
) -> None:
    await shell.run("--agent", "laptop-ben", "post", "general", "@laptop-web-shop first")
    config = Config.load(shell.environment)
    async with AsyncAgentChatClient.from_config(agent="laptop-web-shop", config=config) as client:
        (mention,) = await client.check_mentions()
        claim = await client.claim_mention(mention.mention_id)
        assert "  claimed  " in (await shell.run("mentions")).out
        watcher = await shell.start("mentions", "--watch")
        assert watcher.stdout is not None
        async with asyncio.timeout(DEADLINE):
            first = [await watcher.stdout.readline() for _ in range(3)]
            await client.release_claim(claim)
            again = [await watcher.stdout.readline() for _ in range(3)]
            watcher.send_signal(signal.SIGINT)
            await watcher.communicate()
    assert b"  claimed  " in first[0]
    assert first[0].replace(b"  claimed  ", b"  again  ") == again[0]
    assert first[1:] == again[1:]


async def test_a_reader_that_goes_away_causes_no_noise(shell: Shell) -> None:
    for number in range(3):
        await shell.run("post", "general", f"{number} " + "x" * 30_000)
    reader = await shell.start("read", "general")
    assert reader.stdout is not None
    async with asyncio.timeout(DEADLINE):
        await reader.stdout.readline()
        # Closes our end of the pipe while most of it is still to be written.
        reader._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert reader.stderr is not None
        err = await reader.stderr.read()
        await reader.wait()
    assert err == b""
    assert reader.returncode == 1


async def test_hostile_content_is_harmless_on_a_terminal_and_exact_in_json(shell: Shell) -> None:
    await shell.run("post", "general", "-", stdin=HOSTILE.encode())

    shown = await shell.run_at_terminal("read", "general", NO_COLOR="1")
    checked = await shell.run_at_terminal("check", NO_COLOR="1")
    piped = (await shell.run("read", "general")).out
    as_json = (await shell.run("read", "general", "--json")).out

    for text in (shown, checked, piped, as_json):
        assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(text)
    assert "  red \\x1b[31malert\\x1b[0m \\x9b2J \\u202egnp.exe\\x07\n  second line\n" in shown
    assert json.loads(as_json)["messages"][0]["content"] == HOSTILE


async def test_a_terminal_gets_colours_and_lines_that_fit(shell: Shell) -> None:
    await shell.run("post", "general", "word " * 60)
    coloured = await shell.run_at_terminal("read", "general")
    plain = await shell.run_at_terminal("read", "general", NO_COLOR="1")
    assert "\x1b[36m" in coloured
    assert "\x1b" not in plain
    assert "just now" in plain
    for command in (
        ["read", "general"],
        ["check"],
        ["status"],
        ["channels", "--all"],
        ["agents"],
        ["--help"],
    ):
        output = await shell.run_at_terminal(*command, NO_COLOR="1")
        assert max(map(len, output.split("\n"))) <= 80, command


async def test_failures_say_what_happened_and_what_to_do_next(shell: Shell) -> None:
    unknown = await shell.run("read", "nowhere")
    assert (unknown.code, unknown.out) == (1, "")
    assert (
        unknown.err == "error: no channel is named nowhere\nsee which there are: agentchat channels --all\n"
    )
    assert "agentchat agents" in (await shell.run("dm", "nobody", "hello")).err
    foreign = await shell.run("--agent", "UPPER case", "whoami")
    assert foreign.code == 1
    assert foreign.err.startswith("error: x-agent-name")
    gone = Shell(shell.home, {**shell.environment, "AGENTCHAT_SERVER": "127.0.0.1:1"})
    unreachable = await gone.run("check")
    assert unreachable.code == 1
    assert unreachable.err.startswith("error: cannot reach the AgentChat server at 127.0.0.1:1")
    assert "agentchat up" in unreachable.err
    wrong = Shell(shell.home, {**shell.environment, "AGENTCHAT_API_KEY": "ack_wrong"})
    assert "~/.agentchat/config" in (await wrong.run("check")).err


async def test_an_administrator_makes_rotates_lists_and_revokes_keys(shell: Shell) -> None:
    made = await shell.run("admin", "keys", "create", "server", "--expires-in", "30d")
    assert made.out.startswith("ack_")
    assert made.out.count("\n") == 1
    rotated = (await shell.run("admin", "keys", "rotate", "server", "--grace", "1h", "--json")).json
    assert rotated["old_keys_expire_at"]
    listed = await shell.run("admin", "keys", "list")
    assert rotated["machine_key"]["id"] in listed.out
    assert made.out.strip() not in listed.out
    assert (
        await shell.run("admin", "keys", "revoke", rotated["machine_key"]["id"])
    ).out == "Revoked 1 key.\n"
    assert (await shell.run("admin", "keys", "revoke", "--machine", "server", "--json")).json == {
        "revoked": 1
    }


async def test_an_administrator_runs_agents_and_channels(shell: Shell) -> None:
    lone = (await shell.run("admin", "agent-key", "create", "lone-agent", "--json")).json
    alone = Shell(shell.home, {**shell.environment, "AGENTCHAT_API_KEY": lone["key"]})
    assert (await alone.run("whoami", "--json")).json["name"] == "lone-agent"
    assert (await shell.run("admin", "agents", "deactivate", "laptop-ben")).code == 0
    refused = await shell.run("dm", "laptop-ben", "hello")
    assert refused.code == 1
    assert "agents activate" in refused.err
    assert (await shell.run("admin", "agents", "activate", "laptop-ben", "--json")).json["agent"]["active"]
    assert (await shell.run("admin", "agents", "remove", "laptop-ben")).code == 0
    assert (await shell.run("admin", "channels", "archive", "general")).code == 0
    assert "unarchive" in (await shell.run("post", "general", "x")).err
    assert (await shell.run("admin", "channels", "unarchive", "general")).code == 0
    assert (await shell.run("post", "general", "x")).code == 0


async def test_the_admin_key_of_this_machines_board_is_found_in_its_data_folder(
    shell: Shell, board: Board
) -> None:
    bare = {name: value for name, value in shell.environment.items() if name != "AGENTCHAT_ADMIN_KEY"}
    machine = Shell(shell.home, bare)
    without = await machine.run("admin", "keys", "list")
    assert without.code == 1
    assert "agentchat admin bootstrap" in without.err
    (shell.home / ".agentchat" / "data").mkdir()
    (shell.home / ".agentchat" / "data" / "admin.key").write_text(board.admin_key + "\n")
    assert (await machine.run("admin", "keys", "list")).code == 0


def _drain(descriptor: int) -> bytes:
    received = b""
    # Linux ends a terminal whose other end has closed with an error.
    with contextlib.suppress(OSError):
        while chunk := os.read(descriptor, 65536):
            received += chunk
    os.close(descriptor)
    return received


async def test_a_file_is_shared_listed_and_saved(file_shell: Shell, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    source = file_shell.home / "build log.bin"
    source.write_bytes(content)

    shared = await file_shell.run("upload", "build log.bin", "#project-shop")
    path = shared.out.removeprefix("Shared in #project-shop: ").rstrip()
    assert path.startswith("project-shop/")
    assert path.endswith("-build_log.bin")
    assert (await file_shell.run("files", "project-shop")).out.split()[:4] == [
        path,
        "293",
        "KiB",
        "laptop-web-shop",
    ]
    listed = (await file_shell.run("files", "project-shop", "--json")).json
    assert [file["path"] for file in listed["files"]] == [path]
    assert listed["files"][0]["name"] == "build log.bin"

    saved = await file_shell.run("download", path)
    assert (saved.out, saved.err) == ("Saved build_log.bin (293 KiB)\n", "")
    assert (file_shell.home / "build_log.bin").read_bytes() == content
    again = await file_shell.run("download", path)
    assert (again.code, again.out) == (1, "")
    assert "--force" in again.err
    (file_shell.home / "build_log.bin").write_bytes(b"changed")
    assert (await file_shell.run("download", path, "--force")).code == 0
    assert (file_shell.home / "build_log.bin").read_bytes() == content
    elsewhere = (await file_shell.run("download", path, "-o", str(tmp_path / "other"), "--json")).json
    assert elsewhere["output"] == str(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == content


async def test_files_go_through_pipes(file_shell: Shell) -> None:
    shared = (
        await file_shell.run(
            "upload", "-", "general", "--name", "piped.txt", "--no-announce", "--json", stdin=b"through\xff"
        )
    ).json
    assert (shared["message"], shared["replayed"]) == (None, False)
    assert (shared["file"]["name"], shared["file"]["type"]) == ("piped.txt", "text/plain")
    process = await file_shell.start("download", shared["file"]["path"], "-o", "-")
    assert await process.communicate() == (b"through\xff", b"")
    assert (await file_shell.run("read", "general", "--json")).json["messages"] == []


async def test_a_hostile_name_stays_where_it_is(file_shell: Shell, file_board: Board) -> None:
    (ada,) = await file_board.agents("ada")
    uploaded = await ada.upload(b"x", name="../../.bashrc \u202etxt.exe")
    shown = await file_shell.run("files", "general")
    assert "\u202e" not in shown.out
    before = names_below(file_shell.home)
    assert (await file_shell.run("download", uploaded.file.path)).code == 0
    (new,) = names_below(file_shell.home) - before
    assert new == "_.._.bashrc_txt.exe"
    for path in ("general/1-../../x", "../x", "general/1-/etc/passwd", "/etc/passwd"):
        assert (await file_shell.run("download", path)).code == 2
    assert names_below(file_shell.home) - before == {new}


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def test_a_transfer_shows_its_progress_at_a_terminal_only(file_shell: Shell) -> None:
    (file_shell.home / "large.bin").write_bytes(bytes(2_000_000))
    seen = await file_shell.run_at_terminal("upload", "large.bin", "general")
    assert "large.bin" in seen
    assert "100%" in seen
    assert "Shared in #general" in seen
    piped = await file_shell.run("upload", "large.bin", "general")
    assert piped.err == ""


async def test_a_board_without_files_says_how_to_have_them(shell: Shell) -> None:
    failed = await shell.run("upload", "-", "general", "--name", "n", stdin=b"x")
    assert failed.code == 1
    assert "--files-url" in failed.err


async def test_what_goes_wrong_with_files_is_explained(file_shell: Shell) -> None:
    for arguments, said in (
        (("upload", "missing.txt", "general"), "missing.txt"),
        (("upload", ".", "general"), "no regular file"),
        (("download", "general/1-x"), "agentchat files CHANNEL"),
        (("download", "general/1-x", "-o", "missing/folder"), "general/1-x"),
        (("files", "project-none"), "agentchat channels --all"),
    ):
        failed = await file_shell.run(*arguments)
        assert (failed.code, failed.out) == (1, "")
        assert said in failed.err
