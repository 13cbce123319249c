"""An upgrade happens with jobs running: what an older program left is taken up where it stands.

`recorded/store/N.sql` is the database of a program whose tables were at step N of the migrations, with a job at every
stage: 1 ended, 2 runs, 3 is an array, 4 is in doubt, 5 waits for 4, and 6 consumes 2.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.records import Stage
from slurm_adapter.schedulers.interface import Accepted, Submission
from slurm_adapter.states import JobState
from slurm_adapter.store import Store
from tests.offline import Offline

if TYPE_CHECKING:
    from slurm_adapter.records import Record

RECORDED = Path(__file__).parent / "recorded" / "store"


@pytest.fixture(params=sorted(RECORDED.glob("*.sql")), ids=lambda path: path.stem)
def upgraded(request: pytest.FixtureRequest, tmp_path: Path) -> Offline:
    """A site over the database that an older program left, in the middle of an outage."""
    site = Offline(tmp_path)
    site.config.state.mkdir(mode=0o700)
    connection = sqlite3.connect(site.config.state / "jobs.sqlite")
    connection.executescript(request.param.read_text(encoding="utf-8").replace("{folder}", str(tmp_path)))
    connection.close()
    with Store(site.config.state) as store:
        for record in store.all(9):
            if record.stage is not Stage.CLAIMED:
                Path(record.folder).mkdir(mode=0o700)
                (Path(record.folder) / ".token").symlink_to(record.token)
        _revive(site, store.all(9))
    return site


def _revive(site: Offline, records: list[Record]) -> None:
    """Slurm goes on with the jobs that it had: all but the one that is in doubt."""
    known = {record.slurm_id: record for record in records}
    for slurm_id in range(1, max(filter(None, known)) + 1):
        record = known.get(slurm_id)
        if record is None:  # a stranger's
            site.slurm.submit([Submission("other", "bob", "/none", ())])
            continue
        [outcome] = site.slurm.submit([Submission(record.token, record.account, record.folder, ())])
        assert outcome == Accepted(slurm_id)
        if record.state is JobState.RUNNING:
            site.fence(record, slurm_id)
            site.slurm.start(slurm_id, record.nodes)
        elif record.stage is Stage.ENDED:
            site.slurm.finish(slurm_id)


def test_every_step_of_the_migrations_that_was_released_is_recorded() -> None:
    assert [path.stem for path in sorted(RECORDED.glob("*.sql"))] == ["1"]


def test_jobs_go_on_where_an_older_program_left_them(upgraded: Offline) -> None:
    before = {record.id: record for record in upgraded.site.store.all(9)}
    assert {id_: (record.stage, record.state) for id_, record in before.items()} == {
        "1": (Stage.ENDED, JobState.SUCCESS),
        "2": (Stage.SUBMITTED, JobState.RUNNING),
        "3": (Stage.SUBMITTED, JobState.IN_QUEUE),
        "4": (Stage.SUBMITTING, JobState.IN_QUEUE),
        "5": (Stage.CLAIMED, JobState.IN_QUEUE),
        "6": (Stage.SUBMITTED, JobState.RUNNING),
    }
    upgraded.slurm.now = int(max(record.created for record in before.values())) + 100
    assert upgraded.sync().problems == ()
    assert upgraded.now(before["2"]).state is upgraded.now(before["6"]).state is JobState.RUNNING
    assert "db.6.peers" in upgraded.shared
    # The key still names its job, and ids are not given again.
    assert upgraded.job("runs").id == "2"
    assert upgraded.job("new").id == "7"
    # An array of the older program has no number of tasks: what tells of it is taken as it is.
    upgraded.slurm.start(upgraded.slurm_id(before["3"]))
    upgraded.slurm.finish(upgraded.slurm_id(before["3"]))
    # The one in doubt never arrived. After the silence it is handed in again, as it was validated, then its consumer.
    for seconds in (200, 150):
        upgraded.sync(seconds)
    [doubt] = upgraded.slurm_jobs(before["4"])
    upgraded.run(before["4"])
    upgraded.sync()
    [consumer] = upgraded.slurm_jobs(before["5"])
    assert (Path(before["5"].folder) / "job.sbatch").exists()
    upgraded.run(before["5"])
    for id_ in ("2", "4", "5", "6", "7"):
        upgraded.slurm.finish(upgraded.slurm_id(before.get(id_, upgraded.site.store.get(id_))))
    assert upgraded.sync().problems == ()
    assert {record.state for record in upgraded.site.store.all(9)} == {JobState.SUCCESS}
    assert len({doubt, consumer}) == 2


def test_an_upgrade_takes_nothing_from_jobs_that_run(upgraded: Offline) -> None:
    live = [record for record in upgraded.site.store.all(9) if record.slurm_id and record.stage is not Stage.ENDED]
    upgraded.slurm.now = 2_000_000_000
    upgraded.sync()
    assert all(Path(record.folder).is_dir() for record in live)
    assert {record.id for record in live} <= {record.id for record in upgraded.site.store.active()}
