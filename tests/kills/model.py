"""The model of a board: whether what is stored and what was seen fit what was promised.

Pure functions over a history and what is stored, so that the check itself can be checked with doctored ones.
They must be taken at rest: nobody posts, and the watchers have had the time to catch up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from uuid import UUID, uuid5

from tests.kills.history import Answer, Completion, History, Post, Upload, Watch
from tests.kills.stored import Stored, StoredFile, StoredMessage

# As the contract of CompleteClaim has it.
_REPLIES = UUID("2632cae7-8d83-4a50-8d51-15c5303386a5")

# An author, and a request id or else a content.
Request = tuple[str, str]


def violations(history: History, stored: Stored) -> list[str]:
    """What does not fit, a sentence each. Empty: all is well."""
    return [
        *(f"a caller was told what nobody should be: {surprise}" for surprise in history.surprises),
        *_check_log(stored),
        *_check_posts(history, stored),
        *_check_mentions(history, stored),
        *_check_completions(history, stored),
        *_check_uploads(history, stored),
        *_check_bytes(stored),
        *_check_watches(history, stored),
    ]


def reply_request_id(mention_id: str) -> str:
    """The request id of the reply to a mention."""
    return str(uuid5(_REPLIES, mention_id))


def missed(watch: Watch, stored: Stored) -> list[int]:
    """What a watcher has to receive and has not received, by seq.

    What another process has dealt with, a watcher of mentions that connects later is not bothered with.
    """
    received = {event.seq for event in watch.events}
    read = {mention.seq for mention in stored.mentions if mention.agent == watch.agent and mention.read}
    optional = read if watch.follows == "mentions" else set()
    return [seq for seq in _expected(watch, stored) if seq not in received and seq not in optional]


def _check_log(stored: Stored) -> Iterator[str]:
    """One order for everything, without gaps, in the log and in each channel."""
    messages = stored.messages
    seqs = [message.seq for message in messages]
    if seqs != list(range(1, len(messages) + 1)):
        yield f"seq has a gap or a repeat {_first_break(seqs)}"
    if stored.head != len(messages):
        yield f"the log counter stands at {stored.head}, with {len(messages)} messages in the log"
    for earlier, later in pairwise(messages):
        if not earlier.created_at < later.created_at:
            yield f"created_at does not rise from seq {earlier.seq} to {later.seq}"
    for message_id in _repeated(message.id for message in messages):
        yield f"message {message_id} is stored twice"
    for request in _repeated(map(_request, messages)):
        yield f"request {request} has posted twice"
    ordinals: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        ordinals[message.channel].append(message.ordinal)
    for channel, count in stored.channels.items():
        found = ordinals.pop(channel, [])
        if found != list(range(1, len(found) + 1)):
            yield f"the ordinals of {channel} have a gap or a repeat {_first_break(found)}"
        if count != len(found):
            yield f"{channel} counts {count} messages and holds {len(found)}"
    for channel in ordinals:
        yield f"there are messages in {channel}, which is no channel"


def _check_posts(history: History, stored: Stored) -> Iterator[str]:
    """What was acknowledged is there as it was acknowledged, what is unknown is whole if it is there."""
    by_request = {_request(message): message for message in stored.messages}
    known = {(upload.author, upload.request_id) for upload in history.uploads}
    known.update((each.agent, reply_request_id(each.mention_id)) for each in history.completions)
    for post in history.posts:
        request = _request(post)
        found = by_request.get(request)
        if post.refusal is not None:
            if found is not None and found.content == post.content:
                yield f"{_name(post)} was refused ({post.refusal}) and is stored, as seq {found.seq}"
            continue
        known.add(request)
        if found is None:
            if post.answers:
                yield f"{_name(post)} was acknowledged and is lost"
            continue
        yield from _compare(_name(post), post.answers, found)
        if (found.channel, found.content, found.parent) != (post.channel, post.content, post.parent):
            yield f"{_name(post)} is stored with another channel, content or parent"
        if found.hops:
            yield f"{_name(post)} is stored with hops, which only replies to claims have"
    for message in stored.messages:
        if _request(message) not in known:
            yield f"nobody posted what is stored as seq {message.seq} of {message.author}"


def _check_mentions(history: History, stored: Stored) -> Iterator[str]:
    """A message that is there mentions whom it names, each once; nothing else mentions anybody."""
    expected = {_request(post): post.mentions for post in history.posts if post.refusal is None}
    by_id = {message.id: message for message in stored.messages}
    mentioned: dict[str, list[str]] = defaultdict(list)
    for mention in stored.mentions:
        message = by_id.get(mention.message_id)
        if message is None or message.seq != mention.seq:
            yield f"mention {mention.id} is of no message"
        mentioned[mention.message_id].append(mention.agent)
    for message in stored.messages:
        wanted, found = expected.get(_request(message), frozenset()), mentioned[message.id]
        if sorted(wanted) != sorted(found):
            yield f"seq {message.seq} should mention {sorted(wanted)} and mentions {sorted(found)}"


def _check_completions(history: History, stored: Stored) -> Iterator[str]:
    """One reply for each completed claim, and no mention is dealt with without one."""
    by_id = {message.id: message for message in stored.messages}
    mentions = {mention.id: mention for mention in stored.mentions}
    attempts: dict[str, list[Completion]] = defaultdict(list)
    for attempt in history.completions:
        attempts[attempt.mention_id].append(attempt)
    for mention_id, tried in attempts.items():
        mention = mentions.get(mention_id)
        if mention is None:
            yield f"mention {mention_id} was claimed and is lost"
            continue
        replies = [
            message
            for message in stored.replies(tried[0].message_id)
            if message.author == mention.agent and message.hops
        ]
        if len(replies) > 1:
            yield f"mention {mention_id} has {len(replies)} replies"
        if mention.read != bool(replies) or mention.reply_message_id != (replies[0].id if replies else None):
            yield f"mention {mention_id} is marked read without its reply, or has a reply and is unread"
        acknowledged = [attempt for attempt in tried if attempt.answers]
        for attempt in acknowledged:
            reply = by_id.get(attempt.answers[0].message_id)
            if reply is None:
                yield f"the reply to mention {mention_id} was acknowledged and is lost"
                continue
            yield from _compare(f"the reply to mention {mention_id}", attempt.answers, reply)
        for reply in replies:
            if reply.content not in {each.content for each in tried if each.refusal is None}:
                yield f"the reply to mention {mention_id} is of a claim that was lost, or of nobody"
            if (reply.request_id, reply.hops) != (reply_request_id(mention_id), 1):
                yield f"the reply to mention {mention_id} has another request id or other hops"


def _check_uploads(history: History, stored: Stored) -> Iterator[str]:
    """A file that was acknowledged is there as it was; of others, file and announcement are, or neither."""
    files = {(file.uploader, file.request_id): file for file in stored.files}
    announcements = {_request(message): message for message in stored.messages}
    for upload in history.uploads:
        request = (upload.author, upload.request_id)
        file, announcement = files.pop(request, None), announcements.get(request)
        if file is None or announcement is None:
            if upload.answers:
                yield f"{_name(upload)} was acknowledged and is lost"
            if file is not None or announcement is not None:
                yield f"{_name(upload)} has a row without an announcement, or the other way round"
            continue
        if (file.channel, file.name, file.size, file.sha256) != (
            upload.channel,
            upload.name,
            upload.size,
            upload.sha256,
        ):
            yield f"{_name(upload)} is stored with another channel, name, size or SHA-256"
        if file.message_id != announcement.id or f"**{upload.name}**" not in announcement.content:
            yield f"{_name(upload)} is announced by a message that is not its own"
        for answer in upload.answers:
            if (answer.file_id, answer.path, answer.sha256) != (file.id, file.path, file.sha256):
                yield f"{_name(upload)} was acknowledged as another file than the one stored"
        yield from _compare(_name(upload), [answer.announcement for answer in upload.answers], announcement)
    for file in files.values():
        yield f"nobody uploaded the file {file.path}"


def _check_bytes(stored: Stored) -> Iterator[str]:
    """No row without its bytes, and no bytes without a row beyond the time that the sweep gives them."""
    keys = set()
    for file in stored.files:
        keys.add(file.store_key)
        yield from _check_file(file, stored)
    for key, kept in stored.objects.items():
        if key not in keys and kept.age > stored.sweep_age:
            yield f"object {key} is {kept.age:.0f} s old and no file names it"


def _check_file(file: StoredFile, stored: Stored) -> Iterator[str]:
    kept = stored.objects.get(file.store_key)
    if kept is None:
        yield f"the bytes of {file.path} are gone"
    elif (kept.size, kept.sha256) != (file.size, file.sha256):
        yield f"the bytes of {file.path} are cut or changed: {kept.size} of {file.size}"
    downloaded = stored.downloads.get(file.path, "it was not tried")
    if downloaded != file.sha256:
        yield f"{file.path} cannot be downloaded whole: {downloaded}"


def _check_watches(history: History, stored: Stored) -> Iterator[str]:
    by_seq = {message.seq: message for message in stored.messages}
    claiming = {attempt.agent for attempt in history.completions}
    for watch in history.watches:
        for event in watch.events:
            message = by_seq.get(event.seq)
            if message is None or (message.id, message.content) != (event.message_id, event.content):
                yield f"{watch.name} received a seq {event.seq} that is not what is stored"
        if missing := missed(watch, stored):
            yield f"{watch.name} missed {len(missing)} events, the first is seq {missing[0]}"
        if watch.follows == "messages":
            yield from _check_message_watch(watch, stored)
        else:
            yield from _check_mention_watch(watch, stored, claims=watch.agent in claiming)
        numbers = [event.connection for event in watch.events]
        if numbers != sorted(numbers):
            yield f"{watch.name} received events of a connection that was gone"


def _check_message_watch(watch: Watch, stored: Stored) -> Iterator[str]:
    """Every message behind its start, each once, in order."""
    yield from _compare_order(watch, [event.seq for event in watch.events], _expected(watch, stored))


def _check_mention_watch(watch: Watch, stored: Stored, *, claims: bool) -> Iterator[str]:
    """Every mention, each once, in order; where claims end, it may come again, marked so."""
    again = sorted(event.seq for event in watch.events if event.redelivered)
    if again and not claims:
        yield f"{watch.name} received {again} again, and nobody claims there"
    own = _expected(watch, stored)
    if strange := sorted(set(again).difference(own)):
        yield f"{watch.name} received {strange}, which were not for it"
    yield from _compare_order(watch, [event.seq for event in watch.events if not event.redelivered], own)


def _compare_order(watch: Watch, received: list[int], expected: list[int]) -> Iterator[str]:
    for seq in _repeated(received):
        yield f"{watch.name} received seq {seq} twice"
    if strange := sorted(set(received).difference(expected)):
        yield f"{watch.name} received {strange}, which were not for it"
    for earlier, later in pairwise(received):
        if earlier > later:
            yield f"{watch.name} received seq {later} behind {earlier}"


def _expected(watch: Watch, stored: Stored) -> list[int]:
    """What is for a watcher, read or not."""
    if watch.follows == "mentions":
        return [mention.seq for mention in stored.mentions if mention.agent == watch.agent]
    return [
        message.seq
        for message in stored.messages
        if message.seq > watch.after
        and (watch.through is None or message.seq <= watch.through)
        and watch.channel in (None, message.channel)
    ]


def _compare(what: str, answers: list[Answer], found: StoredMessage) -> Iterator[str]:
    as_stored = Answer(found.id, found.seq, found.ordinal, found.created_at)
    for answer in answers:
        if answer != as_stored:
            yield f"{what} was acknowledged as {answer} and is stored as {as_stored}"


def _request(message: StoredMessage | Post) -> Request:
    return message.author, message.request_id or message.content


def _name(attempt: Post | Upload) -> str:
    if isinstance(attempt, Upload):
        return f"the file {attempt.request_id} of {attempt.author}"
    return f"the post {attempt.request_id or attempt.content!r} of {attempt.author}"


def _repeated(values: Iterable[object]) -> list[object]:
    return [value for value, count in Counter(values).items() if count > 1]


def _first_break(numbers: list[int]) -> str:
    for place, number in enumerate(numbers, 1):
        if number != place:
            return f"at {place}: {number} is there"
    return "at its end"
