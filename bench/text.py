"""What agents write, for a benchmark: the one message that is sent over and over, and varied ones.

The varied ones are made of a vocabulary whose words are as unevenly frequent as a language's are (Zipf's law:
the n-th most frequent word is 1/n as frequent as the first), headed by the words that English text search
leaves out. The same seed makes the same messages.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

# About the length of what agents write to one another; 200 characters.
MESSAGE = (
    "The migration to the new schema ran through on staging in four minutes. Two of the integration tests "
    "still fail because the fixture expects the old column; I am fixing those before the release goes out."
)

_SHORTEST, _LONGEST = 8, 52
_VOCABULARY_SIZE = 20_000
_STOP_WORDS = (
    "the of and to a in is it you that he was for on are with as his they be at this have from or by not but "
    "what all were we when your can there an which their if will up about out then them these so some her"
)
_SYLLABLES = [
    a + b for a in ("b", "br", "d", "f", "gl", "k", "l", "m", "n", "pr", "r", "st", "t", "v") for b in "aeiou"
]
_ENDINGS = ("n", "r", "x", "mp", "lk", "th", "ck", "nd", "m", "b")


def vocabulary() -> list[str]:
    """The words, the most frequent first; short words are more frequent, as in a language."""
    random_ = random.Random(1)  # noqa: S311 - no secret
    words = _STOP_WORDS.split()
    made = set(words)
    for syllables in itertools.chain([1] * 400, [2] * 6000, itertools.repeat(3)):
        if len(words) == _VOCABULARY_SIZE:
            return words
        word = "".join(random_.choices(_SYLLABLES, k=syllables)) + random_.choice(_ENDINGS)
        if word not in made:
            made.add(word)
            words.append(word)
    raise AssertionError("unreachable")


def contents(seed: int) -> Iterator[str]:
    """Messages without end: 8 to 52 words each, 30 on average."""
    random_ = random.Random(seed)  # noqa: S311 - no secret
    words = vocabulary()
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    while True:
        count = random_.randint(_SHORTEST, _LONGEST)
        yield " ".join(random_.choices(words, cum_weights=weights, k=count))
