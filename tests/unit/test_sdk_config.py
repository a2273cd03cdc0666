"""Reading and writing the configuration."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentchat import Config, ConfigError
from agentchat.address import ServerAddress, parse_address
from agentchat.config import read_config, write_config

FULL = """\
# This machine.
MACHINE_NAME=laptop
export AGENTCHAT_API_KEY="ack_#quoted"

  AGENTCHAT_SERVER = 'grpcs://board.example:7443'   # where
AGENTCHAT_WEB_URL=http://localhost:8080/#/home
AGENTCHAT_PROJECT=two words   # a comment
SUPABASE_URL=https://left.alone
AGENTCHAT_ADMIN_KEY=
AGENTCHAT_CA_FILE=""
MACHINE_NAME=desktop
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.touch(mode=0o600)
    return path


def test_a_file_may_have_comments_quotes_and_exports(file: Path) -> None:
    file.write_text(FULL)
    config = Config.load({}, file)
    assert config == Config(
        machine_name="desktop",
        api_key="ack_#quoted",
        server="grpcs://board.example:7443",
        web_url="http://localhost:8080/#/home",
        project="two words",
        path=file,
    )


def test_the_environment_wins_and_an_empty_variable_counts_as_unset(file: Path) -> None:
    file.write_text("AGENTCHAT_API_KEY=from-file\nAGENTCHAT_SERVER=file:1\n")
    config = Config.load({"AGENTCHAT_API_KEY": "from-env", "AGENTCHAT_SERVER": ""}, file)
    assert (config.api_key, config.server) == ("from-env", "file:1")


def test_the_file_is_in_the_home_folder_or_where_a_variable_says(tmp_path: Path) -> None:
    assert Config.load({"HOME": str(tmp_path)}).path == tmp_path / ".agentchat" / "config"
    named = tmp_path / "other"
    named.touch(mode=0o600)
    named.write_text("MACHINE_NAME=m2")
    assert Config.load({"HOME": "/nowhere", "AGENTCHAT_CONFIG": str(named)}).machine_name == "m2"


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfMACHINE_NAME=laptop\r\nAGENTCHAT_PROJECT=x\r\n")
    assert read_config(file) == {"MACHINE_NAME": "laptop", "AGENTCHAT_PROJECT": "x"}


@pytest.mark.parametrize(
    "line", ["just words", "=value", "1KEY=x", "KEY='open", 'KEY="a" b', "KEY=\"a'", "key with space=1"]
)
def test_a_line_that_cannot_be_read_is_named_by_file_and_line_but_not_shown(file: Path, line: str) -> None:
    file.write_text(f"# first\nMACHINE_NAME=ok\n{line}\n")
    with pytest.raises(ConfigError) as bad:
        Config.load({}, file)
    assert bad.value.message.startswith(f"{file}, line 3: ")
    assert line not in bad.value.message


def test_a_file_that_is_no_text_is_named(file: Path) -> None:
    file.write_bytes(b"MACHINE_NAME=\xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        Config.load({}, file)


def test_a_file_that_others_can_read_is_warned_of_and_read(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("MACHINE_NAME=laptop")
    with caplog.at_level(logging.WARNING, "agentchat"):
        Config.load({}, file)
        assert caplog.text == ""
        file.chmod(0o644)
        assert Config.load({}, file).machine_name == "laptop"
    assert f"chmod 600 {file}" in caplog.text


def test_keys_do_not_show_in_a_repr() -> None:
    assert "secret" not in repr(Config(api_key="ack_secret", admin_key="aca_secret"))


def test_what_is_missing_is_said_with_where_it_goes(file: Path) -> None:
    config = Config.load({}, file)
    with pytest.raises(ConfigError, match="AGENTCHAT_API_KEY"):
        config.require_api_key()
    with pytest.raises(ConfigError, match="AGENTCHAT_ADMIN_KEY"):
        config.require_admin_key()


def test_an_agent_is_named_after_machine_and_project_unless_its_key_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "Web Shop"
    folder.mkdir()
    monkeypatch.chdir(folder)
    config = Config(machine_name="My Laptop", api_key="ack_x")
    assert config.agent() == "my-laptop-web-shop"
    assert config.agent("api") == "my-laptop-api"
    assert Config(machine_name="m", project="from config").agent() == "m-from-config"
    assert Config(api_key="aak_x").agent() is None
    with pytest.raises(ConfigError, match="MACHINE_NAME"):
        Config(machine_name="日本").agent()


def test_a_current_folder_that_is_gone_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(ConfigError, match="current folder is gone"):
        Config(machine_name="m").agent()
    assert Config(machine_name="m").agent("here") == "m-here"


def test_writing_makes_a_private_file_in_a_private_folder(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".agentchat" / "config"
    write_config(path, {"MACHINE_NAME": "laptop", "AGENTCHAT_API_KEY": "ack_1"})
    assert path.read_text() == "MACHINE_NAME=laptop\nAGENTCHAT_API_KEY=ack_1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["config"]  # noqa: PTH208 - names are what is compared


def test_writing_keeps_other_lines_and_makes_the_file_private(file: Path) -> None:
    file.write_text("# mine\nexport MACHINE_NAME=old\nOTHER = 1\nMACHINE_NAME=older\nnonsense\n")
    file.chmod(0o644)
    write_config(file, {"MACHINE_NAME": "new", "AGENTCHAT_SERVER": "host:1"})
    assert file.read_text() == "# mine\nMACHINE_NAME=new\nOTHER = 1\nnonsense\nAGENTCHAT_SERVER=host:1\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_writing_through_a_link_keeps_the_link(file: Path) -> None:
    link = file.parent / "link"
    link.symlink_to(file)
    write_config(link, {"MACHINE_NAME": "m"})
    assert link.is_symlink()
    assert file.read_text() == "MACHINE_NAME=m\n"


def test_what_the_format_cannot_hold_is_refused_and_nothing_is_written(file: Path) -> None:
    for value in ("two\nlines", "both \" and '"):
        with pytest.raises(ConfigError, match="AGENTCHAT_PROJECT"):
            write_config(file, {"AGENTCHAT_PROJECT": value})
    assert file.read_text() == ""


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1))
def test_a_written_value_is_read_back(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    path = tmp_path_factory.mktemp("config") / "config"
    if '"' in value and "'" in value:
        return
    write_config(path, {"AGENTCHAT_PROJECT": value})
    assert read_config(path) == {"AGENTCHAT_PROJECT": value}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", ServerAddress("localhost", 50051, False)),
        ("board.example:7443", ServerAddress("board.example", 7443, False)),
        ("grpc://10.0.0.1:1", ServerAddress("10.0.0.1", 1, False)),
        (" grpcs://board.example/ ", ServerAddress("board.example", 50051, True)),
        ("GRPCS://board.example:65535", ServerAddress("board.example", 65535, True)),
        ("[::1]", ServerAddress("[::1]", 50051, False)),
        ("grpcs://[fe80::1]:9", ServerAddress("[fe80::1]", 9, True)),
    ],
)
def test_an_address_is_a_host_a_port_and_perhaps_tls(text: str, expected: ServerAddress) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "host:port"),
        ("host:", "host:port"),
        ("host:port", "host:port"),
        ("host:0", "1 to 65535"),
        ("host:65536", "1 to 65535"),
        ("::1", "brackets"),
        ("http://host:1", "AGENTCHAT_WEB_URL"),
        ("ftp://host", "ftp://"),
        ("://host", "empty"),
        ("host/path", "host:port"),
        ("user@host", "host:port"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_why(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse_address(text)
