"""Applications start with signals, limits and descriptors as under plain sbatch, and get the signals that it would.

Seen once: the application ignored SIGINT and SIGQUIT, because a shell without job control ignores both for a process
that it starts in the background.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.adapter import LiveSite
    from tests.node.folder import Folder
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox

HOSTILE = str(Path(__file__).parents[1] / "hostile.py")
LOOK = """
grep -E '^Sig(Blk|Ign)' /proc/self/status
ulimit -aS | sed '/^max memory size/d' # Slurm's own, of the job's memory
ulimit -aH | sed '/^max memory size/d'
umask
for one in /proc/$$/fd/*; do
    case ${one##*/}:$(readlink "$one") in 255:*) ;; *:/dev/null) echo "${one##*/} null" ;; *) echo "${one##*/}" ;; esac
done
echo end
"""
"""A script that prints the signals that a process has inherited."""
QUOTED = shlex.quote(LOOK)
PROBE = f"export SLURM_EXPORT_ENV=ALL\nbash -c {QUOTED}\nsrun -N1 -n1 --overlap bash -c {QUOTED}\n"


@pytest.fixture(scope="module")
def plain(cluster: Cluster) -> str:
    """Return what the same script sees under plain sbatch."""
    job = cluster.submit(PROBE, "--export=NONE", "--nodelist=node001")
    cluster.wait_end(job)
    seen = cluster.output(job)
    assert seen.count("end\n") == 2, seen
    assert seen.count("SigIgn:\t0000000000000000\n") == 2, seen
    return seen


@pytest.mark.parametrize("settings", [{"names": "no"}, {"methods": "unshare"}, {"methods": "bwrap"}], ids=str)
def test_an_application_and_its_steps_start_as_under_plain_sbatch(
    make: Callable[..., Folder], plain: str, settings: dict[str, str]
) -> None:
    folder = make(PROBE, **settings).submit("--nodelist=node001")
    assert folder.end() == plain


def test_replicas_start_as_under_plain_sbatch(make: Callable[..., Folder], plain: str) -> None:
    folder = make(f"bash -c {QUOTED}", replicate="yes").submit("-N2", "--nodelist=node001,node002")
    folder.end()
    step = plain.split("end\n")[1]
    for rank in "01":
        # srun, and not Slurm, has opened these outputs.
        assert folder.read(f"stdout-{rank}.txt").split("end\n")[0].splitlines()[:2] == step.splitlines()[:2]


TRAPS = """
trap 'echo "got $name"' {name}
(trap - {name}; exec sleep 300) & child=$!
name={name}
echo ready
until [ -e "$ucloud_folder/go" ]; do sleep 0.1; done
kill "$child" 2>/dev/null && echo "child lives"
exit 0
"""


@pytest.mark.parametrize("how", ["--batch", "--full"])
@pytest.mark.parametrize(
    ("name", "names"),
    [("INT", "yes"), ("QUIT", "yes"), ("USR1", "yes")]
    + [(name, "no") for name in ("INT", "QUIT", "HUP", "ABRT", "ALRM", "USR1", "USR2", "URG", "XCPU")],
)
def test_a_signal_reaches_the_script_once_and_its_children_as_under_plain_sbatch(
    make: Callable[..., Folder], name: str, how: str, names: str
) -> None:
    folder = make(TRAPS.format(name=name), names=names).submit()
    folder.said("ready")
    folder.cluster.ask("scancel", how, f"--signal={name}", folder.job)
    folder.said(f"got {name}")
    folder.write("go", "")
    output = folder.end()
    assert output.count(f"got {name}") == 1
    assert folder.exit()["exit_code"] == 0


@pytest.mark.parametrize("name", ["INT", "QUIT", "TERM"])
@pytest.mark.parametrize("how", ["--batch", "--full"])
def test_a_signal_ends_a_program_without_a_handler(make: Callable[..., Folder], name: str, how: str) -> None:
    folder = make("echo ready; exec sleep 300", names="no").submit()
    folder.said("ready")
    folder.cluster.ask("scancel", how, f"--signal={name}", folder.job)
    folder.end()
    number = {"INT": 2, "QUIT": 3, "TERM": 15}[name]
    assert (folder.exit()["exit_code"], folder.exit()["signal"]) == (128 + number, number)
    assert folder.cluster.show(folder.job)["JobState"] != "COMPLETED"


def test_an_interrupt_reaches_the_steps_that_the_application_started(make: Callable[..., Folder]) -> None:
    payload = """
        srun -N1 -n1 --overlap sh -c 'trap "echo stepped; exit 7" INT; echo ready; while :; do sleep 0.1; done'
        echo "code $?"
    """
    folder = make(payload).submit()
    folder.said("ready")
    folder.cluster.ask("scancel", "--signal=INT", folder.job)
    output = folder.end()
    assert output.count("stepped") == 1
    assert "code 7" in output


def test_nothing_of_the_adapters_starter_reaches_the_job(adapter: LiveSite, plain: str) -> None:
    specification = adapter.shell(PROBE, node="node001")
    command = [sys.executable, HOSTILE, sys.executable, "-m", "slurm_adapter", "--config", str(adapter.config_file)]
    done = subprocess.run(
        [*command, "submit", "-", "--user", "alice"],
        input=json.dumps(specification),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [record] = adapter.site.store.all(10)
    [output] = adapter.until_successful(record)
    # On newer Debian PAM gives an account with a group of its own umask 002 in sudo; the starter's is 077.
    assert output.replace("\n0002\n", "\n0022\n") == plain
    assert "--propagate=NONE" in adapter.file(record, "job.sbatch").read_text()


def test_a_script_that_ignores_signals_itself_is_left_so(make: Callable[..., Folder]) -> None:
    folder = make("trap '' INT; sh -c \"grep SigIgn /proc/self/status\"", names="no").submit()
    [mask] = re.findall(r"SigIgn:\s*(\w+)", folder.end())
    assert int(mask, 16) == 1 << 1
