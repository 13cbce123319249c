"""An upgrade happens with jobs running: what an older program left is taken up where it stands.

`recorded/store/N.sql` is the database of a program whose tables were at step N of the migrations, with a job at every
stage: 1 ended, 2 runs, 3 is an array, 4 is in doubt, 5 waits for 4, and 6 consumes 2. Step 3 has jobs of UCloud's, too,
of which nothing was delivered: 4101 ended, 4102 runs, 4103 consumes it, 4104 waits, 4105 was requeued, 4106 is in
doubt, 4107 waits for it, and the end of 4108 is wanted.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.cluster.schedulers.interface import Accepted, Submission
from slurm_adapter.core.records import Stage
from slurm_adapter.core.specification import Owner
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import submit
from slurm_adapter.state import backup
from slurm_adapter.state.store import Store
from tests.offline import Offline, peer
from tests.ucloud_double import Ucloud, ucloud

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.core.records import Record

__all__ = ["ucloud"]

RECORDED = Path(__file__).parent / "recorded" / "store"


@pytest.fixture(params=sorted(RECORDED.glob("*.sql")), ids=lambda path: path.stem)
def upgraded(request: pytest.FixtureRequest, tmp_path: Path, ucloud: Ucloud) -> Iterator[Offline]:
    """A site over the database that an older program left, in the middle of an outage."""
    with take_over(request.param, tmp_path, ucloud) as site:
        yield site


@contextmanager
def take_over(recorded: Path, tmp_path: Path, ucloud: Ucloud) -> Iterator[Offline]:
    """Make a site over a recorded database."""
    site = Offline(tmp_path, ucloud.settings(tmp_path))
    ucloud.clock = site.site.clock
    site.config.state_dir.mkdir(mode=0o700)
    connection = sqlite3.connect(site.config.state_dir / "jobs.sqlite")
    connection.executescript(recorded.read_text(encoding="utf-8").replace("{folder}", str(tmp_path)))
    connection.close()
    with Store(site.config.state_dir) as store:
        for record in store.all(99):
            if record.stage is not Stage.CLAIMED:
                Path(record.folder).mkdir(mode=0o700)
                (Path(record.folder) / ".token").symlink_to(record.slurm_name)
        _revive(site, store.all(99))
        ucloud.know(*(record.id for record in store.all(99) if record.origin == "example"))
        site.slurm.now = int(max(record.created for record in store.all(99))) + 100
    with site.site:
        yield site


def _revive(site: Offline, records: list[Record]) -> None:
    """Slurm goes on with the jobs that it had: all but the one that is in doubt."""
    known = {record.slurm_id: record for record in records}
    for slurm_id in range(1, max(filter(None, known)) + 1):
        record = known.get(slurm_id)
        if record is None:  # a stranger's
            site.slurm.submit([Submission("other", "bob", "/none", ())])
            continue
        [outcome] = site.slurm.submit([Submission(record.slurm_name, record.account, record.folder, ())])
        assert outcome == Accepted(slurm_id)
        if record.state is JobState.RUNNING:
            site.fence(record, slurm_id)
            site.slurm.start(slurm_id, record.nodes)
        elif record.stage is Stage.ENDED:
            site.slurm.finish(slurm_id)
        elif record.restarts:
            site.slurm.requeue(slurm_id)


def test_every_step_of_the_migrations_that_was_released_is_recorded() -> None:
    assert [path.stem for path in sorted(RECORDED.glob("*.sql"))] == ["1", "3"]


@pytest.mark.parametrize("recorded", sorted(RECORDED.glob("*.sql")), ids=lambda path: path.stem)
def test_backup_of_older_program_is_restored(recorded: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "backup")
    connection.executescript(recorded.read_text(encoding="utf-8"))
    connection.close()
    backup.restore(tmp_path / "state", tmp_path / "backup", 5e9)
    with Store(tmp_path / "state") as store:
        assert [(store.get(id_).stage, store.get(id_).sbatch_started) for id_ in "45"] == [(Stage.SUBMITTING, 5e9)] * 2
        assert store.get("2").stage is Stage.SUBMITTED


def test_jobs_go_on_where_an_older_program_left_them(upgraded: Offline) -> None:
    before = {record.id: record for record in upgraded.site.store.all(99) if record.origin == "local"}
    assert {id_: (record.stage, record.state) for id_, record in before.items()} == {
        "1": (Stage.ENDED, JobState.SUCCESS),
        "2": (Stage.SUBMITTED, JobState.RUNNING),
        "3": (Stage.SUBMITTED, JobState.IN_QUEUE),
        "4": (Stage.SUBMITTING, JobState.IN_QUEUE),
        "5": (Stage.CLAIMED, JobState.IN_QUEUE),
        "6": (Stage.SUBMITTED, JobState.RUNNING),
    }
    assert upgraded.sync().problems == ()
    assert upgraded.now(before["2"]).state is upgraded.now(before["6"]).state is JobState.RUNNING
    assert "db.6.peers" in upgraded.shared
    # The key still names its job, and ids are not given again.
    assert upgraded.job("runs").id == "2"
    new = upgraded.job("new")
    assert new.id not in before
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
    for id_ in ("2", "4", "5", "6", new.id):
        upgraded.slurm.finish(upgraded.slurm_id(before.get(id_, upgraded.site.store.get(id_))))
    assert upgraded.sync().problems == ()
    ours = [record for record in upgraded.site.store.all(99) if record.origin == "local"]
    assert {record.state for record in ours} == {JobState.SUCCESS}
    assert len({doubt, consumer}) == 2


def test_an_upgrade_takes_nothing_from_jobs_that_run(upgraded: Offline) -> None:
    live = [record for record in upgraded.site.store.all(99) if record.slurm_id and record.stage is not Stage.ENDED]
    upgraded.slurm.now = 2_000_000_000
    upgraded.sync()
    assert all(Path(record.folder).is_dir() for record in live)
    assert {record.id for record in live} <= {record.id for record in upgraded.site.store.active()}


CREATED_AT = 999_999_000_000
"""UCloud's `createdAt` of the recorded jobs, of which their databases know nothing."""


def create(site: Offline, id_: str, created_at: int = CREATED_AT, **fields: Any) -> Record:
    """What UCloud's `create` does."""
    item = replace(site.item(**fields), id=id_, created_at=created_at)
    [record] = submit.submit(site.site, Owner(created_by="alice"), [item])
    return record


def test_jobs_of_ucloud_go_on_where_the_older_program_left_them(tmp_path: Path, ucloud: Ucloud) -> None:
    """A database of the program without names of their own: nothing is lost, and nothing doubled."""
    with take_over(RECORDED / "3.sql", tmp_path, ucloud) as site:
        _check_jobs_of_ucloud(site, ucloud)


def _check_jobs_of_ucloud(site: Offline, ucloud: Ucloud) -> None:
    before = {record.id: record for record in site.site.store.all(99) if record.origin == "example"}
    # A `create` that UCloud repeats meanwhile is the same job, whatever became of it.
    fields: dict[str, dict[str, Any]] = {
        "4103": {"resources": [peer("db", "4102")]},
        "4107": {"resources": [peer("db", "4106")]},
    }
    assert {create(site, id_, **fields.get(id_, {})).slurm_name for id_ in before} == {
        r.slurm_name for r in before.values()
    }
    submitted = len(site.slurm.submissions)
    assert site.sync().problems == ()
    # All that the older program had to tell is told, in order and once.
    assert [each["state"] for each in ucloud.updates("4101") if each["state"]] == ["RUNNING", "SUCCESS"]
    assert [each["state"] for each in ucloud.updates("4105") if each["state"]] == ["RUNNING", "IN_QUEUE"]
    # The nodes of its jobs read the views by the jobs' ids.
    assert (site.peers / "4103").read_text().endswith("192.0.2.3 db\n192.0.2.3 db-0\n")
    site.run(before["4105"])
    for seconds in (60, 200, 150):
        site.sync(seconds)
    assert site.now(before["4108"]).status == "Your job was cancelled"
    # The one in doubt never arrived: it is given to Slurm again, as it was validated, then its consumer.
    site.run(before["4106"])
    site.sync()
    site.run(before["4107"])
    assert (site.peers / "4107").exists()
    assert len(site.slurm.submissions) == submitted + 4, "two of UCloud's, and two of the site's own"
    for id_ in ("4102", "4103", "4104", "4105", "4106", "4107"):
        site.slurm.finish(site.slurm_id(before[id_]))
    site.sync()
    for id_ in before:
        told = [each["state"] for each in ucloud.updates(id_) if each["state"]]
        assert (told[-1], told.count("SUCCESS")) == ("SUCCESS", 1), id_
    # An id that UCloud gives again later is a new job's.
    new = create(site, "4101", (int(site.slurm.now) + 1) * 1000)
    assert (new.slurm_id is not None, new.folder.startswith(f"{before['4101'].folder}-")) == (True, True)
    [old] = site.site.store.again([before["4101"]])
    assert (old.state, old.folder) == (JobState.SUCCESS, before["4101"].folder)
