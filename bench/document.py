"""Puts results into docs/performance.md: `python -m bench.document`, part of `make bench-docs`.

Between the markers `<!-- figures: sends -->` and `<!-- end -->` stand the figures whose ids begin with that
name; between `<!-- figures: run -->` and the end, what they were measured on. All of it comes from the newest
file in `bench/results`, so that no figure of the document is typed by hand; a test compares them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bench.report import Figure, Results, amount, shown, significant
from bench.run import RESULTS

DOCUMENT = RESULTS.parents[1] / "docs" / "performance.md"

_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def newest_results() -> Path | None:
    """The newest file of results, None when there is none."""
    # Their names begin with the date.
    return max(RESULTS.glob("*.json"), default=None)


def render(document: str, results: Results) -> str:
    """The document with the figures of some results in it."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name == "run":
            return match[1] + _describe(results) + "\n" + match[3]
        figures = [figure for figure in results.figures if figure.id.startswith(f"{name}.")]
        text = _table(figures) if figures else f"Not measured: {results.skipped.get(name, 'left out')}."
        return match[1] + text + "\n" + match[3]

    return _BLOCK.sub(block, document)


def main() -> int:
    """Renders the document; returns the exit code."""
    newest = newest_results()
    if newest is None:
        print("There are no results yet: make bench", file=sys.stderr)
        return 1
    DOCUMENT.write_text(render(DOCUMENT.read_text("utf-8"), Results.read(newest)), "utf-8")
    return 0


def _describe(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return (
        f"{results.date}, {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']} {machine['kernel']}, {machine['file_system']}; {versions}. "
        f"Server: {results.server}."
    )


def _table(figures: list[Figure]) -> str:
    lines = ["| figure | measured | beside it | ratio | bar |", "|---|---:|---|---:|---|"]
    for figure in figures:
        reference = figure.reference
        beside = f"{amount(reference.value, figure.unit)}, {reference.what}" if reference else ""
        ratio = "" if figure.ratio is None else significant(figure.ratio)
        bar = "" if figure.bar is None else f"{figure.bar}: {'met' if figure.met else '**missed**'}"
        lines.append(f"| {figure.what} | {amount(figure.value, figure.unit)} | {beside} | {ratio} | {bar} |")
    detailed = [figure for figure in figures if figure.details]
    names = list(dict.fromkeys(name for figure in detailed for name in figure.details))
    if detailed:
        lines += ["", f"| details | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for figure in detailed:
        lines.append(
            f"| {figure.what} | {' | '.join(shown(figure.details.get(name, '')) for name in names)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
