"""The findings about Slurm's versions: too old, not tested, tested."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from slurm_adapter.cli.check.cluster import check_versions
from slurm_adapter.cli.check.findings import Level
from slurm_adapter.cluster.schedulers.versions import Versions, read_client, read_controller, release
from slurm_adapter.core.errors import Unknown

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter


@pytest.mark.parametrize(
    ("client", "controller", "level", "words"),
    [
        ("22.05.8", "22.05.8", Level.GOOD, "Slurm 22.05.8"),
        ("26.05.5", "26.05.5", Level.GOOD, "Slurm 26.05.5"),
        ("24.11.5", "26.05.5", Level.GOOD, "Slurm 26.05.5, with commands of 24.11.5"),
        ("25.05.1", "25.05.1", Level.WARNING, "not tested with Slurm 25.05; it was tested with 22.05,"),
        ("24.11.5", "27.11.0-0rc1", Level.WARNING, "not tested with Slurm 27.11"),
        ("20.11.4", "22.05.8", Level.PROBLEM, "Slurm's commands: Slurm 20.11.4 is too old"),
        ("22.05.8", "21.08.8-2", Level.PROBLEM, "Slurm's controller: Slurm 21.08.8-2 is too old"),
    ],
)
def test_check_shows_the_version(client: str, controller: str, level: Level, words: str) -> None:
    site = SimpleNamespace(scheduler=SimpleNamespace(versions=lambda: Versions(client, controller)))
    [finding] = check_versions(cast("Adapter", site))
    assert finding.level is level
    assert words in finding.text


def test_how_slurm_writes_its_version() -> None:
    assert read_client("slurm-wlm 22.05.8\n") == "22.05.8"
    assert read_client("slurm 24.11.5\n") == "24.11.5"
    assert read_controller("SLURM_CONF = /x\nSLURM_VERSION           = 26.05.5\n") == "26.05.5"
    assert (release("21.08.8-2"), release("22.5.1")) == ((21, 8), (22, 5))
    for read in (read_client, read_controller, release):
        with pytest.raises(Unknown):
            read("Segmentation fault")
