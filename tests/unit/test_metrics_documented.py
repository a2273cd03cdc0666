"""docs/operations.md lists every metric, and speaks of none that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from agentchat_server.metrics import DEFINITIONS
from agentchat_server.refusals import REASONS

MANUAL = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8")
METRICS = MANUAL.partition("\n## Metrics\n")[2].partition("\n## ")[0]


def test_every_metric_is_in_the_table_with_its_kind_and_labels() -> None:
    rows = re.findall(r"^\| `(agentchat_\w+)` \| (\w+) \| ?(.*?) ?\| .+ \|$", METRICS, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert documented == {
        name: (definition.kind, definition.all_labels) for name, definition in DEFINITIONS.items()
    }


def test_the_alerts_ask_for_metrics_and_reasons_that_exist() -> None:
    named = {
        re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bagentchat_[a-z_]+\b", METRICS)
    }
    assert named == set(DEFINITIONS)
    for pattern in re.findall(r'reason=~?"([^"]+)"', METRICS):
        assert any(re.fullmatch(pattern, reason) for reason in REASONS), pattern
