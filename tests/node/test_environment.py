"""Accounts with a login environment that fails on the node: a shell like nologin, start-up files that fail or are slow.

Slurm then starts the job with no environment: HOME is not set, and bash's own PATH may hold the working directory.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.local.template_folder import packaged_templates
from tests.sandbox_cluster import FINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.node.folder import Folder
    from tests.sandbox_cluster import Cluster

SHOW = 'printf "%s\\n" "$HOME" "$USER" "$LOGNAME" "$PATH"; env | grep -c "^PATH="; srun -N1 -n1 printenv HOME'
PATH = "/usr/local/bin:/usr/bin:/bin"
HOME = "/srv/home/alice"


@pytest.fixture
def profile(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Write alice's start-up file for the length of a test."""

    def write(text: str) -> None:
        cluster.ask("sh", "-c", 'cat >"$HOME/.bash_profile"', stdin=f"{text}\n".encode())

    yield write
    cluster.ask("rm", "-f", f"{HOME}/.bash_profile")


@pytest.fixture
def nologin(cluster: Cluster) -> Iterator[str]:
    """A node on which alice's shell is nologin."""
    change = (
        r"sed '/^alice:/s,:[^:]*$,:/usr/sbin/nologin,' /etc/passwd >/run/passwd && mount --bind /run/passwd /etc/passwd"
    )
    cluster.ask("sh", "-c", change, user="root", node="node003")
    yield "node003"
    cluster.ask("umount", "/etc/passwd", user="root", node="node003")


def completed(folder: Folder, node: str) -> None:
    """The job ran with a sane environment, and its log says so."""

    def look() -> str:
        shown = folder.cluster.show(folder.job)
        # "user env retrieval failed requeued held", in one spelling or the other
        return "held" if shown["Reason"].startswith("user") else shown["JobState"] if shown["JobState"] in FINAL else ""

    # Slurm waits a minute or more for start-up files.
    if folder.cluster.wait_for(look, timeout=240) == "held":
        folder.cluster.ask("scancel", folder.job)
        pytest.skip("this Slurm holds such a job itself, and shows the reason")
    assert folder.end().splitlines() == [HOME, "alice", "alice", f"{folder.there}/node:{PATH}", "1", HOME]
    said = f"slurm-adapter: Slurm could not read the login environment of alice on {node}: "
    [line] = [line for line in folder.read("log.txt").splitlines() if line.startswith(said)]
    assert line.endswith(f"The job has HOME={HOME} and PATH={PATH} instead")
    assert folder.exit()["exit_code"] == 0


@pytest.mark.sandbox
def test_an_account_with_the_shell_nologin(make: Callable[..., Folder], nologin: str) -> None:
    completed(make(SHOW).submit(f"--nodelist={nologin}"), nologin)


@pytest.mark.sandbox
@pytest.mark.parametrize("text", ["exit 3", "sleep 200", "exec true", "kill -9 $$", "exec >/dev/null"])
def test_a_start_up_file_that_gives_no_environment(
    make: Callable[..., Folder], profile: Callable[[str], None], text: str
) -> None:
    profile(text)
    completed(make(SHOW).submit("--nodelist=node001"), "node001")


@pytest.mark.sandbox
@pytest.mark.parametrize("text", ["echo welcome; echo welcome >&2", "set -e", "set -u", "set -eu; echo x", "false"])
def test_a_start_up_file_that_is_odd_and_works(
    make: Callable[..., Folder], profile: Callable[[str], None], text: str
) -> None:
    profile(f"export FROM_PROFILE='a b' PATH=/opt/mine:$PATH\n{text}")
    folder = make(f'echo "$FROM_PROFILE"; {SHOW}').submit("--nodelist=node001")
    lines = folder.end().splitlines()
    assert lines[:4] == ["a b", HOME, "alice", "alice"]
    assert lines[4].startswith(f"{folder.there}/node:/opt/mine:")
    assert "login environment" not in folder.read("log.txt")


def run_here(folder: Path, user: int | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run batch.sh on this machine, with nothing in its environment but these and Slurm's own."""
    (folder / "node").mkdir(parents=True)
    for path in (packaged_templates() / "node").iterdir():
        (folder / "node" / path.name).write_text(path.read_text())
    (folder / "node" / "settings").write_text(f"job_id=9\nnames=no\npath={PATH}\n")
    for each in (folder, folder / "node", *(folder / "node").iterdir()):
        each.chmod(0o777)
        if user is not None:
            os.chown(each, user, user)
    return subprocess.run(
        ["/bin/bash", "-p", f"{folder}/node/batch.sh", str(folder)],
        capture_output=True,
        env={"SLURM_JOB_ID": "17", "SLURMD_NODENAME": "node001", **environment},
        user=user,
        check=False,
        timeout=30,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="another account is taken on")
def test_an_account_that_the_node_does_not_know(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for each in tmp_path.parents:  # pytest's own, of which xdist has one more
        if each.stat().st_mode & 0o001:
            break
        each.chmod(0o755)
    done = run_here(tmp_path / "job", user=54321)
    assert done.returncode == 1
    record = (tmp_path / "job" / "exit.json").read_text()
    assert "Slurm could not read the login environment of this account on node001" in record
    assert "`getent passwd 54321` shows no home folder there" in record


def test_a_node_that_lacks_programs_lists_them(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    present = "cat date getent grep head id mkdir mkfifo mktemp mv rm rmdir sed sh tr"
    for name in present.split():
        (tools / name).symlink_to(f"/usr/bin/{name}")
    done = run_here(tmp_path / "job", PATH=str(tools), HOME="/")
    assert done.returncode == 1
    said = (
        f"node001 lacks programs that every job needs, or PATH={tools} does not lead to them: awk scontrol setsid sleep"
    )
    assert said in (tmp_path / "job" / "exit.json").read_text()
    assert said in done.stderr.decode()
