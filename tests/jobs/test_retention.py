"""What is kept of jobs that have ended, and what goes: never anything of one that lives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.transports.interface import Result, Stream, Terminal
from slurm_adapter.core.config_tables import Retention
from slurm_adapter.core.errors import NotFound, TryAgain
from slurm_adapter.jobs import prepare, retention
from slurm_adapter.jobs.report import plan_lines
from slurm_adapter.jobs.sync import sync
from slurm_adapter.ucloud.fake import FakeReceiver
from tests.offline import Offline, offline, peer

if TYPE_CHECKING:
    from slurm_adapter.cluster.transports.interface import Command, Stream, Terminal
    from slurm_adapter.core.records import Record

__all__ = ["offline"]

HOUR, DAY = 3600, 86400
KEPT = {"retention": {"logs": "1-00:00:00", "folders": "2-00:00:00", "records": "3-00:00:00"}}


@pytest.fixture
def site(tmp_path: Path) -> Offline:
    return Offline(tmp_path, KEPT)


def ended(site: Offline) -> Record:
    """A job that has ended, with logs and a result in its folder."""
    record = site.run(site.job())
    for name in ("stdout.txt", "stderr.txt", "stdout-0.txt", "stdout-x.txt", "result.dat"):
        (Path(record.folder) / name).write_text("text")
    site.slurm.finish(site.slurm_id(record))
    assert site.sync().problems == ()
    return record


def names(record: Record) -> set[str]:
    return {path.name for path in Path(record.folder).glob("*.*")} & {
        "stdout.txt", "stderr.txt", "stdout-0.txt", "stdout-x.txt", "result.dat", "job.sbatch"
    }  # fmt: skip


def test_logs_go_first_then_the_folder_then_what_is_remembered(site: Offline) -> None:
    record = ended(site)
    site.sync(DAY - HOUR)
    assert len(names(record)) == 6
    assert site.sync(2 * HOUR).problems == ()
    # A file of the application's own that only looks like a log is none.
    assert names(record) == {"stdout-x.txt", "result.dat", "job.sbatch"}
    assert site.now(record).logs_gone is not None
    site.sync(DAY - 3 * HOUR)
    assert Path(record.folder).exists()
    assert site.sync(3 * HOUR).problems == ()
    assert not Path(record.folder).exists()
    site.sync(DAY - 3 * HOUR)
    assert site.now(record).state.final
    assert site.sync(3 * HOUR).problems == ()
    with pytest.raises(NotFound):
        site.now(record)


def test_unless_a_site_says_so_folders_stay_for_ever_and_records_for_a_year(offline: Offline) -> None:
    record = ended(offline)
    offline.sync(364 * DAY)
    assert len(names(record)) == 6
    assert offline.now(record).state.final
    offline.sync(2 * DAY)
    assert len(names(record)) == 6
    assert offline.site.store.all(9) == []


def test_nothing_goes_of_a_job_that_lives(site: Offline) -> None:
    waits, runs = site.job(), site.run(site.job())
    consumer = site.run(site.job(resources=[peer("db", runs)]))
    for _ in range(3):
        site.sync(400 * DAY)
    for record in (waits, runs, consumer):
        assert (Path(record.folder) / "job.sbatch").exists()
        assert not site.now(record).state.final


def test_a_peer_is_remembered_while_a_live_job_names_it(site: Offline) -> None:
    database = site.run(site.job())
    consumer = site.run(site.job(resources=[peer("db", database)]))
    site.slurm.finish(site.slurm_id(database))
    site.sync()
    site.sync(9 * DAY)
    assert not Path(database.folder).exists()
    assert site.now(database).state.final
    site.slurm.finish(site.slurm_id(consumer))
    site.sync()
    site.sync(9 * DAY)
    site.sync()
    assert site.site.store.all(9) == []


def test_what_ucloud_was_not_told_is_remembered(site: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "STANDALONE", "example")
    site.site.receiver = receiver = FakeReceiver()
    receiver.down = True
    job = site.job()
    site.slurm.start(site.slurm_id(job))
    site.sync()
    site.slurm.finish(site.slurm_id(job))
    site.sync()
    site.sync(9 * DAY)
    assert site.now(job).state.final
    receiver.down = False
    site.sync()
    site.sync()
    assert site.site.store.all(9) == []
    assert receiver.state(job.id).final


def test_another_jobs_folder_in_its_place_stays(site: Offline) -> None:
    record = ended(site)
    token = Path(record.folder) / ".token"
    token.unlink()
    token.symlink_to("another")
    assert site.sync(9 * DAY).problems == ()
    assert len(names(record)) == 6


def test_a_file_system_that_is_not_there_is_no_reason_to_forget_folders(site: Offline) -> None:
    record = ended(site)
    home = Path(record.folder).parent
    home.rename(home.with_name("away"))
    assert site.sync(9 * DAY).problems == (), "other accounts' folders are there: it is alice's own trouble"
    assert site.now(record).trouble == "its folders could not be removed as alice"
    home.with_name("away").rename(home)
    site.sync()
    assert Path(record.folder).exists(), "it is put off for a day"
    assert Path(record.folder).exists()
    assert site.sync(DAY).problems == ()
    assert not Path(record.folder).exists()
    site.sync()
    assert site.site.store.all(9) == []


def test_a_file_system_that_is_away_for_all_is_the_sites_problem(site: Offline) -> None:
    record = ended(site)
    home = site.folder / "home"
    home.rename(home.with_name("away"))
    assert f"its folders in {record.folder} could not be removed as alice" in site.sync(9 * DAY).problems[0]
    home.with_name("away").rename(home)
    site.sync(DAY)
    assert not Path(record.folder).exists()


def test_a_cluster_that_is_away_changes_nothing(site: Offline) -> None:
    record = ended(site)

    def fail(_: Command) -> None:
        raise TryAgain("the login node is away")

    site.transport.before = fail
    report = site.sync(9 * DAY)
    assert (
        "folders of 1 jobs that ended long ago were not removed as alice: the login node is away" in report.problems[0]
    )
    site.transport.before = lambda _: None
    site.sync(DAY)
    assert not Path(record.folder).exists()


def test_a_dry_run_removes_nothing_and_says_what_would_go(site: Offline) -> None:
    record = ended(site)
    site.slurm.now += 9 * DAY
    lines = plan_lines(sync(site.site, dry_run=True))
    assert lines == [f"job {record.id}: its folder in {record.folder} would be removed"]
    assert len(names(record)) == 6


def test_one_pass_removes_so_many_and_no_more(site: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    records = [ended(site) for _ in range(3)]
    site.sync(9 * DAY)
    assert [Path(record.folder).exists() for record in records] == [False, False, True]
    site.sync()
    assert not Path(records[2].folder).exists()


@pytest.mark.parametrize("values", [{"logs": "00:59:59"}, {"folders": "2-00:00:00", "records": "1-00:00:00"}])
def test_what_cannot_be_kept_so(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"logs|records"):
        Retention.model_validate(values)


def test_a_record_of_an_exit_that_lies_about_its_time_shortens_nothing(site: Offline) -> None:
    record = site.run(site.job())
    site.record_exit(record, 0, ended_at=1)
    site.slurm.finish(site.slurm_id(record))
    site.slurm.purge(site.slurm_id(record))
    site.sync()
    assert site.now(record).state.final
    site.sync(HOUR)
    assert (Path(record.folder) / "job.sbatch").exists()


def test_a_folder_whose_token_cannot_be_read_is_not_taken_for_gone(site: Offline) -> None:
    record = ended(site)
    (Path(record.folder) / ".token").unlink()
    assert site.sync(2 * DAY + HOUR).problems == ()
    assert "could not be removed" in site.now(record).trouble
    assert site.now(record).folder_gone is None


def test_what_cannot_be_removed_is_given_up_in_the_end(site: Offline) -> None:
    record = ended(site)
    (Path(record.folder) / ".token").unlink()
    site.sync(30 * DAY)
    assert site.now(record).state.final
    site.sync(4 * DAY)
    assert site.site.store.all(9) == []


def test_a_banner_before_the_answer_is_no_number(site: Offline) -> None:
    record = ended(site)
    inner = site.site.transport

    class Greeting:
        def run(self, command: Command) -> Result:
            result = inner.run(command)
            return Result(result.status, b"Welcome to 2026\n" + result.stdout, result.stderr)

        def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
            return inner.open(command, terminal)

        def close(self) -> None:
            pass

    site.site.transport = Greeting()
    assert site.sync(2 * DAY + HOUR).problems == ()
    assert not Path(record.folder).exists()
