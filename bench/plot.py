"""Draws results as docs/performance.svg: `python -m bench.plot`, part of `make bench-docs`.

Left, sends a second beside what pgbench inserts; right, how long reads take beside their own SQL, on the
small and the large board. Needs matplotlib, which `make bench-docs` installs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

from bench.document import DOCUMENT, newest_results
from bench.report import Figure, Results, significant

PLOT = DOCUMENT.with_suffix(".svg")

_OURS, _BESIDE = "#2563a8", "#b9c2cc"
_BAR_HEIGHT = 0.38


def main() -> int:
    """Draws the newest results; returns the exit code."""
    newest = newest_results()
    if newest is None:
        print("There are no results yet: make bench", file=sys.stderr)
        return 1
    draw(Results.read(newest))
    return 0


def draw(results: Results) -> None:
    """Draws results. The same results make the same file, byte by byte."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "agentchat", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, (sends, reads) = pyplot.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    _draw_pairs(
        sends,
        [each for each in results.figures if each.id.startswith("sends.") and each.reference],
        "messages a second, 64 senders; more is better",
        ("AgentChat", "pgbench, a row a transaction"),
    )
    _draw_pairs(
        reads,
        [each for each in results.figures if each.id.startswith("reads.") and not each.id.endswith("growth")],
        "p50 of a call in ms; less is better",
        ("AgentChat", "the same SQL by pgbench"),
    )
    reads.set_xscale("log")
    figure.savefig(PLOT, metadata={"Date": None})


def _draw_pairs(axes: Any, figures: Sequence[Figure], title: str, labels: tuple[str, str]) -> None:
    """A pair of bars for each figure: itself and its reference, with the ratio beside them."""
    places = range(len(figures))
    ours = [figure.value for figure in figures]
    beside = [figure.reference.value if figure.reference else 0.0 for figure in figures]
    axes.barh([place - _BAR_HEIGHT / 2 for place in places], ours, _BAR_HEIGHT, color=_OURS, label=labels[0])
    axes.barh(
        [place + _BAR_HEIGHT / 2 for place in places], beside, _BAR_HEIGHT, color=_BESIDE, label=labels[1]
    )
    for place, figure in zip(places, figures, strict=True):
        longest = max(ours[place], beside[place])
        axes.annotate(f" × {significant(figure.ratio or 0)}", (longest, place), va="center")
    axes.set_yticks(list(places), [figure.what.removesuffix(", p50") for figure in figures])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.4, -0.06))


if __name__ == "__main__":
    sys.exit(main())
