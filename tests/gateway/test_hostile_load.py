"""Hostile clients of every kind do not keep honest ones from their answers, nor take the machine's memory.

How fast the answers come is measured by the benchmark (`python -m tests.benchmarks hostile`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.gateway.hostile_clients import KINDS
from tests.gateway.hostile_load import measure

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTES = 300
"""What `serve` and its children may hold together."""


def test_every_honest_request_is_answered_under_attack(tmp_path: Path) -> None:
    measured = measure(tmp_path, hostile=4 * len(KINDS), honest=5, seconds=12)
    assert measured.before.failed == []
    assert measured.under.failed == [], str(measured)
    assert len(measured.under.seconds) >= 50, str(measured)
    assert measured.under.megabytes < MEGABYTES, str(measured)
