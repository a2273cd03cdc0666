"""The front of the benchmark: `make bench`, `make bench ARGS="--only sends,delivery --quick"`.

Prints each subject's figures as soon as they are there. A full run, of all subjects at full length, also
leaves its results in `bench/results/`. A bar that is missed is reported, and is no failure. A subject that
fails, because something was answered but not written for instance, has no figures.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import delivery, files, machine, reads, sends, startup, watchers
from bench.board import SETTINGS_NOTE
from bench.failures import SubjectSkipped
from bench.report import WIDTH, Effort, Figure, Results, table

RESULTS = Path(__file__).parent / "results"

SUBJECTS: dict[str, Callable[[Effort], list[Figure]]] = {
    "sends": sends.measure,
    "delivery": delivery.measure,
    "reads": reads.measure,
    "watchers": watchers.measure,
    "files": files.measure,
    "startup": startup.measure,
}

_ROUNDS, _SECONDS = 5, 8.0
_QUICK_ROUNDS, _QUICK_SECONDS = 2, 2.0


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code: 0 also when bars were missed, 1 when a subject failed."""
    # Ends in order, so that servers and folders do not stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args(arguments)
    effort = Effort(
        folder=options.folder,
        rounds=options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS),
        seconds=options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS),
        quick=options.quick,
    )
    described, versions = machine.describe_machine(effort.folder), machine.describe_versions()
    _say(
        f"{described['processor']}, {described['cores']} cores, {described['memory_gib']} GiB, "
        f"{described['system']} {described['kernel']}, {described['file_system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )
    _say(f"It starts its own server: {SETTINGS_NOTE}. Medians of {effort.rounds} rounds.")
    if effort.quick:
        _say("A quick run: shorter, with smaller boards. Its figures say that it works, not how fast.")

    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    failed = False
    for name in options.only:
        began = time.monotonic()
        try:
            found = SUBJECTS[name](effort)
        except SubjectSkipped as error:
            skipped[name] = str(error)
            print(f"\n{name}: skipped: {error}")
            continue
        except Exception as error:  # noqa: BLE001 - the other subjects, and what was measured, are worth having
            failed, skipped[name] = True, f"failed: {error}"
            print(f"\n{name}: failed", flush=True)
            traceback.print_exc()
            continue
        figures += found
        print(f"\n{name}, {time.monotonic() - began:.0f} s\n{table(found)}", flush=True)

    results = Results(described, versions, SETTINGS_NOTE, effort.quick, figures, skipped)
    complete = not effort.quick and not failed and options.only == list(SUBJECTS)
    file: Path | None = options.json or (RESULTS / results.file_name if complete else None)
    if file is not None:
        results.write(file)
        print(f"\nResults: {file}. To put them into the documentation: make bench-docs")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measures AgentChat beside Postgres itself. A full run takes some 20 minutes.",
    )
    parser.add_argument(
        "--only",
        type=_subjects,
        default=list(SUBJECTS),
        metavar="SUBJECTS",
        help=f"what to measure, with commas between (default: {','.join(SUBJECTS)})",
    )
    parser.add_argument("--quick", action="store_true", help="short rounds and small boards")
    parser.add_argument("--rounds", type=int, help=f"how often each is measured (default: {_ROUNDS})")
    parser.add_argument("--seconds", type=float, help=f"how long each lasts (default: {_SECONDS:.0f})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    parser.add_argument(
        "--folder",
        type=Path,
        default=_data_folder(),
        help="where the data goes, on the disk to measure (default: %(default)s)",
    )
    return parser


def _subjects(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in SUBJECTS]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; there are {', '.join(SUBJECTS)}")
    return wanted


def _data_folder() -> Path:
    """A folder for large files that is on a disk: /tmp is in memory on many systems."""
    lasting = Path("/var/tmp")  # noqa: S108 - folders in it are made private, with names of their own
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


def _say(text: str) -> None:
    print(textwrap.fill(text, WIDTH))


if __name__ == "__main__":
    sys.exit(main())
