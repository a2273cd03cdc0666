"""Figures, the table that shows them, and the JSON that keeps them."""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

WIDTH = 80

Details = Mapping[str, float | str]


@dataclass(frozen=True)
class Effort:
    """How much is measured. `folder` is where data goes: it should be on the disk that a board would use."""

    folder: Path
    rounds: int = 5
    # Of one measurement of one round.
    seconds: float = 8.0
    quick: bool = False


@dataclass(frozen=True)
class Bar:
    """What a figure is to reach: a bound of its ratio to the reference, or of itself."""

    limit: float
    at_least: bool = False
    of_ratio: bool = True

    def is_met(self, value: float) -> bool:
        """Whether a value, or ratio, is within the bound."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {significant(self.limit)}"


@dataclass(frozen=True)
class Reference:
    """What a figure stands beside."""

    what: str
    rounds: Sequence[float]

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Figure:
    """Something measured, once a round. `id` is for programs, `subject.what.how`; the value is the median."""

    id: str
    what: str
    unit: str
    rounds: Sequence[float]
    reference: Reference | None = None
    bar: Bar | None = None
    details: Details = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of the reference's."""
        if self.reference is None or not self.reference.value:
            return None
        return self.value / self.reference.value

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        judged = self.ratio if self.bar is not None and self.bar.of_ratio else self.value
        return None if self.bar is None or judged is None else self.bar.is_met(judged)

    def as_json(self) -> dict[str, Any]:
        """The figure, with all its rounds, as `json.dumps` takes it."""
        reference = self.reference and {
            "what": self.reference.what,
            "value": rounded(self.reference.value),
            "rounds": [rounded(value) for value in self.reference.rounds],
        }
        bar = self.bar and {
            "limit": rounded(self.bar.limit),
            "at_least": self.bar.at_least,
            "of_ratio": self.bar.of_ratio,
        }
        return {
            "id": self.id,
            "what": self.what,
            "unit": self.unit,
            "value": rounded(self.value),
            "rounds": [rounded(value) for value in self.rounds],
            "reference": reference,
            "ratio": None if self.ratio is None else rounded(self.ratio),
            "bar": bar,
            "met": self.met,
            "details": {
                name: rounded(value) if isinstance(value, float) else value
                for name, value in self.details.items()
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Figure:
        """The inverse of `as_json`."""
        reference, bar = values["reference"], values["bar"]
        return cls(
            id=values["id"],
            what=values["what"],
            unit=values["unit"],
            rounds=values["rounds"],
            reference=Reference(reference["what"], reference["rounds"]) if reference else None,
            bar=Bar(**bar) if bar else None,
            details=values["details"],
        )


@dataclass(frozen=True)
class Results:
    """All that a run found. `date` is in UTC."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    server: str
    quick: bool
    figures: Sequence[Figure]
    skipped: Mapping[str, str]
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))

    @property
    def file_name(self) -> str:
        """`2026-01-31-amd-epyc-2-cores.json`."""
        processor = re.sub(r"[^a-z0-9]+", "-", str(self.machine["processor"]).lower()).strip("-")
        return f"{self.date}-{processor}-{self.machine['cores']}-cores.json"

    def write(self, file: Path) -> None:
        """Writes the results as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "date": self.date,
            "quick": self.quick,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "server": self.server,
            "skipped": dict(self.skipped),
            "figures": [figure.as_json() for figure in self.figures],
        }
        file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def read(cls, file: Path) -> Results:
        """Reads what `write` wrote."""
        values = json.loads(file.read_text("utf-8"))
        return cls(**{**values, "figures": tuple(map(Figure.from_json, values["figures"]))})


def table(figures: Iterable[Figure]) -> str:
    """The figures for a terminal of 80 columns, each with its details below."""
    lines = [_row("", "measured", "beside", "ratio", "bar", ""), "-" * WIDTH]
    for figure in figures:
        reference = figure.reference
        beside = amount(reference.value, figure.unit) if reference else ""
        ratio = "" if figure.ratio is None else significant(figure.ratio)
        met = "" if figure.met is None else "met" if figure.met else "MISS"
        bar = "" if figure.bar is None else str(figure.bar)
        what = textwrap.wrap(figure.what, 34)
        lines.append(_row(what[0], amount(figure.value, figure.unit), beside, ratio, bar, met))
        lines += [f"  {line}" for line in what[1:]]
        if reference:
            lines += _indented(f"beside: {reference.what}")
        if figure.details:
            lines += _indented(details_text(figure.details))
    return "\n".join(lines)


def details_text(details: Details) -> str:
    """Details on one line."""
    return "; ".join(f"{name} {shown(value)}" for name, value in details.items())


def shown(value: float | str) -> str:
    """A detail's value."""
    return value if isinstance(value, str) else significant(value)


def amount(value: float, unit: str) -> str:
    """A value with its unit, as `5,310/s` or `1.24 ms`."""
    return f"{significant(value)}{'' if unit.startswith('/') else ' '}{unit}"


def significant(value: float) -> str:
    """A number with three digits that count, and commas between thousands."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    decimals = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rounded(value: float) -> float:
    """A number with five digits that count, as results keep it."""
    return float(f"{value:.5g}")


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def _row(what: str, value: str, beside: str, ratio: str, bar: str, met: str) -> str:
    return f"{what:<34} {value:>11} {beside:>11} {ratio:>6} {bar:>7} {met:>5}".rstrip()


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
