"""What the command makes of text that anybody may have written, and of times."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentchat_cli.moments import parse_length, parse_moment, show_clock, show_moment
from agentchat_cli.text import columns, harmless, harmless_json, one_line, shorten, width_of, wrap

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DANGEROUS = "\x00\x07\x08\x1b\x7f\x9b\x9d\u202e\u2066\u2028\U000e0041"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain ünïcode 日本 🎉", "plain ünïcode 日本 🎉"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb", "a\\x0db"),
        ("a\r\nb\n", "a\nb\n"),
        ("a\tb", "a    b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("x\u2028y", "x\\u2028y"),
        ("hidden \U000e0041", "hidden \\U000e0041"),
        ("family 👨\u200d👩\u200d👧", "family 👨\u200d👩\u200d👧"),
    ],
)
def test_what_a_terminal_obeys_is_shown_instead(written: str, shown: str) -> None:
    assert harmless(written) == shown


@given(st.text() | st.text(alphabet=DANGEROUS + "ab \n\r\t"))
def test_nothing_that_a_terminal_obeys_is_left_over(written: str) -> None:
    assert not set(DANGEROUS + "\r\t") & set(harmless(written))
    assert not set(DANGEROUS + "\r\t\n") & set(one_line(written))
    document = json.dumps({"content": written}, ensure_ascii=False)
    assert not set(DANGEROUS) & set(harmless_json(document))
    assert json.loads(harmless_json(document)) == {"content": written}


def test_one_line_joins_lines_with_a_space() -> None:
    assert one_line("  a \n\n  b\r\nc ") == "a b c"


def test_wide_characters_take_two_columns() -> None:
    assert [width_of(text) for text in ("abc", "日本", "e\u0301", "🎉")] == [3, 4, 1, 2]
    assert shorten("日本語", 5) == "日本…"
    assert shorten("fits", 4) == "fits"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.integers(2, 40))
def test_wrapped_lines_fit_and_lose_nothing_but_spaces(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(width_of(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_lines_break_at_spaces_and_short_ones_keep_their_indentation() -> None:
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("    code\nnext", 20) == ["    code", "next"]
    assert wrap("x" * 10, 4) == ["xxxx", "xxxx", "xx"]
    assert wrap("ab cd", 2) == ["ab", "cd"]


def test_columns_line_up_and_the_last_one_is_cut() -> None:
    rows = [("NAME", "N", "TEXT"), ("日本", "1", "a long description"), ("x", "22", "")]
    assert columns(rows, 20) == ["NAME  N   TEXT", "日本  1   a long de…", "x     22"]
    assert columns(rows, None)[1] == "日本  1   a long description"
    assert columns([], 20) == []


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        (" 3D ", NOW - timedelta(days=3)),
        ("90 s", NOW - timedelta(seconds=90)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31T13:00:00.000001+01:00", NOW + timedelta(microseconds=1)),
        ("2026-01-31 12:00:00+00:00", NOW),
    ],
)
def test_a_moment_is_stated_as_a_time_or_as_how_long_ago(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


def test_a_time_without_a_zone_is_local() -> None:
    assert parse_moment("2026-01-31") == datetime(2026, 1, 31).astimezone()


@pytest.mark.parametrize("text", ["", "yesterday", "2", "h", "-2h", "2y", "999999999w", "2026-13-01"])
def test_a_moment_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no time|too long"):
        parse_moment(text, NOW)


def test_a_length_of_time_is_a_number_and_a_unit() -> None:
    assert parse_length("36h") == timedelta(hours=36)
    for text in ("", "1.5h", "999999999w"):
        with pytest.raises(ValueError, match=r"length|long"):
            parse_length(text)


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1m ago"),
        (timedelta(minutes=59, seconds=59), "59m ago"),
        (timedelta(hours=1), "1h ago"),
        (timedelta(hours=47), "1d ago"),
        (timedelta(days=6, hours=23), "6d ago"),
    ],
)
def test_a_terminal_shows_how_long_ago(age: timedelta, shown: str) -> None:
    assert show_moment(NOW - age, terminal=True, now=NOW) == shown


def test_old_times_are_local_dates_and_piped_ones_are_exact() -> None:
    old = NOW - timedelta(days=8)
    assert show_moment(old, terminal=True, now=NOW) == old.astimezone().strftime("%Y-%m-%d %H:%M")
    assert (
        show_moment(NOW, terminal=False) == show_clock(NOW, terminal=False) == "2026-01-31T12:00:00.000000Z"
    )
    assert show_moment(None, terminal=True) == "never"
