"""`agentchat up`, the README and the demonstration, as a new user runs them: with an empty HOME."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60.0


class Home:
    """An empty HOME, and the `agentchat` command in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AGENTCHAT_")}
        self.environment = {**kept, "HOME": str(path), "COLUMNS": "80", "NO_COLOR": "1"}
        self.environment.pop("MACHINE_NAME", None)

    def run(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "agentchat_cli", *arguments],
            cwd=self.path,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stderr or done.stdout
        assert "Traceback" not in done.stderr
        return done

    def python(self, code: str, *arguments: str) -> str:
        """Runs a Python program to its end; returns what it prints."""
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        ).stdout

    def start(self, *arguments: str) -> Up:
        """Starts `agentchat up` and waits until it serves."""
        return Up(self, arguments)


class Up:
    """A running `agentchat up`."""

    def __init__(self, home: Home, arguments: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agentchat_cli", "up", "--grpc-port", "0", *arguments],
            cwd=home.path,
            env=home.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._watchdog = threading.Timer(PATIENCE, self.process.kill)
        self._watchdog.start()
        lines = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        self.greeting = "".join(lines)
        found = re.search(r"gRPC +127\.0\.0\.1:(\d+)", self.greeting)
        assert found, self.greeting + str(self.process.stderr and self.process.stderr.read())
        self.port = int(found[1])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stops it; returns its exit code."""
        self.process.send_signal(number)
        self.process.communicate(timeout=PATIENCE)
        self._watchdog.cancel()
        return self.process.returncode


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty HOME."""
    return Home(tmp_path / "home")


@pytest.fixture
def up(home: Home) -> Iterator[Up]:
    """A board that has been started in an empty HOME."""
    running = home.start()
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def test_up_makes_keys_and_config_that_only_their_owner_reads(home: Home, up: Up) -> None:
    folder = home.path / ".agentchat"
    for file in (folder / "config", folder / "data" / "admin.key"):
        assert file.stat().st_mode & 0o777 == 0o600
    config = (folder / "config").read_text()
    assert f"AGENTCHAT_SERVER=localhost:{up.port}\n" in config
    assert re.search(r"^AGENTCHAT_API_KEY=ack_\S{43}$", config, re.MULTILINE)
    assert (folder / "data" / "admin.key").read_text().startswith("aca_")
    assert all(len(line) <= 80 for line in up.greeting.splitlines() if "/" not in line)


def test_up_elsewhere_says_how_to_use_the_admin_key_that_is_kept_there(home: Home, tmp_path: Path) -> None:
    running = home.start("--data-dir", str(tmp_path / "else where"))
    try:
        found = re.search(r'AGENTCHAT_ADMIN_KEY="\$\(cat (.+)\)" .* admin keys create', running.greeting)
        assert found, running.greeting
        (key_file,) = shlex.split(found[1])
        home.run("admin", "keys", "list", AGENTCHAT_ADMIN_KEY=Path(key_file).read_text().strip())
    finally:
        running.stop()


def test_a_second_up_on_the_same_folder_says_that_one_is_running(home: Home, up: Up) -> None:
    second = home.run("up", "--grpc-port", "0", code=1)
    assert "already runs on" in second.stderr
    assert str(up.process.pid) in second.stderr


def test_up_refuses_a_port_that_is_served(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = home.run("up", "--grpc-port", port, code=1)
    assert f"cannot listen on 127.0.0.1 port {port}" in refused.stderr


def test_up_refuses_plain_text_where_others_can_reach_it(home: Home) -> None:
    assert "--insecure" in home.run("up", "--host", "0.0.0.0", code=2).stderr


def test_up_with_tls_writes_an_address_that_its_own_commands_can_use(home: Home) -> None:
    authority = trustme.CA()
    cert, key, trusted = (home.path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    issued = authority.issue_cert("localhost")
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o644)
    authority.cert_pem.write_to_path(str(trusted))
    tls = ("--tls-cert", "cert.pem", "--tls-key", "key.pem")

    # Where others can reach it, TLS takes the place of --insecure; there is no database here.
    nowhere = "postgresql://127.0.0.1:1/nowhere"
    public = home.run("serve", "--host", "0.0.0.0", *tls, "--database-url", nowhere, code=1)
    assert "warning: every user can read key.pem; run: chmod go= key.pem" in public.stderr
    assert "--insecure" not in public.stderr
    key.chmod(0o600)

    encrypted = home.start(*tls, "--workers", "2")
    try:
        config = (home.path / ".agentchat" / "config").read_text()
        assert f"AGENTCHAT_SERVER=grpcs://localhost:{encrypted.port}\n" in config
        assert f"127.0.0.1:{encrypted.port}  (TLS)" in encrypted.greeting
        assert "AGENTCHAT_CA_FILE" in home.run("whoami", code=1).stderr
        home.run("whoami", AGENTCHAT_CA_FILE=str(trusted))
        home.run("admin", "keys", "list", AGENTCHAT_CA_FILE=str(trusted))
    finally:
        assert encrypted.stop() == 0
    plain = home.start()
    try:
        home.run("whoami")
    finally:
        assert plain.stop() == 0


def test_the_limits_of_up_hold_and_the_command_says_when_to_try_again(home: Home) -> None:
    home.environment["AGENTCHAT_AGENT_WRITE_LIMIT"] = "6"
    limited = home.start("--auth-failure-limit", "off")
    try:
        home.run("post", "general", "first")
        refused = home.run("post", "general", "second", code=1).stderr
        assert refused.startswith("error: too many calls (agent); try again later\n")
        assert re.search(r"^try again in \d+ s$", refused, re.MULTILINE)
        home.run("read", "general")
    finally:
        assert limited.stop() == 0


def test_up_refuses_a_file_store_that_it_cannot_use(home: Home) -> None:
    refused = home.run("up", "--grpc-port", "0", code=1, AGENTCHAT_FILES_URL="ftp://files")
    assert "neither file:///folder nor s3://bucket/prefix" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_posted_is_there_after_a_restart(home: Home, number: signal.Signals) -> None:
    first = home.start()
    home.run("post", "general", "remember me")
    (home.path / "notes.txt").write_text("remember this")
    shared = json.loads(home.run("upload", "notes.txt", "general", "--json").stdout)["file"]["path"]
    assert (home.path / ".agentchat" / "data" / "files").stat().st_mode & 0o777 == 0o700
    assert first.stop(number) == 0
    assert not (home.path / ".agentchat" / "data" / "postgres" / "postmaster.pid").exists()
    assert "cannot" in home.run("read", "general", code=1).stderr
    second = home.start()
    try:
        assert "remember me" in home.run("read", "general").stdout
        assert home.run("download", shared, "-o", "-").stdout == "remember this"
    finally:
        assert second.stop() == 0


def test_a_killed_worker_and_a_killed_postgres_are_started_again(home: Home, up: Up) -> None:
    home.run("post", "general", "before")
    for pattern in ("agentchat_server.worker", "bin/postgres"):
        for pid in _children(up.process.pid, pattern):
            os.kill(pid, signal.SIGKILL)
        # The command fails at once, the SDK tries again until its deadline.
        home.python(_POST, f"after {pattern}")
    assert home.run("read", "general").stdout.count("after") == 2


def test_a_postgres_that_is_killed_while_it_starts_again_is_started_once_more(home: Home, up: Up) -> None:
    home.run("post", "general", "before")
    (postgres,) = _children(up.process.pid, "bin/postgres")
    for _ in range(3):
        os.kill(postgres, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        # A dead one has no command line, even if it still has its number.
        while not (started := _find_children(up.process.pid, "bin/postgres", besides=postgres)):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        (postgres,) = started
    home.python(_POST, "after")
    assert "after" in home.run("read", "general").stdout


def _children(parent: int, pattern: str) -> list[int]:
    found = _find_children(parent, pattern)
    assert found, pattern
    return found


def _find_children(parent: int, pattern: str, *, besides: int = 0) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if int(fields[1]) == parent and pattern in command:
            found.append(int(status.parent.name))
    return [pid for pid in found if pid != besides]


def test_db_and_bootstrap_work_beside_a_running_board_and_without_it(home: Home, up: Up) -> None:
    for _ in range(2):
        listed = json.loads(home.run("db", "status", "--json").stdout)["migrations"]
        assert all(row["applied_at"] for row in listed)
        key = home.run("admin", "bootstrap").stdout.strip()
        assert key.startswith("aca_")
        if up.process.poll() is None:
            made = home.run("admin", "keys", "create", "other", AGENTCHAT_ADMIN_KEY=key)
            assert "ack_" in made.stdout
            up.stop()


def test_a_backup_of_a_running_board_becomes_a_board_elsewhere(home: Home, up: Up, tmp_path: Path) -> None:
    home.run("post", "general", "in the backup")
    home.run("db", "backup", str(tmp_path / "board.dump"))
    home.run("post", "general", "behind it")
    assert "there is a board" in home.run("db", "restore", str(tmp_path / "board.dump"), code=2).stderr
    up.stop()

    elsewhere = str(tmp_path / "elsewhere")
    (tmp_path / "no.dump").write_bytes(b"no backup")
    assert (
        "input file"
        in home.run("db", "restore", "--data-dir", elsewhere, str(tmp_path / "no.dump"), code=1).stderr
    )
    home.run("db", "restore", "--data-dir", elsewhere, str(tmp_path / "board.dump"))
    restored = home.start("--data-dir", elsewhere)
    try:
        # With the key that this machine has.
        read = home.run("read", "general").stdout
        assert "in the backup" in read
        assert "behind it" not in read
    finally:
        restored.stop()


def test_up_says_where_prometheus_is_to_scrape(home: Home) -> None:
    running = home.start("--metrics-port", "0")
    try:
        found = re.search(r"^  Metrics    (http://127\.0\.0\.1:\d+/metrics)$", running.greeting, re.MULTILINE)
        assert found, running.greeting
        with urllib.request.urlopen(found[1], timeout=PATIENCE) as response:
            assert b"agentchat_build_info{" in response.read()
    finally:
        running.stop()


def test_the_commands_of_the_readme_work_in_order(home: Home, up: Up) -> None:
    tour = (REPOSITORY / "README.md").read_text().partition("## Five minutes")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (agentchat .*)$", tour, re.MULTILINE)
    assert len(commands) >= 7
    name = json.loads(home.run("whoami", "--json").stdout)["name"]
    output = ""
    for command in commands:
        output += home.run(*shlex.split(command.replace("NAME", name))[1:]).stdout
    assert "Hello, board" in output
    assert f"@{name} the build is green" in output


def test_the_readmes_agent_replies_to_its_mention(home: Home, up: Up) -> None:
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert code is not None
    agent = subprocess.Popen([sys.executable, "-c", code[1]], cwd=home.path, env=home.environment)
    try:
        machine = json.loads(home.run("whoami", "--json").stdout)["machine"]
        home.run("--project", "worker", "whoami")
        home.run("post", "general", f"@{machine}-worker please start")
        assert "on it" in home.python(_FIRST_MENTION)
    finally:
        agent.terminate()
        agent.wait(PATIENCE)


_POST = """
import sys
from agentchat import AgentChatClient
with AgentChatClient.from_config(timeout=30) as client:
    client.send_message("general", sys.argv[1])
"""

_FIRST_MENTION = """
from agentchat import AgentChatClient
with AgentChatClient.from_config() as client:
    print(next(iter(client.watch_mentions())).content)
"""


def test_the_demonstration_plays_to_its_end() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "demo.py"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "laptop-myproject:" in done.stdout
    assert "Here it is: " in done.stdout
    assert done.stdout.rstrip().endswith("in the thread of its question.")
