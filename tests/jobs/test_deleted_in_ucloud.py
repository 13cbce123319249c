"""A whole site beside a UCloud: what it is told through outages, and what becomes of jobs that it has deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cli.check import Finding, Level, check_site
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import deleted_in_ucloud
from slurm_adapter.jobs.report import delivery_lines, outage_lines, plan_lines
from slurm_adapter.jobs.sync import deliver_updates, sync
from slurm_adapter.ucloud.fake import FakeReceiver
from tests.offline import Offline, site
from tests.ucloud_double import Ucloud, ucloud

if TYPE_CHECKING:
    from slurm_adapter.core.records import Record

__all__ = ["site", "ucloud"]

UPDATE = "/api/jobs/control/update"
EXISTS = "/api/providers/resources/checkExistence"


def create(site: Offline, ucloud: Ucloud, *ids: str) -> list[Record]:
    """UCloud's jobs."""
    ucloud.know(*ids)
    return site.submit(*(replace(site.item(), id=id_) for id_ in ids))


def states(ucloud: Ucloud, id_: str) -> list[str]:
    """The states that a job was told, in order."""
    return [update["state"] for update in ucloud.updates(id_) if update["state"] is not None]


def alive(site: Offline, record: Record) -> bool:
    """Whether Slurm has the job still."""
    rows = site.slurm.queue([record.account]).observations
    return any(row.name == record.slurm_name and row.state in {"PENDING", "RUNNING"} for row in rows)


@pytest.mark.scenario(65)
def test_an_outage_of_ten_minutes(site: Offline, ucloud: Ucloud) -> None:
    first, second = create(site, ucloud, "4101", "4102")
    assert site.sync().problems == ()
    ucloud.down()
    site.slurm.start(site.slurm_id(first))
    site.slurm.start(site.slurm_id(second))
    for minute in range(10):
        assert "could not deliver updates to UCloud" in site.sync(60).problems[0]
        if minute == 5:
            site.slurm.finish(site.slurm_id(first))
    assert site.now(first).state is JobState.SUCCESS
    ucloud.up()
    ucloud.lose_next(after=1)
    assert "lost" in site.sync().problems[0]
    for _ in range(3):
        assert site.sync().problems == ()
    assert (states(ucloud, "4101"), states(ucloud, "4102")) == (["RUNNING", "SUCCESS"], ["RUNNING"])
    for id_ in ("4101", "4102"):
        told = [(update["state"], update["status"]) for update in ucloud.updates(id_)]
        assert told == [(update.state, update.status) for update in site.site.store.updates(id_)]
    assert len(ucloud.calls_to(UPDATE)) == 3


@pytest.mark.scenario(64)
def test_a_hundred_and_fifty_changes_and_one_unknown_job(site: Offline, ucloud: Ucloud) -> None:
    ids = [str(4000 + number) for number in range(150)]
    records = create(site, ucloud, *ids)
    site.sync()
    ucloud.forget("4070")
    ucloud.calls.clear()
    for record in records:
        site.slurm.start(site.slurm_id(record))
    assert site.sync().problems == ()
    assert all(ucloud.state(id_) == "RUNNING" for id_ in ids if id_ != "4070")
    assert len(ucloud.calls) <= 5
    assert {message.job_id for message in site.site.store.due(after=0, limit=999)} == {"4070"}


def test_a_job_that_ucloud_denies_twice_is_ended_and_told_of_no_more(site: Offline, ucloud: Ucloud) -> None:
    orphan, other = create(site, ucloud, "4101", "4102")
    site.sync()
    ucloud.forget("4101")
    site.slurm.start(site.slurm_id(orphan))
    site.sync()
    since = site.now(orphan).unknown_since
    assert since is not None
    site.sync(deleted_in_ucloud.UNKNOWN_SECONDS - 2)
    assert alive(site, orphan), "it may be that UCloud only waits for an answer"
    assert site.now(orphan).unknown_since == since
    site.sync(2)
    assert (alive(site, orphan), alive(site, other)) == (False, True)
    for _ in range(3):
        assert site.sync(60).problems == ()
    assert (site.now(orphan).stage, site.now(orphan).cancel_sent is not None) == (Stage.ENDED, True)
    assert site.site.store.due(after=0, limit=9) == []
    ucloud.calls.clear()
    site.slurm.start(site.slurm_id(other))
    site.sync()
    [call] = ucloud.calls_to(UPDATE)
    assert [item["id"] for item in call.body["items"]] == ["4102"]


def test_a_job_that_ucloud_knows_after_all_goes_on_and_is_told_of_in_order(site: Offline, ucloud: Ucloud) -> None:
    """UCloud knows a job only once `create` was answered."""
    [job] = create(site, ucloud, "4101")
    ucloud.forget("4101")
    site.sync()
    assert site.now(job).unknown_since is not None
    site.slurm.start(site.slurm_id(job))
    site.sync()
    ucloud.know("4101")
    assert site.sync(deleted_in_ucloud.UNKNOWN_SECONDS).problems == ()
    assert site.now(job).unknown_since is None
    assert alive(site, job)
    site.slurm.finish(site.slurm_id(job))
    site.sync()
    assert states(ucloud, "4101") == ["RUNNING", "SUCCESS"]


def test_ucloud_is_asked_now_and_then_which_jobs_it_has(site: Offline, ucloud: Ucloud) -> None:
    """Of a job that runs for days there is nothing to tell; that UCloud has deleted it is learned all the same."""
    [job] = create(site, ucloud, "4101")
    site.run(job)
    assert len(ucloud.calls_to(EXISTS)) == 1
    ucloud.forget("4101")
    site.sync(deleted_in_ucloud.ASK_SECONDS - 10)
    assert len(ucloud.calls_to(EXISTS)) == 1
    site.sync(20)
    assert len(ucloud.calls_to(EXISTS)) == 2
    assert alive(site, job)
    site.sync(deleted_in_ucloud.UNKNOWN_SECONDS)
    assert not alive(site, job)
    site.sync()
    assert site.now(job).stage is Stage.ENDED


def test_what_ucloud_denies_once_and_knows_again_is_forgiven(site: Offline, ucloud: Ucloud) -> None:
    """Each time counts by itself: a job is not ended for what was denied hours ago."""
    [job] = create(site, ucloud, "4101")
    site.run(job)
    for _ in range(2):
        ucloud.forget("4101")
        site.sync(deleted_in_ucloud.ASK_SECONDS)
        assert site.now(job).unknown_since is not None
        ucloud.know("4101")
        site.sync(deleted_in_ucloud.UNKNOWN_SECONDS)
        assert site.now(job).unknown_since is None
    assert alive(site, job)


def test_jobs_that_do_not_come_from_ucloud_are_not_asked_for(site: Offline, ucloud: Ucloud) -> None:
    job = site.run(site.job())
    site.sync(deleted_in_ucloud.ASK_SECONDS)
    site.sync(deleted_in_ucloud.UNKNOWN_SECONDS)
    assert ucloud.calls == []
    assert alive(site, job)


def test_a_ucloud_that_is_away_makes_no_orphans(site: Offline, ucloud: Ucloud) -> None:
    [job] = create(site, ucloud, "4101")
    site.run(job)
    ucloud.down()
    for _ in range(5):
        site.sync(deleted_in_ucloud.ASK_SECONDS)
    ucloud.up()
    for status in (500, 401, 404, 503):
        ucloud.fail(status, times=2)
        site.sync(deleted_in_ucloud.ASK_SECONDS)
        site.sync(deleted_in_ucloud.UNKNOWN_SECONDS)
    assert alive(site, job)
    assert site.now(job).unknown_since is None


def test_many_at_once_wait_for_somebody_to_look(site: Offline, ucloud: Ucloud) -> None:
    """As when UCloud was restored from a backup of yesterday."""
    ids = [str(4100 + number) for number in range(12)]
    records = create(site, ucloud, *ids)
    site.sync()
    ucloud.forget(*ids)
    site.sync(deleted_in_ucloud.ASK_SECONDS)
    [problem] = site.sync(deleted_in_ucloud.UNKNOWN_SECONDS).problems
    assert "12 jobs" in problem
    assert "--allow-mass-end" in problem
    assert all(alive(site, record) for record in records)
    assert deleted_in_ucloud.end_orphans(site.site, _receiver(site), allow_mass_end=True) == []
    assert not any(alive(site, record) for record in records)


def test_jobs_that_wait_for_somebody_to_look_cost_few_requests(site: Offline, ucloud: Ucloud) -> None:
    """However long that takes: each pass finds their updates due."""
    ids = [str(4100 + number) for number in range(12)]
    create(site, ucloud, *ids)
    ucloud.forget(*ids)
    site.sync()
    site.sync(deleted_in_ucloud.UNKNOWN_SECONDS)
    before = len(ucloud.calls)
    site.sync()
    assert len(ucloud.calls) - before <= 5


def test_a_job_that_ucloud_has_and_takes_nothing_of_goes_on(site: Offline, ucloud: Ucloud) -> None:
    [job] = create(site, ucloud, "4101")
    ucloud.deny("4101")
    site.run(job)
    [problem] = site.sync(deleted_in_ucloud.UNKNOWN_SECONDS).problems
    assert "has jobs 4101" in problem
    assert alive(site, job)
    ucloud.know("4101")
    assert site.sync().problems == ()
    assert states(ucloud, "4101") == ["RUNNING"]


def test_one_process_tells_at_a_time(site: Offline, ucloud: Ucloud) -> None:
    """As cron's `sync` beside a gateway: what both told would arrive twice."""
    [job] = create(site, ucloud, "4101")
    with site.site.delivery_lock(wait=False) as ours:
        assert ours
        site.run(job)
        assert deliver_updates(site.open()) is None
    assert ucloud.updates("4101") == []
    told = deliver_updates(site.site)
    assert told is not None
    assert (told.problems, states(ucloud, "4101")) == ((), ["RUNNING"])


def test_an_outage_of_ucloud_is_told_apart_from_one_of_slurm(site: Offline, ucloud: Ucloud) -> None:
    """The gateway's complete passes do not end what cron's `sync` has told of UCloud."""
    store = site.site.store
    create(site, ucloud, "4101")
    ucloud.down()
    told = deliver_updates(site.site)
    assert told is not None
    assert told.away
    assert [len(delivery_lines(store, told.problems)) for _ in range(2)] == [2, 0]
    assert outage_lines(store, sync(site.site, delivering=False)) == []
    assert delivery_lines(store, told.problems) == []
    assert delivery_lines(store, ()) == ["slurm-adapter: updates to UCloud are delivered again"]


def test_a_dry_run_shows_what_waits_and_whom_ucloud_denies(site: Offline, ucloud: Ucloud) -> None:
    create(site, ucloud, "4101", "4102")
    ucloud.down()
    site.sync()
    site.slurm.now += 60
    [waits] = sync(site.site, dry_run=True).delivery
    assert waits == "4 updates wait for delivery to UCloud, the oldest for 61 seconds (jobs 4101, 4102)"
    ucloud.up()
    site.sync()
    assert sync(site.site, dry_run=True).delivery == ()
    ucloud.forget("4101")
    site.sync(deleted_in_ucloud.ASK_SECONDS)
    calls = len(ucloud.calls)
    site.slurm.now += 20
    [denied] = sync(site.site, dry_run=True).delivery
    assert denied.startswith("job 4101: UCloud did not know it; it is cancelled if UCloud, asked in 100 seconds,")
    site.slurm.now += 100
    assert "asked now" in plan_lines(sync(site.site, dry_run=True))[0]
    assert len(ucloud.calls) == calls


def _receiver(site: Offline) -> FakeReceiver:
    """One that knows no job."""
    made = FakeReceiver()
    made.unknown = {record.id for record in site.site.store.all(99)}
    return made


def test_one_that_could_not_be_cancelled_is_tried_again(site: Offline, ucloud: Ucloud) -> None:
    [job] = create(site, ucloud, "4101")
    site.run(job)
    ucloud.forget("4101")
    site.sync(deleted_in_ucloud.ASK_SECONDS)
    site.slurm.now += deleted_in_ucloud.UNKNOWN_SECONDS
    site.slurm.down = True
    assert "could not cancel" in deleted_in_ucloud.end_orphans(site.site, _receiver(site))[0]
    assert site.now(job).deleted_in_ucloud is None
    site.slurm.down = False
    site.sync()
    assert not alive(site, job)


def test_an_ended_job_that_ucloud_does_not_know_is_told_of_no_more(site: Offline, ucloud: Ucloud) -> None:
    [job] = create(site, ucloud, "4101")
    site.run(job)
    ucloud.forget("4101")
    site.slurm.finish(site.slurm_id(job))
    site.sync()
    assert site.site.store.due(after=0, limit=9) != []
    site.sync(deleted_in_ucloud.UNKNOWN_SECONDS)
    assert site.site.store.due(after=0, limit=9) == []
    assert site.now(job).state is JobState.SUCCESS


def findings(site: Offline, word: str) -> list[Finding]:
    """What `check` says of it."""
    return [each for each in check_site(site.site) if word in each.text]


@pytest.mark.scenario(90)
def test_check_tells_whether_ucloud_lets_it_in(site: Offline, ucloud: Ucloud) -> None:
    assert {each.level for each in findings(site, "ucloud.key") + findings(site, "refresh token")} == {Level.GOOD}
    (site.folder / "refresh-token").chmod(0o644)
    assert [each.level for each in findings(site, "ucloud.refresh_token")] == [Level.PROBLEM]
    (site.folder / "refresh-token").chmod(0o600)
    (site.folder / "refresh-token").write_text("")
    assert [each.level for each in findings(site, "holds no token")] == [Level.PROBLEM]
    (site.folder / "refresh-token").write_text("one")
    ucloud.refresh_token = "another"
    assert [each.level for each in findings(site, "refused the refresh token")] == [Level.PROBLEM]
    (site.folder / "ucloud.pem").write_text("no key\n")
    assert [each.level for each in findings(site, "is not a key")] == [Level.PROBLEM]
    (site.folder / "ucloud.pem").unlink()
    assert [each.level for each in findings(site, "ucloud.key")] == [Level.PROBLEM]
    ucloud.down()
    site.slurm.now += 60
    assert [each.level for each in findings(site, "out of reach")] == [Level.PROBLEM]
