"""The benchmark itself: its table, its medians, and that a tiny run of it measures something."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.benchmarks import report
from tests.benchmarks.__main__ import ROWS, SIZES, main, scaled
from tests.benchmarks.figures import _BARE
from tests.benchmarks.report import Figure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def replay(*values: float) -> Callable[[], float]:
    """A side that takes these, one after the other."""
    left = list(values)
    return lambda: left.pop(0)


def compare(**sides: Callable[[], float]) -> Figure:
    """A figure of two sides whose target is that the first takes at most twice as long."""
    return Figure(
        "a figure",
        dict(sides),
        target="at most 2x",
        met=lambda medians: (medians["ours"] <= 2 * medians["theirs"], f"{medians['ours'] / medians['theirs']:.1f}x"),
    )


def test_sides_take_turns_and_their_medians_are_judged() -> None:
    told: list[str] = []

    result = report.measure(compare(ours=replay(3, 9, 4), theirs=replay(2, 1, 8)), 3, told.append)

    assert [line.split(", ")[2].split(":")[0] for line in told] == [
        *("ours", "theirs"),
        *("theirs", "ours"),
        *("ours", "theirs"),
    ]
    assert result.medians == {"ours": 4, "theirs": 2}
    assert result.verdict == "met: 2.0x"


def test_a_missed_target_is_a_result() -> None:
    result = report.measure(compare(ours=replay(5), theirs=replay(2)), 1, lambda _: None)

    assert result.verdict == "missed: 2.5x"
    assert "    => missed: 2.5x" in report.lines([result])
    assert "**missed**: 2.5x" in report.markdown([result])


def test_a_side_that_cannot_be_run_is_named_with_its_reason_and_nothing_is_made_up() -> None:
    def broken() -> float:
        raise RuntimeError("no such program")

    result = report.measure(compare(ours=replay(1, 2), theirs=broken), 2, lambda _: None)

    assert result.medians == {"ours": 1.5}
    assert result.verdict == "not measured: theirs is missing"
    assert any("theirs" in line and "not run: RuntimeError: no such program" in line for line in report.lines([result]))


def test_the_file_holds_every_number_with_the_machine_and_the_versions(tmp_path: Path) -> None:
    result = report.measure(compare(ours=replay(1, 3), theirs=replay(2, 2)), 2, lambda _: None)

    report.write_json(tmp_path / "out.json", [result], "slurm 22.05.8")

    found = json.loads((tmp_path / "out.json").read_text())
    assert found["figures"][0]["rounds"] == {"ours": [1, 3], "theirs": [2, 2]}
    assert found["versions"]["Slurm"] == "slurm 22.05.8"
    assert found["machine"]["processors"]


def test_sizes_follow_the_jobs_of_a_bulk() -> None:
    assert scaled(SIZES, 1000) == SIZES
    assert scaled(SIZES, 5) == (1, 5, 50)


def test_a_row_that_is_not_there_is_refused_with_those_that_are() -> None:
    done = CliRunner().invoke(main, ["nothing"])

    assert done.exit_code == 2
    assert all(f"'{row}'" in done.output for row in ROWS)


def test_the_bare_loop_beside_pyslurm_is_a_program() -> None:
    code = compile(_BARE, "bare", "exec")
    assert {"pyslurm", "JobSubmitDescription", "submit"} <= set(code.co_names)


@pytest.mark.sandbox
@pytest.mark.usefixtures("cluster")
def test_a_tiny_run_gives_a_table_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])  # a run puts stand-ins before it where the other libraries are
    done = CliRunner().invoke(
        main, ["one", "bulk", "--jobs", "3", "--rounds", "1", "--json", str(tmp_path / "out.json")]
    )

    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert [figure["name"] for figure in figures] == ["one job, from call to id", "3 jobs in bulk, local"]
    assert all(figure["verdict"].startswith(("met: ", "missed: ")) for figure in figures)
    bulk = figures[1]
    ours = {"adapter", "shell loop", *(f"xargs -P{parallel} sbatch" for parallel in (2, 4, 8, 16))}
    assert ours <= bulk["medians"].keys()
    missing = {name for name, module in {"PSI/J": "psij", "submitit": "submitit"}.items() if find_spec(module) is None}
    assert missing <= bulk["left out"].keys()
    assert all(name in done.output for name in ours | missing)


@pytest.mark.long
@pytest.mark.sandbox
@pytest.mark.usefixtures("cluster")
def test_a_peers_name_is_measured_while_serve_makes_the_passes(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["peer", "--rounds", "1", "--json", str(tmp_path / "out.json")])

    assert done.exit_code == 0, done.output
    [figure] = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert (figure["name"], figure["left out"]) == ("a peer's name, from its start", {})
    assert figure["medians"]["serve"] > 0
