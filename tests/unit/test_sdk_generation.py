"""The blocking client is what its generator makes of the asyncio one."""

from __future__ import annotations

import pytest

from scripts import gen_sync


def test_the_blocking_client_is_up_to_date() -> None:
    written = {path.name: path.read_text("utf-8") for path in gen_sync.TARGET.glob("*.py")}
    assert written == gen_sync.generate()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("async def f(): return await g()", "def f(): return g()"),
        ("async with a as b, c: pass", "with a as b, c: pass"),
        ("[x async for x in y]", "[x for x in y]"),
        ("class AsyncThing(AsyncIterator[int]): pass", "class Thing(Iterator[int]): pass"),
        ("raise StopAsyncIteration", "raise StopIteration"),
        ("from agentchat._async.watch import AsyncWatch", "from agentchat._sync.watch import Watch"),
        ('"""`await AsyncWatch.close()` in `async with`."""', '"""`Watch.close()` in `with`."""'),
        ("# await it", "# it"),
        ("asyncio_like = awaited", "asyncio_like = awaited"),
        ("x = (  # Async comment\n    await y\n)", "x = (  # Async comment\n    y\n)"),
    ],
)
def test_async_and_await_go_and_names_change(source: str, expected: str) -> None:
    assert gen_sync.to_sync(source + "\n") == expected + "\n"


def test_what_is_left_mentions_no_asyncio() -> None:
    for name, text in gen_sync.generate().items():
        body = text.split("\n", 1)[1].replace("agentchat._async", "")
        for word in ("async ", "await ", "asyncio", "Async"):
            assert word not in body, (name, word)
