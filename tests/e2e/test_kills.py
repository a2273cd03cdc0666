"""The kill proof: whatever is killed under load, nothing acknowledged is lost, and nothing is doubled.

A real `agentchat up` is under load from eight writers and eight watchers. Each round kills a worker, a
connection of Postgres or Postgres itself at a random moment, waits until the service is back by itself, lets
everybody come to rest and checks the whole history. CONTRIBUTING.md tells how to repeat a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.kills.load import Load, under_load
from tests.kills.model import violations
from tests.kills.service import PATIENCE, TARGETS, Service
from tests.kills.stored import Stored

ROUNDS = int(os.environ.get("KILL_ROUNDS") or 25)
SEED = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))


def _targets(dice: random.Random) -> list[str]:
    """What each round kills: everything equally often, in random order."""
    targets = [TARGETS[number % len(TARGETS)] for number in range(ROUNDS)]
    dice.shuffle(targets)
    return targets


async def _play_round(service: Service, load: Load, target: str, dice: random.Random) -> tuple[Stored, float]:
    """Lets everybody work, kills, waits until they work again and then rest."""
    load.gate.open()
    # The moment of the kill is what is random here; nothing is waited for.
    await asyncio.sleep(dice.uniform(0.2, 2.5))
    killed_at = time.monotonic()
    killed = await service.kill(target, dice)
    await service.wait_until_replaced(killed)
    await load.probe()
    back_after = time.monotonic() - killed_at
    await asyncio.sleep(dice.uniform(0.0, 0.5))
    await load.gate.close(2 * PATIENCE)
    assert service.is_running, "agentchat up itself ended"
    return await load.settle(), back_after


@pytest.mark.slow
@pytest.mark.timeout(60 * ROUNDS)
async def test_no_kill_loses_or_doubles_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    dice = random.Random(SEED)
    killed: Counter[str] = Counter()
    say(f"\nkill proof: {ROUNDS} rounds, KILL_SEED={SEED}")
    stored, number, target = Stored(), 0, "nothing"
    service = await Service.start(tmp_path)
    try:
        async with under_load(service, dice) as load:
            for number, target in enumerate(_targets(dice), 1):
                if number == ROUNDS:
                    load.forget_downloads()
                stored, back_after = await _play_round(service, load, target, dice)
                found = violations(load.history, stored)
                report = "\n".join(found[:20])
                assert not found, f"{len(found)} violations\n{report}"
                killed[target] += 1
                say(
                    f"round {number}: {target} killed, back after {back_after:.1f} s,"
                    f" {stored.head} messages, {len(stored.files)} files: sound"
                )
        resent, answer_lost = service.resent_batches(stored)
        say(f"{resent} batches sent again, {answer_lost} of them after their answer was lost")
        say(f"{load.answers_lost} posts repeated by their writers after their answer was lost")
        say(f"{load.history.unknown} posts and files of unknown outcome")
        # A batch whose first message was refused cannot be told; three of them in a row are a defect.
        assert answer_lost or killed["committed backend"] < 3
        assert await service.stop() == 0, service.log_tail()
    except BaseException as error:
        error.add_note(f"round {number}, {target} killed, KILL_SEED={SEED}\n{service.log_tail()}")
        raise
    finally:
        service.kill_all()
