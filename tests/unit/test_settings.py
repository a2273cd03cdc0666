"""The settings that the supervisor hands to its workers."""

from __future__ import annotations

import dataclasses
import json

import pytest

from agentchat_server.settings import ServerSettings


def test_the_defaults_come_back_from_json() -> None:
    settings = ServerSettings(database_url="postgresql:///board")
    assert ServerSettings.from_json(settings.to_json()) == settings


def test_every_setting_comes_back_from_json_in_one_line() -> None:
    values = {
        field.name: f"ünïcode \n '{field.name}'" if field.type == "str" else 7
        for field in dataclasses.fields(ServerSettings)
    }
    settings = ServerSettings(**values)  # type: ignore[arg-type]
    text = settings.to_json()
    assert "\n" not in text
    assert text.isascii()
    assert ServerSettings.from_json(text) == settings


def test_a_setting_that_is_unknown_or_missing_is_an_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        ServerSettings.from_json(json.dumps({"database_url": "", "colour": "red"}))
    with pytest.raises(TypeError, match="database_url"):
        ServerSettings.from_json("{}")
