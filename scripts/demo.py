"""The story of AgentChat in half a minute: `make demo`.

A laptop's agent asks a server's agent to run a command. The server's agent sleeps on its stream of mentions,
wakes, runs the command and replies in the thread; the laptop's agent is woken by the reply. Two machine keys,
two processes, and a board of their own in a temporary folder that is gone afterwards.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from agentchat import AdminClient, AgentChatClient
from agentchat.types import Message

LAPTOP, SERVER = "laptop-myproject", "server-myproject"
QUESTION = f"@{SERVER} Which system do you run on? Please post the output of `uname -sm`."
# What the server's agent is willing to run.
COMMANDS = {"uname -sm": ["uname", "-sm"]}
PATIENCE = 30.0


def main() -> int:
    """Plays the story, or the server's part of it; returns the exit code."""
    parser = argparse.ArgumentParser(description="Two agents on two machines hand each other work.")
    parser.add_argument("--part", choices=["server"], help=argparse.SUPPRESS)
    if parser.parse_args().part == "server":
        play_server()
        return 0
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentchat-demo-")))
        print("Starting a board of its own for this demonstration …")
        port = start_board(stack, home)
        play_laptop(stack, home, f"localhost:{port}")
    return 0


def start_board(stack: ExitStack, home: Path) -> int:
    """Starts `agentchat up` on any free port; returns the port."""
    board = start(
        stack,
        [sys.executable, "-m", "agentchat_cli", "up", "--grpc-port", "0"],
        {"HOME": str(home), "AGENTCHAT_CONFIG": str(home / "config"), "AGENTCHAT_DATABASE_URL": ""},
    )
    for line in board:
        if match := re.search(r"gRPC +\S+:(\d+)", line):
            # Nobody reads the rest, and it must not fill the pipe.
            threading.Thread(target=board.read, daemon=True).start()
            return int(match[1])
    raise SystemExit("The board did not start; see above.")


def play_laptop(stack: ExitStack, home: Path, server: str) -> None:
    """The laptop's agent: asks, and waits for the reply."""
    admin_key = (home / ".agentchat" / "data" / "admin.key").read_text().strip()
    with AdminClient(server, admin_key) as admin:
        keys = {machine: admin.create_machine_key(machine).key for machine in ("laptop", "server")}
    print("Two machines have a key each: laptop and server.\n")

    helper = start(
        stack,
        [sys.executable, __file__, "--part", "server"],
        {"AGENTCHAT_SERVER": server, "AGENTCHAT_API_KEY": keys["server"], "MACHINE_NAME": "server"},
    )
    if helper.readline().strip() != "waiting":
        raise SystemExit("The server's agent did not start; see above.")

    with AgentChatClient(server, keys["laptop"], LAPTOP) as client:
        question = client.send_message("project-myproject", QUESTION).message
        show(question)
        timer = threading.Timer(PATIENCE, lambda: os.kill(os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()
        with client.watch_mentions() as mentions:
            mention = next(iter(mentions))
        timer.cancel()
        (reply,) = client.list_replies(question.id)
        if reply.id != mention.message_id:
            raise SystemExit("The reply is not in the thread.")
        show(reply, indent="    ")
        client.mark_mentions_read([mention.mention_id])
    print("\nThe laptop's agent was woken by the reply, in the thread of its question.")


def play_server() -> None:
    """The server's agent, in a process of its own: waits for a mention, acts on it, replies."""
    with AgentChatClient.from_config(project="myproject") as client:
        client.whoami()
        print("waiting", flush=True)
        with client.watch_mentions() as mentions:
            mention = next(iter(mentions))
        asked = re.search(r"`([^`]+)`", mention.content)
        command = COMMANDS.get(asked[1]) if asked else None
        if command is None:
            answer = "That is nothing I run."
        else:
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        client.send_message(
            mention.channel,
            f"@{mention.from_agent} Here it is: {answer}",
            parent_message_id=mention.message_id,
        )
        client.mark_mentions_read([mention.mention_id])


def start(stack: ExitStack, command: list[str], environment: dict[str, str]) -> IO[str]:
    """Starts a process that ends with the demonstration; returns what it prints."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )

    def stop() -> None:
        if process.poll() is None:
            process.terminate()
        process.wait(PATIENCE)

    if process.stdout is None:
        raise AssertionError("stdout is a pipe")
    # Stopped first, then closed: a thread may still read.
    stack.enter_context(process.stdout)
    stack.callback(stop)
    return process.stdout


def show(message: Message, indent: str = "") -> None:
    """Prints a message as a transcript has it."""
    print(f"{indent}#{message.channel_name}  {message.author_name}:")
    print(f"{indent}    {message.content}")


if __name__ == "__main__":
    sys.exit(main())
