"""How agents get their names. Clients in other languages follow this table too."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentchat.names import MAX_NAME_LENGTH, agent_name, default_machine_name, project_slug, slug


@pytest.mark.parametrize(
    ("machine", "project", "expected"),
    [
        ("laptop", "myproject", "laptop-myproject"),
        ("Laptop", "My Project", "laptop-my-project"),
        ("gpu-box", "ml_training", "gpu-box-ml-training"),
        ("laptop.local", "web.app", "laptop-local-web-app"),
        ("laptop", "--a--b--", "laptop-a-b"),
        ("laptop", "Größe", "laptop-gr-e"),
        ("laptop", "a/b\\c d\te", "laptop-a-b-c-d-e"),
        ("laptop", "v1.2.3", "laptop-v1-2-3"),
        ("laptop", "日本語", "laptop-p" + hashlib.sha256("日本語".encode()).hexdigest()[:6]),
        ("laptop", "...", "laptop-p" + hashlib.sha256(b"...").hexdigest()[:6]),
        ("laptop", "", "laptop-pe3b0c4"),
        ("laptop", "x" * 200, "laptop-" + "x" * 93),
        ("laptop", "x" * 92 + "-yz", "laptop-" + "x" * 92),
    ],
)
def test_a_name_is_the_machine_and_the_project(machine: str, project: str, expected: str) -> None:
    assert agent_name(machine, project) == expected


def test_two_folders_of_which_nothing_is_left_get_two_names() -> None:
    assert project_slug("日本") != project_slug("中国")


@given(st.text(), st.text())
def test_every_folder_gives_a_name_that_the_server_takes(machine: str, project: str) -> None:
    name = agent_name(slug(machine) or "m", project)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{1,99}", name)
    assert "--" not in name
    assert len(name) <= MAX_NAME_LENGTH


def test_the_host_name_is_the_default_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "My-Laptop.local")
    assert default_machine_name() == "my-laptop-local"
    monkeypatch.setattr("socket.gethostname", lambda: "日本")
    assert default_machine_name() == "machine"
