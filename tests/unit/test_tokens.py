"""Cursors and page tokens: what was encoded comes back, and nothing else is taken for one."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentchat_server.refusals import Refusal
from agentchat_server.tokens import MAX_BIGINT, Cursor, PageTokens

LOG = UUID("0199d2a5-5f7c-7e64-8d0f-3a4b5c6d7e8f")
JUNK = ["x", "=", "no token", "ünïcode", "\x00", "AAAA\nAAAA", "A" * 513, "A" * 1_000_000, "....", "AAAAA"]

cursors = st.builds(Cursor, st.uuids(), st.integers(0, MAX_BIGINT))


@given(cursors)
def test_a_cursor_comes_back(cursor: Cursor) -> None:
    text = cursor.encode()
    assert Cursor.decode(text) == cursor
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").isalnum()


@given(cursors, st.data())
def test_a_cursor_with_another_character_is_refused_or_reads_the_same(
    cursor: Cursor, data: st.DataObject
) -> None:
    text = cursor.encode()
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from("ABCDabcd0123-_ =."))
    try:
        read = Cursor.decode(text[:place] + character + text[place + 1 :])
    except Refusal as refusal:
        assert refusal.reason == "CURSOR_INVALID"  # noqa: PT017 - either way is right
    else:
        # The last character has bits that carry nothing.
        assert read == cursor


@pytest.mark.parametrize("text", ["", *JUNK, Cursor(LOG, 1).encode()[:-4], Cursor(LOG, 1).encode() + "AAAA"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refusal:
        Cursor.decode(text)
    assert refusal.value.reason == "CURSOR_INVALID"


def test_a_cursor_before_the_log_is_refused() -> None:
    with pytest.raises(Refusal):
        Cursor.decode(Cursor(LOG, -1).encode())


def test_a_page_token_is_no_cursor() -> None:
    with pytest.raises(Refusal):
        Cursor.decode(PageTokens("list", "qq").encode(1, 2))


@given(st.integers(-MAX_BIGINT - 1, MAX_BIGINT), st.integers(-MAX_BIGINT - 1, MAX_BIGINT))
def test_the_numbers_of_a_page_token_come_back(first: int, second: int) -> None:
    tokens = PageTokens("list", "qq", "a filter", None)
    assert tokens.decode(tokens.encode(first, second)) == (first, second)


@given(st.floats(width=32, allow_nan=False))
def test_a_rank_in_a_page_token_comes_back_exactly(rank: float) -> None:
    tokens = PageTokens("search", "fqq")
    assert tokens.decode(tokens.encode(rank, 1, 2)) == (rank, 1, 2)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=100))
def test_the_name_of_a_page_token_comes_back(name: str) -> None:
    tokens, with_number = PageTokens("list", "s"), PageTokens("list", "qs")
    if name:
        assert tokens.decode(tokens.encode(name)) == (name,)
        assert with_number.decode(with_number.encode(7, name)) == (7, name)


def test_no_page_token_is_the_first_page() -> None:
    assert PageTokens("list", "q").decode("") is None


@pytest.mark.parametrize(
    "other",
    [
        PageTokens("replies", "q", "a", 1),
        PageTokens("list", "q", "b", 1),
        PageTokens("list", "q", "a", "1"),
        PageTokens("list", "q", "a"),
        PageTokens("list", "q", 1, "a"),
        PageTokens("list", "qq", "a", 1),
    ],
)
def test_the_page_token_of_another_list_or_other_filters_is_refused(other: PageTokens) -> None:
    token = PageTokens("list", "q", "a", 1).encode(42)
    with pytest.raises(Refusal) as refusal:
        other.decode(token)
    assert refusal.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("layout", ["q", "s", "fqq"])
@pytest.mark.parametrize("text", [*JUNK, Cursor(LOG, 1).encode()])
def test_what_is_no_page_token_is_refused(layout: str, text: str) -> None:
    with pytest.raises(Refusal) as refusal:
        PageTokens("list", layout).decode(text)
    assert refusal.value.reason == "PAGE_TOKEN_INVALID"


def test_a_page_token_that_was_cut_or_prolonged_is_refused() -> None:
    for tokens, token in [
        (PageTokens("list", "q"), PageTokens("list", "q").encode(1)),
        (PageTokens("list", "s"), PageTokens("list", "s").encode("general")),
    ]:
        for changed in (token[:-4], token[4:], token + "AAAA", token[:-1], "A" + token):
            with pytest.raises(Refusal):
                tokens.decode(changed)


def test_a_name_with_a_nul_is_refused() -> None:
    tokens = PageTokens("list", "s")
    with pytest.raises(Refusal):
        tokens.decode(tokens.encode("gen\x00eral"))
