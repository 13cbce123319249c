"""A writer of hosts files that is killed leaves whole files, and the next pass mends them; and nothing piles up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core import hosts_file
from slurm_adapter.core.records import Stage
from slurm_adapter.jobs.sync import sync
from tests.crash.ground import finish, kill

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.ground import Ground, GroundMaker, Slow

pytestmark = pytest.mark.sandbox


def files(ground: Ground) -> dict[str, bytes]:
    """The hosts files; a folder is what a killed writer has left, and no hosts file."""
    return {path.name: path.read_bytes() for path in ground.peers.iterdir() if path.is_file()}


@pytest.mark.scenario(51)
@pytest.mark.parametrize(
    ("program", "place"),
    [("sync", "asked"), ("mv", "asked"), ("mv", "answered")],
)
def test_a_writer_that_is_killed_leaves_whole_files_and_the_next_pass_mends_them(
    make_ground: GroundMaker, slow: Slow, program: str, place: str
) -> None:
    ground = make_ground(path=slow.folder(program))
    [database] = ground.start(ground.job("database", code="sleep 300"))
    shared = ground.peers / "hosts"
    shared.write_bytes(b"10.0.0.1 of-the-site\n" + shared.read_bytes())
    before = files(ground)
    job = ground.job("job", peers={"db": database}, code="sleep 300")
    slow.hold(place)
    process = ground.launch("never", "submit", "key", ground.write("job", [job]))
    slow.wait_held()
    kill(process, all_of_it=True)
    assert finish(process).killed
    # Each file is the old one or the new one.
    record = ground.site.store.active()[-1]
    after = files(ground)
    moved = (program, place) == ("mv", "answered")
    new = {record.peers_file} if moved else set()
    assert {name for name in after if after[name] != before.get(name)} == new
    assert set(after) == set(before) | new
    assert b" db\n" in after.get(record.peers_file, b" db\n")
    rests = list(ground.peers.glob(".new.*"))
    assert len(rests) == 1, "the writer was killed too, and could not clean up"

    # The next who writes mends all of it, and once the rest is old enough to be nobody's it is swept up.
    os.utime(rests[0], (0, 0))
    [record] = ground.hand_in("key", [job])
    ground.until_running(record)
    assert b" db\n" in files(ground)[record.peers_file]
    assert shared.read_bytes().startswith(b"10.0.0.1 of-the-site\n# BEGIN")
    ground.settle(database, record)
    ground.check(database, record)
    ground.cancel(record, database)
    ground.settle()
    ground.check()
    assert hosts_file.find_block(shared.read_bytes()) == ""
    assert files(ground) == {"hosts": shared.read_bytes()}


READER = """
import sys, time
from pathlib import Path
path, stop = Path(sys.argv[1]), Path(sys.argv[2])
reads = torn = 0
while not stop.exists():
    lines = path.read_text().splitlines(keepends=True)
    reads += 1
    # Whole: it begins and ends with our marks, and every name comes after the line that says whose it is.
    whole = lines[0] == "# BEGIN slurm-adapter\\n" and lines[-1] == "# END slurm-adapter\\n"
    torn += not (whole and sum("database-0." in line for line in lines) == sum("# consumer" in line for line in lines))
    time.sleep(0.01)
print(reads, torn)
"""


@pytest.mark.scenario(50)
@pytest.mark.parametrize("cycles", [15, pytest.param(1000, marks=pytest.mark.long)])
def test_consumers_that_come_and_go_leave_nothing(make_ground: GroundMaker, tmp_path: Path, cycles: int) -> None:
    ground = make_ground()
    [database] = ground.start(ground.job("database", code="sleep 3000"))
    before = files(ground)
    stop = tmp_path / "stop"
    argv = [sys.executable, "-c", READER, str(ground.peers / "hosts"), str(stop)]
    reader = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        for number in range(cycles):
            [consumer] = ground.submit(ground.job(f"job-{number}", peers={"database": database}, begin="now+1hour"))
            during = files(ground)
            assert set(during) == {"hosts", consumer.peers_file}
            assert f" database.{consumer.id}.peers\n" in during["hosts"].decode()
            ground.cancel(consumer)
            limit = time.monotonic() + 60
            while ground.now(consumer).stage is not Stage.ENDED:
                assert sync(ground.site).problems == ()
                assert time.monotonic() < limit
            assert files(ground) == before
    finally:
        stop.touch()
        reads, torn = reader.communicate(timeout=60)[0].split()
    assert int(reads) > cycles
    assert torn == "0"
    assert [path.name for path in ground.peers.iterdir()] == ["hosts"]
    assert re.findall(r"^# consumer", ground.shared_block, re.MULTILINE) == []
    ground.check(database)


@pytest.mark.scenario(51)
def test_a_writer_that_outlives_its_adapter_does_not_bring_back_what_was(make_ground: GroundMaker, slow: Slow) -> None:
    """Killed was only who had started it: it has seen that nobody wrote meanwhile, and is about to write."""
    ground = make_ground(path=slow.folder("sync"))
    [database] = ground.start(ground.job("database", code="sleep 300"))
    slow.hold("asked")
    job = ground.job("job", peers={"database": database}, begin="now+1hour")
    process = ground.launch("never", "submit", "key", ground.write("job", [job]))
    slow.wait_held()
    kill(process, all_of_it=False)
    # Its names are on the way. A later truth has none: both jobs end.
    ground.cancel(*ground.site.store.active())
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(ground.settle)
        wait([later], timeout=3)
        slow.release()
        later.result()
    assert finish(process).killed
    ground.settle()
    ground.check()
