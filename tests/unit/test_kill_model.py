"""The check of the kill proof: it passes a sound history, and finds whatever is wrong in a doctored one."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.kills.history import Answer, Completion, Event, History, Post, Upload, UploadAnswer, Watch
from tests.kills.model import reply_request_id, violations
from tests.kills.stored import Stored, StoredFile, StoredMention, StoredMessage, StoredObject

_START = datetime(2030, 1, 1, tzinfo=UTC)
_BYTES = hashlib.sha256(b"bytes").hexdigest()


@dataclass
class Played:
    """A history and what is stored behind it, built together."""

    history: History = field(default_factory=History)
    stored: Stored = field(default_factory=Stored)

    def store(
        self,
        author: str,
        request_id: str | None,
        content: str,
        *,
        channel: str = "general",
        **fields: str | int,
    ) -> Answer:
        """Stores a message, and returns how its author is answered."""
        seq = len(self.stored.messages) + 1
        ordinal = self.stored.channels.get(channel, 0) + 1
        answer = Answer(f"message-{seq}", seq, ordinal, _START + timedelta(microseconds=seq))
        message = StoredMessage(
            id=answer.message_id,
            seq=seq,
            ordinal=ordinal,
            channel=channel,
            author=author,
            content=content,
            parent=str(fields["parent"]) if "parent" in fields else None,
            hops=int(fields.get("hops", 0)),
            request_id=request_id,
            created_at=answer.created_at,
        )
        self.stored.messages.append(message)
        self.stored.channels[channel] = ordinal
        self.stored.head = seq
        return answer

    def mention(self, agent: str, answer: Answer) -> None:
        """Stores a mention of an agent."""
        self.stored.mentions.append(
            StoredMention(f"mention-{answer.seq}-{agent}", answer.message_id, agent, answer.seq, False, None)
        )

    def watched(self, watch: Watch, seqs: list[int]) -> None:
        """Lets a watcher receive messages, over two connections."""
        for seq in seqs:
            message = self.stored.messages[seq - 1]
            connection = 1 if seq < 4 else 2
            watch.events.append(Event(seq, message.id, message.content, f"cursor-{seq}", connection))
        watch.connections = 2
        self.history.watches.append(watch)


@pytest.fixture
def played() -> Played:
    """A sound one: of everything something."""
    board = Played()
    posts = [
        Post("ada", "request-1", "general", "one"),
        Post("bob", "request-2", "general", "two for @eve", mentions=frozenset({"eve"})),
        Post("ada", "request-3", "project-x", "three for @worker", mentions=frozenset({"worker"})),
        Post("bob", None, "general", "four", parent="message-1"),
        Post("ada", "request-5", "general", "five, of unknown outcome, is there"),
        Post("ada", "request-6", "general", "six, of unknown outcome, is not there"),
        Post("bob", "request-7", "general", "seven", refusal="MESSAGE_NOT_FOUND"),
        # The request id had posted something else.
        Post("ada", "request-1", "general", "eight", refusal="REQUEST_ID_REUSED"),
    ]
    for post in posts[:5]:
        parent = {} if post.parent is None else {"parent": post.parent}
        answer = board.store(post.author, post.request_id, post.content, channel=post.channel, **parent)
        for agent in sorted(post.mentions):
            board.mention(agent, answer)
        # A repeated call is answered as the first was.
        post.answers = [] if "unknown" in post.content else [answer, answer]
    board.history.posts = posts

    mention = board.stored.mentions[1]
    request_id = reply_request_id(mention.id)
    reply = board.store("worker", request_id, "done", channel="project-x", parent="message-3", hops=1)
    board.stored.mentions[1] = replace(mention, read=True, reply_message_id=reply.message_id)
    board.history.completions = [
        Completion("worker", mention.id, "message-3", "done", [reply]),
        Completion("worker", mention.id, "message-3", "done too late", refusal="CLAIM_LOST"),
    ]

    shared = board.store("ada", "request-9", "Shared a file: **notes.txt** (5 bytes)")
    board.stored.files = [
        StoredFile(
            "file-1",
            "general/1-notes.txt",
            "general",
            "notes.txt",
            5,
            _BYTES,
            "ada",
            shared.message_id,
            "request-9",
            "key-1",
        )
    ]
    board.stored.objects = {
        "key-1": StoredObject(5, _BYTES, 4000.0),
        # Of the upload whose outcome is unknown.
        "key-2": StoredObject(3, "cut", 20.0),
    }
    board.stored.downloads = {"general/1-notes.txt": _BYTES}
    board.history.uploads = [
        Upload("ada", "request-9", "general", "notes.txt", 5, _BYTES),
        Upload("ada", "request-10", "general", "unknown.txt", 5, _BYTES),
    ]
    answered = UploadAnswer("file-1", "general/1-notes.txt", _BYTES, shared)
    board.history.uploads[0].answers = [answered]

    board.watched(Watch("all", "carol", "messages", after=1), [2, 3, 4, 5, 6, 7])
    board.watched(Watch("some", "carol", "messages", channel="general"), [1, 2, 4, 5, 7])
    board.watched(Watch("resumed", "carol", "messages", after=2, through=5), [3, 4, 5])
    board.watched(Watch("inbox", "eve", "mentions"), [2])
    board.watched(Watch("work", "worker", "mentions"), [3])
    work = board.history.watches[4]
    work.events.append(replace(work.events[0], redelivered=True))
    # Connected later, when the mention had been dealt with.
    board.watched(Watch("more work", "worker", "mentions"), [])
    return board


def test_a_sound_history_passes(played: Played) -> None:
    assert violations(played.history, played.stored) == []


def test_an_empty_history_passes() -> None:
    assert violations(History(), Stored()) == []


def _message(board: Played, seq: int, /, **changes: object) -> None:
    board.stored.messages[seq - 1] = replace(board.stored.messages[seq - 1], **changes)  # type: ignore[arg-type]


def _drop(board: Played, seq: int) -> None:
    """Loses a message, and renumbers as if it had never been."""
    lost = board.stored.messages.pop(seq - 1)
    board.stored.head -= 1
    board.stored.channels[lost.channel] -= 1
    for index, message in enumerate(board.stored.messages):
        same_channel = message.channel == lost.channel and message.ordinal > lost.ordinal
        board.stored.messages[index] = replace(message, seq=index + 1, ordinal=message.ordinal - same_channel)


def _double(board: Played, request_id: str | None) -> None:
    """Stores the first message once more, as a message of its own."""
    board.store("ada", request_id or str(uuid.uuid4()), "one")


def _event(board: Played, watch: int, place: int, **changes: object) -> None:
    events = board.history.watches[watch].events
    events[place] = replace(events[place], **changes)  # type: ignore[arg-type]


def _swap_events(board: Played) -> None:
    events = board.history.watches[0].events
    events[1], events[2] = events[2], events[1]


def _swap_messages(board: Played) -> None:
    """Gives two messages each other's place in the log, after they were acknowledged."""
    first, second = board.stored.messages[0], board.stored.messages[1]
    _message(board, 1, **{name: getattr(second, name) for name in ("id", "author", "content", "request_id")})
    _message(board, 2, **{name: getattr(first, name) for name in ("id", "author", "content", "request_id")})


def _second_reply(board: Played) -> None:
    board.store("worker", "other", "done again", channel="project-x", parent="message-3", hops=1)


def _late_reply(board: Played) -> None:
    board.history.completions[0].answers.clear()
    _message(board, 6, content="done too late")


def _dealt_with_without_reply(board: Played) -> None:
    board.history.completions[0].answers.clear()
    _drop(board, 6)


def _mention(board: Played, index: int, **changes: object) -> None:
    board.stored.mentions[index] = replace(board.stored.mentions[index], **changes)  # type: ignore[arg-type]


def _repeat_mention(board: Played) -> None:
    board.stored.mentions.append(replace(board.stored.mentions[0], id="mention-again"))


def _file(board: Played, **changes: object) -> None:
    board.stored.files[0] = replace(board.stored.files[0], **changes)  # type: ignore[arg-type]


def _cut_file(board: Played) -> None:
    board.stored.objects["key-1"] = StoredObject(3, "cut", 10.0)


def _row_without_announcement(board: Played) -> None:
    board.history.uploads[0].answers.clear()
    _drop(board, 7)


def _other_announcement(board: Played) -> None:
    answers = board.history.uploads[0].answers
    answers.append(replace(answers[0], announcement=Answer("message-8", 8, 1, _START)))


def _old_orphan(board: Played) -> None:
    board.stored.objects["key-2"] = StoredObject(3, "cut", 3601.0)


def _refused_and_stored(board: Played) -> None:
    board.store("bob", "request-7", "seven")


def _reused_id_changed_the_first(board: Played) -> None:
    _message(board, 1, content="eight")


_DOCTORED: dict[str, tuple[Callable[[Played], object], str]] = {
    "an acknowledged post is lost": (
        lambda board: _drop(board, 4),
        "the post 'four' of bob was acknowledged and is lost",
    ),
    "a post is doubled under its request id": (
        lambda board: _double(board, "request-1"),
        "request ('ada', 'request-1') has posted twice",
    ),
    "a post is doubled under another request id": (
        lambda board: _double(board, None),
        "nobody posted what is stored as seq 8 of ada",
    ),
    "a post without a request id is doubled": (
        lambda board: board.store("bob", None, "four", parent="message-1"),
        "request ('bob', 'four') has posted twice",
    ),
    "a post of unknown outcome is doubled": (
        lambda board: _double(board, "request-5"),
        "request ('ada', 'request-5') has posted twice",
    ),
    "a row is doubled": (
        lambda board: board.stored.messages.append(board.stored.messages[0]),
        "message message-1 is stored twice",
    ),
    "the log has a gap": (
        lambda board: _message(board, 7, seq=8),
        "seq has a gap or a repeat at 7: 8 is there",
    ),
    "a channel has a gap": (
        lambda board: _message(board, 5, ordinal=5),
        "the ordinals of general have a gap or a repeat at 4: 5 is there",
    ),
    "the counter is behind the log": (
        lambda board: setattr(board.stored, "head", 6),
        "the log counter stands at 6, with 7 messages",
    ),
    "a channel counts wrongly": (
        lambda board: board.stored.channels.update(general=6),
        "general counts 6 messages and holds 5",
    ),
    "messages of a channel that is gone": (
        lambda board: board.stored.channels.pop("project-x"),
        "there are messages in project-x, which is no channel",
    ),
    "time stands still": (
        lambda board: _message(board, 3, created_at=board.stored.messages[1].created_at),
        "created_at does not rise from seq 2 to 3",
    ),
    "two messages have changed places": (
        _swap_messages,
        "the post 'request-1' of ada was acknowledged as Answer(message_id='message-1', seq=1",
    ),
    "a content has changed": (
        lambda board: _message(board, 2, content="to @eve"),
        "the post 'request-2' of bob is stored with another channel, content or parent",
    ),
    "a parent has changed": (
        lambda board: _message(board, 4, parent=None),
        "the post 'four' of bob is stored with another channel, content or parent",
    ),
    "a post of unknown outcome is there in part": (
        lambda board: _message(board, 5, content="five"),
        "the post 'request-5' of ada is stored with another channel, content or parent",
    ),
    "a post has hops": (lambda board: _message(board, 1, hops=1), "is stored with hops"),
    "a repeat was answered with another message": (
        lambda board: board.history.posts[0].answers.append(Answer("message-8", 8, 1, _START)),
        "was acknowledged as Answer(message_id='message-8', seq=8",
    ),
    "a time was acknowledged that is not stored": (
        lambda board: board.history.posts[0].answers.append(Answer("message-1", 1, 1, _START)),
        "the post 'request-1' of ada was acknowledged as",
    ),
    "a refused post is there": (_refused_and_stored, "was refused (MESSAGE_NOT_FOUND) and is stored"),
    "a reused request id has changed the first message": (
        _reused_id_changed_the_first,
        "was refused (REQUEST_ID_REUSED) and is stored",
    ),
    "a mention is lost": (
        lambda board: board.stored.mentions.pop(0),
        "seq 2 should mention ['eve'] and mentions []",
    ),
    "a mention is doubled": (_repeat_mention, "seq 2 should mention ['eve'] and mentions ['eve', 'eve']"),
    "a mention is of no message": (lambda board: _mention(board, 0, message_id="gone"), "is of no message"),
    "an event is missing": (
        lambda board: board.history.watches[0].events.pop(2),
        "all missed 1 events, the first is seq 4",
    ),
    "the last event is missing": (
        lambda board: board.history.watches[1].events.pop(),
        "some missed 1 events, the first is seq 7",
    ),
    "an event came twice": (
        lambda board: board.history.watches[0].events.append(board.history.watches[0].events[-1]),
        "all received seq 7 twice",
    ),
    "events came in another order": (_swap_events, "all received seq 3 behind 4"),
    "an event of another channel came": (
        lambda board: board.history.watches[1].events.insert(2, board.history.watches[0].events[1]),
        "some received [3], which were not for it",
    ),
    "an event from before the start came": (
        lambda board: setattr(board.history.watches[0], "after", 2),
        "all received [2], which were not for it",
    ),
    "an event has another content": (
        lambda board: _event(board, 0, 0, content="too"),
        "all received a seq 2 that is not what is stored",
    ),
    "an event is of a message that is not there": (
        lambda board: _event(board, 0, 0, message_id="message-0"),
        "all received a seq 2 that is not what is stored",
    ),
    "an event of a connection that was gone": (
        lambda board: _event(board, 0, 0, connection=2),
        "all received events of a connection that was gone",
    ),
    "a mention did not come": (
        lambda board: board.history.watches[3].events.clear(),
        "inbox missed 1 events, the first is seq 2",
    ),
    "a mention came twice": (
        lambda board: board.history.watches[4].events.append(board.history.watches[4].events[0]),
        "work received seq 3 twice",
    ),
    "a mention came again where nobody claims": (
        lambda board: _event(board, 3, 0, redelivered=True),
        "inbox received [2] again, and nobody claims there",
    ),
    "a reply is lost": (
        lambda board: _drop(board, 6),
        "the reply to mention mention-3-worker was acknowledged and is lost",
    ),
    "a second reply": (_second_reply, "mention mention-3-worker has 2 replies"),
    "a late loser's reply": (_late_reply, "is of a claim that was lost, or of nobody"),
    "a reply that did not mark its mention read": (
        lambda board: _mention(board, 1, read=False),
        "mention mention-3-worker is marked read without its reply, or has a reply and is unread",
    ),
    "a mention that was dealt with without a reply": (
        _dealt_with_without_reply,
        "mention mention-3-worker is marked read without its reply",
    ),
    "a reply that its mention does not know": (
        lambda board: _mention(board, 1, reply_message_id="message-1"),
        "mention mention-3-worker is marked read without its reply",
    ),
    "a repeat was answered with another reply": (
        lambda board: board.history.completions[0].answers.append(Answer("message-6", 8, 1, _START)),
        "the reply to mention mention-3-worker was acknowledged as Answer(message_id='message-6', seq=8",
    ),
    "an announcement was acknowledged that is not stored": (
        _other_announcement,
        "the file request-9 of ada was acknowledged as Answer(message_id='message-8', seq=8",
    ),
    "a mention of another agent came again": (
        lambda board: _event(board, 4, 1, seq=2, message_id="message-2", content="two for @eve"),
        "work received [2], which were not for it",
    ),
    "whoever resumed has missed the end": (
        lambda board: board.watched(Watch("late", "carol", "messages", after=5, through=7), [6]),
        "late missed 1 events, the first is seq 7",
    ),
    "a reply under another request id": (
        lambda board: _message(board, 6, request_id="request-5"),
        "has another request id or other hops",
    ),
    "a claimed mention is lost": (
        lambda board: board.stored.mentions.pop(1),
        "mention mention-3-worker was claimed and is lost",
    ),
    "a file is lost": (
        lambda board: board.stored.files.clear(),
        "the file request-9 of ada was acknowledged and is lost",
    ),
    "a file nobody uploaded": (
        lambda board: _file(board, request_id="request-0"),
        "nobody uploaded the file general/1-notes.txt",
    ),
    "a row without an announcement": (
        _row_without_announcement,
        "the file request-9 of ada has a row without an announcement",
    ),
    "a file announced by another's message": (
        lambda board: _file(board, message_id="message-1"),
        "is announced by a message that is not its own",
    ),
    "a file of another size": (
        lambda board: _file(board, size=4),
        "is stored with another channel, name, size or SHA-256",
    ),
    "a file was acknowledged under another path": (
        lambda board: _file(board, path="general/2-notes.txt"),
        "was acknowledged as another file than the one stored",
    ),
    "the bytes of a file are gone": (
        lambda board: board.stored.objects.pop("key-1"),
        "the bytes of general/1-notes.txt are gone",
    ),
    "the bytes of a file are cut": (_cut_file, "the bytes of general/1-notes.txt are cut or changed: 3 of 5"),
    "a file cannot be downloaded": (
        lambda board: setattr(board.stored, "downloads", {}),
        "general/1-notes.txt cannot be downloaded whole: it was not tried",
    ),
    "an object that the sweep has left": (_old_orphan, "object key-2 is 3601 s old and no file names it"),
    "a caller was told INTERNAL": (
        lambda board: board.history.surprises.append("ada: INTERNAL"),
        "a caller was told what nobody should be: ada: INTERNAL",
    ),
}


@pytest.mark.parametrize("name", _DOCTORED)
def test_a_doctored_history_is_found_out(played: Played, name: str) -> None:
    doctor, sentence = _DOCTORED[name]
    doctor(played)
    found = violations(played.history, played.stored)
    assert any(sentence in each for each in found), found
