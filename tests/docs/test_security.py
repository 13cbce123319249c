"""The threat model names files and tests that exist, and is in the wheel's package."""

from __future__ import annotations

import re
from pathlib import Path

import slurm_adapter

ROOT = Path(__file__).parents[2]
DOCUMENT = (Path(slurm_adapter.__file__).parent / "docs" / "security.md").read_text(encoding="utf-8")


def test_what_it_names_exists() -> None:
    named = re.findall(r"`((?:slurm_adapter|tests|templates|\.ci)/[\w./-]+|pyproject\.toml)(?:::(\w+))?`", DOCUMENT)
    assert len(named) > 50
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"


def test_every_actor_has_its_section() -> None:
    for actor in (
        "A user with a crafted specification",
        "A cluster user with a shell",
        "Another user of the same project",
        "An HTTP client without a token, or with another's",
        "A malicious page in a browser",
        "A malicious application behind the proxy",
        "A compromised UCloud",
        "Remaining limits",
    ):
        assert f"\n## {actor}\n" in DOCUMENT


def test_no_line_of_its_prose_is_longer_than_120() -> None:
    assert [line for line in DOCUMENT.splitlines() if len(line) > 120 and not line.startswith("|")] == []
