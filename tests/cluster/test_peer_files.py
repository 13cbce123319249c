"""The hosts files on a real file system: whole under every reader, and nobody else's bytes touched."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster import peer_files
from slurm_adapter.cluster.archive import archive
from slurm_adapter.cluster.peer_files import PeerFiles, PeerFilesChange, plan_change
from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import Command, Result
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.errors import Refused, TryAgain, Unknown
from tests.offline import tiny

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["tiny"]

LOCAL = LocalTransport()


def write(folder: Path, views: dict[str, str], block: str) -> PeerFilesChange:
    """Do what a sync does."""
    seen = peer_files.read(LOCAL, str(folder))
    change = plan_change(seen, views, block)
    peer_files.write(LOCAL, str(folder), seen, change)
    return change


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def ours(block: str) -> str:
    return f"# BEGIN slurm-adapter\n{block}# END slurm-adapter\n"


def test_the_folder_is_made_and_everybody_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "a b" / "peers"
    folder.parent.mkdir()
    assert peer_files.read(LOCAL, str(folder)) == PeerFiles()
    assert write(folder, {"1": "x\n", "2": ""}, "10.0.0.1 job-1\n")
    assert files(folder) == {"hosts": ours("10.0.0.1 job-1\n"), "1": "x\n", "2": ""}
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


@given(st.binary(max_size=200) | st.lists(st.sampled_from([b"\nhosts\n", b"0" * 64 + b"  7\n", b"x"])).map(b"".join))
def test_no_answer_is_an_error_of_another_kind(stdout: bytes) -> None:
    for status in (0, 1):
        transport = FakeTransport(lambda _, status=status: Result(status, stdout, b""))  # type: ignore[misc]  # bound
        try:
            found = peer_files.read(transport, "/peers")
        except Unknown:
            assert status == 1 or b"\nhosts\n" not in stdout
            continue
        assert stdout.endswith(found.shared), "nothing of the site's is lost"
        try:
            change = plan_change(found, {}, "")
        except Refused:
            continue
        assert set(change.removed) == set(found.views)


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    write(folder, {"1": "x\n", "2": "y\n"}, "block\n")
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert not write(folder, {"1": "x\n", "2": "y\n"}, "block\n")
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before
    change = write(folder, {"1": "z\n", "3": "w\n"}, "block\n")
    assert (change.shared, set(change.views), change.removed) == (None, {"1", "3"}, ("2",))
    assert files(folder) == {"hosts": ours("block\n"), "1": "z\n", "3": "w\n"}
    assert (folder / "hosts").stat().st_ino == before["hosts"]


def test_foreign_bytes_and_foreign_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    folder.mkdir()
    foreign = b"10.9.9.9 site # \xff\r\n\0no newline"
    (folder / "hosts").write_bytes(foreign)
    for name in ("README", "1hosts", "12 old", "0x", "line\nbreak", "1\nhosts\n"):
        (folder / name).write_text("the site's")
    (folder / "7").mkdir()
    write(folder, {"1": "x\n"}, "a\n")
    write(folder, {}, "b\n")
    assert (folder / "hosts").read_bytes() == ours("b\n").encode() + foreign
    names = {path.name for path in folder.iterdir()}
    assert names == {"README", "1hosts", "12 old", "0x", "line\nbreak", "1\nhosts\n", "7", "hosts"}


def test_damaged_marks_stop_it_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "hosts").write_text("# END slurm-adapter\nsite\n")
    with pytest.raises(Refused):
        write(folder, {"1": "x\n"}, "a\n")
    assert files(folder) == {"hosts": "# END slurm-adapter\nsite\n"}


def test_somebody_else_wrote_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    write(folder, {}, "a\n")
    seen = peer_files.read(LOCAL, str(folder))
    change = plan_change(seen, {"1": "x\n"}, "b\n")
    (folder / "hosts").write_text("an administrator's\n")
    with pytest.raises(TryAgain, match="changed by somebody else"):
        peer_files.write(LOCAL, str(folder), seen, change)
    assert files(folder) == {"hosts": "an administrator's\n"}
    assert write(folder, {"1": "x\n"}, "b\n")
    assert (folder / "hosts").read_text() == ours("b\n") + "an administrator's\n"


def test_a_folder_of_somebody_elses(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder that belongs to somebody else")
    folder = tmp_path / "peers"
    folder.mkdir()
    os.chown(folder, 12345, -1)
    with pytest.raises(Unknown, match="does not belong to this account"):
        peer_files.read(LOCAL, str(folder))
    with pytest.raises(Unknown, match=r"could not read .*No such file or directory"):
        peer_files.read(LOCAL, str(tmp_path / "none" / "peers"))


def test_a_full_disk_leaves_the_old_files_whole(tiny: Path) -> None:
    folder = tiny / "peers"
    write(folder, {"1": "old\n"}, "old\n")
    before = files(folder)
    with pytest.raises(Unknown, match="No space left on device"):
        write(folder, {"1": "new" * 100_000}, "new\n")
    assert files(folder) == before
    assert write(folder, {"1": "new\n"}, "new\n")
    assert files(folder) == {"hosts": ours("new\n"), "1": "new\n"}


def test_a_killed_writer_leaves_the_old_files_and_its_rest_is_swept_up(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    write(folder, {"1": "old\n"}, "old\n")
    before = files(folder)
    digest = hashlib.sha256((folder / "hosts").read_bytes()).hexdigest()
    # The writer waits for the rest of its input, has half of it on the disk, and is killed there.
    argv = Command(("/bin/sh", "-c", peer_files._WRITE, "sh", str(folder), digest)).argv  # noqa: SLF001  # the very script
    writer = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
    assert writer.stdin is not None
    writer.stdin.write(archive({"1": (b"new\n", 0o644), "hosts": (b"new\n", 0o644)})[:1024])
    writer.stdin.flush()
    limit = time.monotonic() + 30
    while not (rest := list(folder.glob(".new.*"))):
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.killpg(writer.pid, signal.SIGKILL)
    writer.wait(30)
    writer.stdin.close()
    assert files_only(folder) == before
    assert write(folder, {"1": "new\n"}, "new\n")
    assert files_only(folder) == {"hosts": ours("new\n"), "1": "new\n"}
    assert rest[0].exists(), "a fresh one may be somebody's who still writes"
    os.utime(rest[0], (0, 0))
    write(folder, {"1": "newer\n"}, "new\n")
    assert not list(folder.glob(".new.*"))


@pytest.mark.scenario(51)
def test_a_writer_whose_adapter_was_killed_is_waited_for(tmp_path: Path) -> None:
    folder, slow = tmp_path / "peers", tmp_path / "slow"
    write(folder, {"1": "old\n"}, "old\n")
    digest = hashlib.sha256((folder / "hosts").read_bytes()).hexdigest()
    # It has seen that nobody else wrote, and is about to put its files in place. Nobody waits for its answer any more.
    slow.mkdir()
    (slow / "sync").write_text(f"#!/bin/sh\n: >{slow}/held\nuntil [ -e {slow}/go ]; do sleep 0.05; done\n")
    (slow / "sync").chmod(0o755)
    argv = ("/bin/sh", "-c", peer_files._WRITE, "sh", str(folder), digest)  # noqa: SLF001  # the very script
    writer = subprocess.Popen(argv, stdin=subprocess.PIPE, env={"PATH": f"{slow}:/usr/bin:/bin"})
    assert writer.stdin is not None
    writer.stdin.write(archive({"1": (b"late\n", 0o644), "hosts": (ours("late\n").encode(), 0o644)}))
    writer.stdin.close()
    limit = time.monotonic() + 30
    while not (slow / "held").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    # The next one knows that nothing is to be mapped any more.
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(write, folder, {}, "")
        wait([later], timeout=1)
        (slow / "go").touch()
        assert later.result()
    assert writer.wait(30) == 0
    assert files_only(folder) == {"hosts": ours("")}


def files_only(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


READER = """
import sys, time
from pathlib import Path
path, stop = Path(sys.argv[1]), Path(sys.argv[2])
begin, end = b"# BEGIN slurm-adapter\\n", b"# END slurm-adapter\\nsite\\n"
reads = torn = 0
while not stop.exists():
    text = path.read_bytes()
    reads += 1
    time.sleep(0.005)
    line = text.removeprefix(begin).partition(b"\\n")[0] + b"\\n"
    torn += text != begin + line * (text.count(b"\\n") - 3) + end
print(reads, torn)
"""


def test_twenty_readers_of_two_hundred_writes_see_no_torn_file(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "hosts").write_text("site\n")
    write(folder, {}, "x\n")
    stop = tmp_path / "stop"
    argv = [sys.executable, "-c", READER, str(folder / "hosts"), str(stop)]
    readers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(20)]
    try:
        for number in range(200):
            # Every file holds one line again and again, more often each time, then fewer again.
            seen = PeerFiles((folder / "hosts").read_bytes())
            block = f"10.0.0.1 job-{number}\n" * (number * 37 % 700 + 1)
            peer_files.write(LOCAL, str(folder), seen, plan_change(seen, {}, block))
    finally:
        stop.write_text("")
        results = [reader.communicate(timeout=60)[0].split() for reader in readers]
    assert all(int(reads) > 0 for reads, _ in results)
    assert sum(int(torn) for _, torn in results) == 0
