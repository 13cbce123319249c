"""What becomes of jobs that Slurm refuses, for good or for now, and of those whose answer is lost every time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from slurm_adapter.cluster.transports.interface import CommandTimeout, NotConnected
from slurm_adapter.core import plan
from slurm_adapter.core.errors import Refused
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import FENCED, JobState
from slurm_adapter.jobs import cancel
from slurm_adapter.state.database import StoreError
from tests.offline import Offline, offline, peer

if TYPE_CHECKING:
    from slurm_adapter.cluster.transports.interface import Command
    from slurm_adapter.core.records import Record

__all__ = ["offline"]

LIMIT = "QOSMaxSubmitJobPerUserLimit; Batch job submission failed: Job violates accounting/QOS policy"
LUA = "say why you need a GPU; Batch job submission failed: Unspecified error"


def owner(record: Record) -> str:
    return Path(record.folder, "owner").readlink().name


# Refused in words that prove nothing: a job_submit.lua that returns slurm.ERROR, a site's own sbatch.


def test_a_refusal_in_unknown_words_is_told_at_once_behind_a_closed_fence(offline: Offline) -> None:
    offline.slurm.refuse_next(LUA, certain=False)
    with pytest.raises(Refused, match="Slurm refused job 1: say why you need a GPU"):
        offline.job()
    record = offline.site.store.get("1")
    assert (record.stage, record.state, record.status) == (
        Stage.ENDED, JobState.FAILURE, f"Slurm refused job 1: {LUA}"
    )  # fmt: skip
    assert owner(record) == "closed"
    offline.sync(3600)
    assert len(offline.slurm.submissions) == 1, "nothing is submitted again"


def test_a_job_that_comes_up_after_its_refusal_is_cancelled(offline: Offline) -> None:
    """The refusal was a lost answer after all."""
    other = offline.job()  # so that a sync asks Slurm
    offline.slurm.refuse_next(LUA, certain=False)
    with pytest.raises(Refused):
        offline.job()
    refused = offline.site.store.get("2")
    offline.slurm.make(77, offline.slurm.submissions[-1])
    offline.sync()
    assert offline.slurm.see(77).state == "CANCELLED"
    assert owner(refused) == "closed"
    assert (offline.now(other).state, offline.now(refused).state) == (JobState.IN_QUEUE, JobState.FAILURE)


def test_a_job_that_runs_already_is_not_refused(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = offline.slurm.submit

    def run_and_refuse(given: list[object]) -> object:
        folder = Path(offline.site.store.get("1").folder)
        (folder / "owner").symlink_to("55")
        return submit(given)  # type: ignore[arg-type]

    monkeypatch.setattr(offline.slurm, "submit", run_and_refuse)
    offline.slurm.refuse_next(LUA, certain=False)
    record = offline.job()
    assert (record.stage, record.slurm_id) == (Stage.SUBMITTED, 55)


def stop_before_the_note(offline: Offline) -> Record:
    """Hand in a job that is refused, by a program that is killed once the fence is closed."""

    def killed(*_: object) -> NoReturn:
        raise StoreError("killed")

    offline.slurm.refuse_next(LUA, certain=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline.site.store, "change", killed)
        with pytest.raises(StoreError):
            offline.job()
    record = offline.site.store.get("1")
    assert (record.stage, owner(record)) == (Stage.SUBMITTING, "closed")
    return record


@pytest.mark.parametrize("code", [None, FENCED, 0])  # 0: of a script of an older version
def test_a_crash_behind_a_closed_fence_makes_no_success(offline: Offline, code: int | None) -> None:
    """What a script behind a closed fence ends with says nothing: it has run nothing."""
    record = stop_before_the_note(offline)
    if code is not None:
        offline.slurm.make(77, offline.slurm.submissions[-1])
        offline.slurm.start(77)
        offline.slurm.finish(77, code)
    for _ in range(4):
        offline.sync(300)
    now = offline.now(record)
    assert (now.stage, now.state) == (Stage.ENDED, JobState.FAILURE)
    assert now.status == (
        "Your job was given up before Slurm confirmed it: the adapter was stopped before it could note why"
    )
    assert len(offline.slurm.submissions) == 1


def test_a_job_behind_a_closed_fence_can_be_cancelled(offline: Offline) -> None:
    record = stop_before_the_note(offline)
    [ended] = cancel.cancel(offline.site, [record.id])
    assert (ended.stage, ended.state) == (Stage.ENDED, JobState.SUCCESS)


def test_a_job_that_has_ended_by_the_time_of_an_older_database_has_its_own_end(offline: Offline) -> None:
    """A backup is restored in which the job's answer is still awaited; its folder is closed, and tells its end."""
    offline.slurm.lose_next("never")
    record = offline.job()
    Path(record.folder, "owner").symlink_to("closed")
    offline.record_exit(record, 3, slurm_id=55)
    for _ in range(3):
        offline.sync(300)
    now = offline.now(record)
    assert (now.state, now.slurm_id, now.exit_code) == (JobState.FAILURE, 55, 3)
    assert len(offline.slurm.submissions) == 1


def test_one_accounts_trouble_leaves_no_other_accounts_folder_open(offline: Offline) -> None:
    """A refusal after an answer that was lost: the first sbatch may still come up."""

    def hang(command: Command) -> None:
        if command.user == "alice" and "close_it" in str(command.argv):
            raise CommandTimeout("her home folder hangs")

    records = []
    for user in ("alice", "bob"):
        offline.slurm.lose_next("never")
        records.append(offline.job(user=user))
    offline.sync(300)
    offline.slurm.refuse_next("no")
    offline.slurm.refuse_next("no")
    offline.transport.before = hang
    offline.sync(300)
    hers, his = (offline.now(record) for record in records)
    assert (hers.stage, his.stage, owner(his)) == (Stage.ENDED, Stage.ENDED, "closed")
    assert hers.close_after is not None
    offline.transport.before = lambda _: None
    offline.sync(3600)
    assert (owner(hers), offline.now(hers).close_after) == ("closed", None)


def test_another_jobs_folder_is_not_closed(offline: Offline) -> None:
    """A claim waits for its peer, and meanwhile another site with the same `jobs.folder` makes its folder."""
    offline.slurm.lose_next("never")
    database = offline.job()
    consumer = offline.job(resources=[peer("db", database)])
    folder = Path(consumer.folder)
    folder.mkdir()
    (folder / ".token").symlink_to("another-local-2")
    (folder / "job.sbatch").touch()
    for _ in range(3):
        offline.sync(300)
    assert "File exists" in offline.now(consumer).status
    assert offline.now(consumer).stage is Stage.ENDED
    assert {path.name for path in folder.iterdir()} == {".token", "job.sbatch"}


def test_without_a_fence_a_refusal_stays_in_doubt(offline: Offline) -> None:
    def trip(command: Command) -> None:
        if "ln -sT" in str(command.argv):
            raise NotConnected("the connection broke")

    offline.transport.before = trip
    offline.slurm.refuse_next(LUA, certain=False)
    record = offline.job()
    assert (record.stage, record.attempts, record.answer) == (Stage.SUBMITTING, 1, LUA)


def test_one_of_a_bulk_is_refused_and_the_others_run(offline: Offline) -> None:
    offline.slurm.refuse_next(LUA, certain=False)
    first, second = offline.submit(offline.item("a"), offline.item("b"))
    assert (first.state, first.stage, second.stage) == (JobState.FAILURE, Stage.ENDED, Stage.SUBMITTED)
    assert offline.submit(offline.item("a"), offline.item("b")) == [first, second], "the keys name the same jobs"


def test_the_key_of_a_job_that_was_refused_alone_is_free(offline: Offline) -> None:
    offline.slurm.refuse_next(LUA, certain=False)
    with pytest.raises(Refused):
        offline.job("key")
    assert (offline.job("key").id, offline.job("key").id) == ("2", "2")


def test_a_consumer_of_a_refused_job_ends_too(offline: Offline) -> None:
    offline.slurm.lose_next("never")
    database = offline.job()
    consumer = offline.job(resources=[peer("db", database)])
    offline.sync()
    offline.slurm.refuse_next(LUA, certain=False)
    offline.sync(300)
    offline.sync(300)
    offline.sync()
    assert offline.now(database).status == f"Slurm refused job {database.id}: {LUA}"
    assert offline.now(consumer).state is JobState.FAILURE


# In doubt every time


def test_a_job_whose_answer_is_always_lost_ends_with_slurms_last_words(offline: Offline) -> None:
    for _ in range(offline.config.jobs.attempts):
        offline.slurm.lose_next("never")
    record = offline.job()
    for _ in range(4 * offline.config.jobs.attempts):
        offline.sync(200)
    ended = offline.now(record)
    assert len(offline.slurm.submissions) == offline.config.jobs.attempts
    assert (ended.stage, ended.state, owner(record)) == (Stage.ENDED, JobState.FAILURE, "closed")
    assert ended.status == (
        "Slurm did not confirm the job in 5 attempts, and does not have it: Socket timed out on send/recv operation"
    )


def test_attempts_that_never_began_do_not_count(offline: Offline) -> None:
    offline.slurm.lose_next("never")
    record = offline.job()
    offline.sync(300)
    offline.slurm.down = True
    for _ in range(20):
        offline.sync(300)
    assert (offline.now(record).stage, offline.now(record).attempts) == (Stage.SUBMITTING, 1)


# Refused for now: a QOS with MaxSubmitJobs=2


def test_a_limit_that_passes_keeps_the_job_in_the_queue_with_the_reason(offline: Offline) -> None:
    offline.slurm.postpone_next(LIMIT)
    record = offline.job("key")
    assert (record.stage, record.state) == (Stage.CLAIMED, JobState.IN_QUEUE)
    assert record.status == f"Slurm does not accept the job at present; the adapter retries for 1-00:00:00: {LIMIT}"
    assert offline.sync(plan.RETRY_SECONDS - 10).submitted == ()
    assert offline.sync(20).submitted == (record.id,)
    assert offline.now(record).stage is Stage.SUBMITTED
    assert offline.job("key").id == record.id


def test_a_bulk_over_a_limit_runs_one_after_another(offline: Offline) -> None:
    records = offline.submit(*(offline.item() for _ in range(2)))
    offline.slurm.postpone_next(LIMIT)
    offline.slurm.postpone_next(LIMIT)
    records += offline.submit(*(offline.item() for _ in range(2)))
    assert {record.state for record in records} == {JobState.IN_QUEUE}
    offline.sync(60)
    assert {offline.now(record).stage for record in records} == {Stage.SUBMITTED}


def test_a_limit_that_does_not_pass_in_time_ends_the_job(tmp_path: Path) -> None:
    site = Offline(tmp_path, {"jobs": {"folder": f"{tmp_path}/home/{{user}}/{{id}}", "retry": "00:30:00"}})
    for _ in range(40):
        site.slurm.postpone_next(LIMIT)
    record = site.job()
    for _ in range(45):
        assert site.sync(60).problems == (), "a refusal is no problem of the site"
    ended = site.now(record)
    assert (ended.stage, ended.state) == (Stage.ENDED, JobState.FAILURE)
    assert ended.status == f"Slurm refused job 1 for 00:30:00 (jobs.retry): {LIMIT}"
    assert 5 <= len(site.slurm.submissions) <= 12, "the pauses grow"
    assert owner(record) == "closed"


def test_a_sync_retries_some_jobs_of_an_account_those_first_that_wait_longest(offline: Offline) -> None:
    count = plan.RETRIES + 5
    for _ in range(2 * count):
        offline.slurm.postpone_next(LIMIT)
    records = offline.submit(*(offline.item() for _ in range(count)))
    for taken in (records[: plan.RETRIES], records[plan.RETRIES :]):
        before = len(offline.slurm.submissions)
        offline.sync(plan.RETRY_SECONDS if before == count else 1)
        assert [each.slurm_name for each in offline.slurm.submissions[before:]] == [each.slurm_name for each in taken]


def test_a_job_that_is_refused_for_now_can_be_cancelled(offline: Offline) -> None:
    offline.slurm.postpone_next(LIMIT)
    record = offline.job()
    [ended] = cancel.cancel(offline.site, [record.id])
    assert ended.state is JobState.SUCCESS
    offline.sync(3600)
    assert len(offline.slurm.submissions) == 1


def test_a_job_that_ended_before_an_older_database_is_restored_keeps_its_end(offline: Offline) -> None:
    """The backup knows a claim. It is handed in once more, and ends at its closed fence with 0."""
    offline.slurm.lose_next("never")
    database = offline.job()
    consumer = offline.job(resources=[peer("db", database)])
    folder = Path(consumer.folder)
    folder.mkdir(mode=0o700)
    (folder / ".token").symlink_to(consumer.slurm_name)
    (folder / "owner").symlink_to("closed")
    offline.record_exit(consumer, 3, slurm_id=55)
    while (slurm_id := offline.now(consumer).slurm_id) is None:
        offline.sync(60)
    offline.slurm.start(slurm_id)
    offline.slurm.finish(slurm_id)
    offline.sync()
    offline.sync()
    now = offline.now(consumer)
    assert (now.state, now.slurm_id, now.exit_code) == (JobState.FAILURE, 55, 3)
