"""Slurm's lists of nodes, compared with Slurm's own expansion."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm_adapter.cluster.schedulers.hostlist import LIMIT, expand
from slurm_adapter.core.errors import Unknown

if TYPE_CHECKING:
    from pathlib import Path

TABLE = {
    "n1": "n1",
    "n[1-3]": "n1 n2 n3",
    "n[01-10]": "n01 n02 n03 n04 n05 n06 n07 n08 n09 n10",
    "n[9-11]": "n9 n10 n11",
    "n[1-010]": "n1 n2 n3 n4 n5 n6 n7 n8 n9 n10",
    "n[001-3]": "n001 n002 n003",
    "n[1,3,2]": "n1 n3 n2",
    "n[0001-0002,3]": "n0001 n0002 n3",
    "n[1-2,2-3]": "n1 n2 n2 n3",
    "n1,n1": "n1 n1",
    "n2,n1": "n2 n1",
    "n1,gpu[01-02]": "n1 gpu01 gpu02",
    "n[1-2],,m,": "n1 n2 m",
    "[1-3]": "1 2 3",
    "n[1-2][3-4]": "n13 n14 n23 n24",
    "a[1-2]b[3-4]": "a1b3 a1b4 a2b3 a2b4",
    "n[008-011]x[1-2]": "n008x1 n008x2 n009x1 n009x2 n010x1 n010x2 n011x1 n011x2",
    "a[1-2]b[3-4]c[5-6]": "a1b3c5 a1b3c6 a2b3c5 a2b3c6 a1b4c5 a1b4c6 a2b4c5 a2b4c6",
    "cn-1.example.org,cn_2-ib0": "cn-1.example.org cn_2-ib0",
    "n1-3": "n1-3",
}

numbers = st.integers(0, 40).flatmap(
    lambda first: st.builds(
        lambda span, width: f"{first:0{width}}" + (f"-{first + span}" if span else ""),
        st.integers(0, 8),
        st.integers(1, 4),
    )
)
brackets = st.lists(numbers, min_size=1, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
stems = st.from_regex(r"[a-z][a-z0-9._-]{0,5}[a-z]", fullmatch=True)
entries = st.lists(st.tuples(stems, brackets), max_size=3).flatmap(
    lambda pairs: stems if not pairs else st.just("".join(stem + group for stem, group in pairs))
)
lists = st.lists(entries, min_size=1, max_size=4).map(",".join)


def ask_scontrol(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    config = folder / "slurm.conf"
    config.write_text("ClusterName=none\nSlurmctldHost=none\n")
    environment = {"PATH": os.environ["PATH"], "SLURM_CONF": str(config)}
    command = ["scontrol", "show", "hostnames", text]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.scenario(53)
@pytest.mark.parametrize("text", TABLE)
def test_expansion(text: str) -> None:
    assert expand(text) == tuple(TABLE[text].split())


@pytest.mark.edge_case(17)
@pytest.mark.parametrize("text", ["", " ", "(null)", "None", "None assigned", "N/A"])
def test_nobody(text: str) -> None:
    assert expand(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        *("n[", "n]", "n[1", "n1]", "n[]", "n[a]", "n[3-1]", "n[5-04]", "n[-3]", "n[1-2-3]", "n[1,]", "n[,1]", "n[+1]"),
        *(
            "n[1:2]",
            "n[0x1]",
            "n[[1-2]]",
            "a[1-2,b[3-4]]",
            "n[1 - 2]",
            "a b",
            "a\nb",
            "a;b",
            "a'b",
            "æ1",
            "n[\N{SUPERSCRIPT TWO}]",
        ),
        *(
            "n[1-99999999]",
            "a[1-999]b[1-999]",
            "n[1-60000],m[1-60000]",
            "n[1-999999999999999999]",
            "n[1-9999999999999999999]",
        ),
    ],
)
def test_unreadable_or_absurd(text: str) -> None:
    with pytest.raises(Unknown):
        expand(text)


def test_the_limit_is_a_size_that_still_works() -> None:
    assert len(expand(f"n[1-{LIMIT}]")) == LIMIT


@given(st.text(max_size=60) | st.text("n[]0123456789-,", max_size=40))
def test_nothing_but_unknown_is_ever_raised(text: str) -> None:
    try:
        names = expand(text)
    except Unknown:
        return
    assert all(names)


@pytest.mark.edge_case(17)
@pytest.mark.skipif(shutil.which("scontrol") is None, reason="scontrol is not installed; `sandbox install` brings it")
@pytest.mark.parametrize("text", ["n[3-1]", "n[a]", "n[]", "n[1-99999999]"])
def test_a_failure_of_scontrol_with_exit_code_zero_raises_unknown(tmp_path: Path, text: str) -> None:
    done = ask_scontrol(tmp_path, text)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Invalid hostlist" in done.stderr
    with pytest.raises(Unknown):
        expand(text)


@given(st.lists(stems, min_size=1, max_size=8))
def test_plain_names_stay_as_they_are(names: list[str]) -> None:
    assert expand(",".join(names)) == tuple(names)


@pytest.mark.edge_case(17)
@pytest.mark.skipif(shutil.which("scontrol") is None, reason="scontrol is not installed; `sandbox install` brings it")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=lists | st.sampled_from(sorted(TABLE)))
def test_scontrol_says_the_same(tmp_path: Path, text: str) -> None:
    done = ask_scontrol(tmp_path, text)
    assert (done.returncode, done.stderr) == (0, "")
    assert expand(text) == tuple(done.stdout.split())
