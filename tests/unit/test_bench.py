"""What the benchmark computes from what programs say. What it measures is for `make bench` alone."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench import document, h2load, pgbench, processes, run, text
from bench.failures import MeasurementError, SubjectSkipped
from bench.report import Bar, Figure, Reference, Results, amount, percentile, significant, table


def figure(**values: object) -> Figure:
    """Sends at 700, 900 and 800 a second, beside 1,000."""
    fields: dict[str, object] = {
        "id": "sends.2.plain",
        "what": "Sends, plain, 2 workers",
        "unit": "/s",
        "rounds": [700.0, 900.0, 800.0],
        "reference": Reference("pgbench", [1000.0]),
        "bar": Bar(0.7, at_least=True),
        "details": {"p50 ms": 11.25, "messages a batch": 20.0},
    }
    return Figure(**{**fields, **values})  # type: ignore[arg-type]


def results(*figures: Figure) -> Results:
    """The results of some figures."""
    machine = {
        "processor": "ACME (R) Nine @ 3 GHz",
        "cores": 2,
        "memory_gib": 8,
        "system": "Linux",
        "kernel": "6.1",
        "file_system": "ext4",
    }
    return Results(machine, {"Python": "3.11"}, "defaults", False, figures, {"files": "none"}, "2026-01-31")


def test_a_frame_is_a_flag_a_length_and_the_message() -> None:
    assert h2load.frame(b"abc") == b"\x00\x00\x00\x00\x03abc"
    assert h2load.frame(b"") == b"\x00" * 5
    assert h2load.frame(b"x" * 300)[:5] == b"\x00\x00\x00\x01\x2c"


def test_only_answers_of_a_log_of_h2load_are_read() -> None:
    log = "1700000000000000\t200\t1500\n1700000000100000\t-1\t20\n1700000000200000\t200\t2500\n"

    assert h2load.parse_log(log) == [
        h2load.Reply(1_700_000_000.0, 0.0015),
        h2load.Reply(1_700_000_000.2, 0.0025),
    ]


def test_the_bytes_of_bodies_are_read_from_the_summary_of_h2load() -> None:
    summary = (
        "requests: 50 total, 50 started, 50 done, 50 succeeded, 0 failed, 0 errored, 0 timeout\n"
        "traffic: 12.21KB (12500) total, 1.1KB (1100) headers (space savings 90.00%), 9.77KB (10005) data\n"
    )

    assert h2load.parse_data_bytes(summary) == 10_005
    with pytest.raises(MeasurementError, match="nothing of its traffic"):
        h2load.parse_data_bytes("the process crashed")


def test_without_h2load_one_learns_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    h2load.version.cache_clear()
    try:
        with pytest.raises(SubjectSkipped, match="apt-get install nghttp2-client"):
            h2load.require()
    finally:
        h2load.version.cache_clear()


def test_the_summary_of_pgbench_is_read() -> None:
    summary = (
        "number of transactions actually processed: 12345\n"
        "number of failed transactions: 0 (0.000%)\n"
        "latency average = 3.111 ms\n"
        "tps = 6001.500000 (without initial connection time)\n"
    )

    assert pgbench.parse_summary(summary) == pgbench.Outcome(12_345, 0, 6001.5)
    with pytest.raises(MeasurementError):
        pgbench.parse_summary("pgbench: error: connection failed")


def test_the_log_of_pgbench_has_its_times_in_the_third_column() -> None:
    assert pgbench.parse_log("0 1 2345 0 1700000000 12\n0 2 1000 0 1700000000 99\n") == [0.002345, 0.001]


def test_a_script_of_pgbench_has_the_statements_of_each_transaction_in_one_pipeline() -> None:
    script, variables = pgbench.script_of(
        [["select %(a)s::uuid", "select %(b)b, %(none)s::uuid"], ["select %(a)s"]],
        {"a": "x", "b": 1, "none": None, "unused": 2},
    )

    assert script.splitlines() == [
        "\\startpipeline",
        "select :a::uuid;",
        "select :b, null::uuid;",
        "\\endpipeline",
        "select :a;",
    ]
    assert variables == {"a": "x", "b": 1}


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1), (0.5, 1)], ids=str)
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_a_figure_is_judged_by_the_medians() -> None:
    assert figure().value == 800
    assert figure().ratio == 0.8
    assert figure().met is True
    assert figure(bar=Bar(0.81, at_least=True)).met is False
    assert figure(bar=Bar(0.79)).met is False
    assert figure(bar=Bar(800, of_ratio=False)).met is True
    assert figure(bar=None).met is None
    assert figure(reference=None, bar=None).ratio is None


def test_a_bar_of_a_ratio_is_not_judged_without_a_reference() -> None:
    assert figure(reference=None).met is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (0.1234, "0.123"),
        (1.239, "1.24"),
        (47.03, "47"),
        (96.0, "96"),
        (123.4, "123"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_are_shown_with_three_digits_that_count(value: float, expected: str) -> None:
    assert significant(value) == expected


def test_a_rate_stands_at_its_number_and_other_units_do_not() -> None:
    assert [amount(5310.0, "/s"), amount(1.24, "ms")] == ["5,310/s", "1.24 ms"]


def test_the_table_fits_80_columns_and_says_what_was_missed() -> None:
    shown = table([figure(what="A figure with a rather long name that takes two lines", bar=Bar(0.5))])

    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "MISS" in shown
    assert "beside: pgbench" in shown
    assert "p50 ms 11.2; messages a batch 20" in shown


def test_results_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    written = results(figure(), figure(id="watchers.mentions", reference=None, bar=Bar(96, of_ratio=False)))

    written.write(tmp_path / "new" / "results.json")

    assert Results.read(tmp_path / "new" / "results.json") == written
    assert written.file_name == "2026-01-31-acme-r-nine-3-ghz-2-cores.json"


def test_the_document_takes_each_subjects_figures_between_its_markers() -> None:
    page = (
        "# Title\n<!-- figures: sends -->\nold\n<!-- end -->\nkept\n<!-- figures: files -->\n<!-- end -->\n"
    )

    rendered = document.render(page, results(figure()))

    assert "| Sends, plain, 2 workers | 800/s | 1,000/s, pgbench | 0.8 | ≥ 0.7: met |" in rendered
    assert "| details | p50 ms | messages a batch |" in rendered
    assert "| Sends, plain, 2 workers | 11.2 | 20 |" in rendered
    assert "Not measured: none." in rendered
    assert "old" not in rendered
    assert "\nkept\n" in rendered
    assert document.render(rendered, results(figure())) == rendered


def test_the_document_has_a_place_for_every_subject() -> None:
    page = document.DOCUMENT.read_text("utf-8")

    for subject in ("run", *run.SUBJECTS):
        assert page.count(f"<!-- figures: {subject} -->") == 1


def test_the_figures_in_the_document_are_those_of_the_newest_results() -> None:
    newest = document.newest_results()
    if newest is None:
        pytest.skip("there are no results yet")
    page = document.DOCUMENT.read_text("utf-8")

    assert document.render(page, Results.read(newest)) == page, "run: make bench-docs"


def test_a_name_of_no_subject_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--only", "sends,all"])

    assert "there is no 'all'" in capsys.readouterr().err


def test_the_vocabulary_is_uneven_and_always_the_same() -> None:
    words = text.vocabulary()

    assert words == text.vocabulary()
    assert len(set(words)) == len(words) == 20_000
    written = list(itertools.islice(text.contents(seed=1), 2000))
    assert written == list(itertools.islice(text.contents(seed=1), 2000))
    count = Counter(word for content in written for word in content.split())
    # By Zipf's law, 10 times and 100 times as frequent, give or take chance.
    assert 7 < count[words[0]] / count[words[9]] < 13
    assert 60 < count[words[0]] / count[words[99]] < 160


@pytest.mark.skipif(not processes.AVAILABLE, reason="this system has no /proc")
def test_processor_time_counts_children_living_and_dead() -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass\n"
    before = processes.cpu_seconds([os.getpid()])
    subprocess.run([sys.executable, "-c", spin], check=True)
    with subprocess.Popen(
        [sys.executable, "-c", f"{spin}print(flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as living:
        assert living.stdout is not None
        living.stdout.readline()
        used = processes.cpu_seconds([os.getpid()]) - before
        of_child = processes.cpu_seconds([living.pid])
        living.communicate(b"\n")

    assert used >= 0.55
    assert 0.25 <= of_child <= used


@pytest.mark.skipif(not processes.AVAILABLE, reason="this system has no /proc")
def test_memory_is_what_the_process_has() -> None:
    before = processes.memory(os.getpid())
    kept = bytearray(os.urandom(32 * 2**20))
    after = processes.memory(os.getpid())

    assert before is not None
    assert after is not None
    assert len(kept) * 0.9 < after.proportional - before.proportional
    assert after.proportional <= after.resident
    assert processes.memory(2**30) is None
