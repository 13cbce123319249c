"""More time, suspended jobs: what an operator of Slurm does for users, without a cluster and on a real one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.adapter import Adapter
from slurm_adapter.core.errors import AdapterError, InvalidInput, NotFound, NotOffered, Refused, TryAgain, Unknown
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import control
from slurm_adapter.jobs.report import plan_lines
from slurm_adapter.jobs.sync import sync
from tests.adapter import UNTIL_TOLD
from tests.offline import PRODUCT, Offline, peer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from slurm_adapter.cluster.schedulers.interface import Listing
    from slurm_adapter.core.records import Record
    from slurm_adapter.sandbox.configuration import Identity, Transport
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

HOUR = 3600
FIVE_HOURS = {"hours": 5, "minutes": 0, "seconds": 0}


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    """A site without a cluster, with an operator."""
    return Offline(tmp_path, {"clusters": {"main": {"operator": ["sudo"]}}})


def long_job(offline: Offline) -> Record:
    return offline.run(offline.job(timeAllocation=FIVE_HOURS))


def told(site: Adapter, record: Record) -> list[object]:
    """What UCloud is told of new time allocations."""
    updates = site.store.updates(record.id)
    return [each.more["newTimeAllocation"] for each in updates if "newTimeAllocation" in each.more]


def in_slurm(offline: Offline, record: Record) -> int | None:
    return offline.slurm.see(offline.slurm_id(record)).time_limit


@pytest.mark.parametrize(
    ("seconds", "total"), [(HOUR, 6 * HOUR), (1, 5 * HOUR + 60), (61, 5 * HOUR + 120), (19 * HOUR, 24 * HOUR)]
)
def test_time_is_added_and_the_total_is_told(offline: Offline, seconds: int, total: int) -> None:
    record = long_job(offline)
    [extended] = control.extend(offline.site, [(record.id, seconds)])
    assert extended.time_limit == in_slurm(offline, record) == total
    assert told(offline.site, record) == [total * 1000]
    assert (extended.state, extended.status) == (record.state, record.status)


def test_a_job_that_waits_is_given_more_time_too(offline: Offline) -> None:
    record = offline.job(timeAllocation=FIVE_HOURS)
    assert control.extend(offline.site, [(record.id, HOUR)])[0].time_limit == 6 * HOUR


def test_what_is_added_to_is_what_slurm_says(offline: Offline) -> None:
    record = long_job(offline)
    offline.slurm.change(offline.slurm_id(record), time_limit=7 * HOUR)
    assert control.extend(offline.site, [(record.id, HOUR)])[0].time_limit == 8 * HOUR


def test_a_job_twice_in_a_bulk(offline: Offline) -> None:
    record = long_job(offline)
    assert len(control.extend(offline.site, [(record.id, HOUR), (record.id, HOUR)])) == 2
    assert told(offline.site, record) == [7 * HOUR * 1000]


@pytest.mark.parametrize("seconds", [0, -60, 19 * HOUR + 1, 10**12])
def test_nothing_of_a_bulk_is_done_where_one_is_wrong(offline: Offline, seconds: int) -> None:
    good, bad = long_job(offline), long_job(offline)
    with pytest.raises(InvalidInput, match=r"items\[1\]\.requestedTime"):
        control.extend(offline.site, [(good.id, HOUR), (bad.id, seconds)])
    assert in_slurm(offline, good) == in_slurm(offline, bad) == 5 * HOUR
    assert told(offline.site, good) == told(offline.site, bad) == []


def test_the_partitions_limit_counts_too(offline: Offline) -> None:
    record = long_job(offline)
    offline.slurm.partition_limit = 6 * HOUR
    with pytest.raises(InvalidInput, match="its partition allows at most 06:00:00"):
        control.extend(offline.site, [(record.id, HOUR + 60)])
    assert control.extend(offline.site, [(record.id, HOUR)])[0].time_limit == 6 * HOUR


def test_a_job_without_a_limit_has_nothing_to_add_to(offline: Offline) -> None:
    record = long_job(offline)
    offline.slurm.change(offline.slurm_id(record), time_limit=None)
    with pytest.raises(Refused, match="no time limit"):
        control.extend(offline.site, [(record.id, HOUR)])


def test_every_task_of_an_array_that_has_not_ended_gets_the_limit(offline: Offline) -> None:
    record = offline.job(application="array", timeAllocation=FIVE_HOURS)
    slurm_id = offline.slurm_id(record)
    offline.slurm.split(slurm_id, "0", "1")
    offline.slurm.start(slurm_id, of="0")
    offline.slurm.finish(slurm_id, of="0")
    assert control.extend(offline.site, [(record.id, HOUR)])[0].time_limit == 6 * HOUR
    assert offline.slurm.see(slurm_id, "0").time_limit == 5 * HOUR
    assert offline.slurm.see(slurm_id, "1").time_limit == 6 * HOUR


def test_a_limit_that_a_crash_kept_from_being_told_is_told_by_a_pass_once(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = long_job(offline)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(offline.site.store, "amend", crash)
        with pytest.raises(KeyboardInterrupt):
            control.extend(offline.site, [(record.id, HOUR)])
    assert (in_slurm(offline, record), offline.now(record).time_limit) == (6 * HOUR, 5 * HOUR)
    preview = sync(offline.site, dry_run=True)
    assert plan_lines(preview) == [f"job {record.id}: its time limit in Slurm is 06:00:00"]
    for _ in range(2):
        assert offline.sync().problems == ()
        assert offline.now(record).time_limit == 6 * HOUR
        assert told(offline.site, record) == [6 * HOUR * 1000]


def test_a_limit_that_is_told_while_a_pass_is_made_is_told_once(offline: Offline) -> None:
    before = long_job(offline)
    control.extend(offline.site, [(before.id, HOUR)])
    control.take_limits(offline.site, [(before, 6 * HOUR), (before, 5 * HOUR)])
    assert told(offline.site, before) == [6 * HOUR * 1000]
    seen = offline.now(before)
    control.take_limits(offline.site, [(seen, 7 * HOUR)] * 2)
    assert told(offline.site, before) == [6 * HOUR * 1000, 7 * HOUR * 1000]


def test_a_limit_that_is_set_after_slurm_was_asked_is_told_once(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = offline.job(timeAllocation=FIVE_HOURS)
    offline.slurm.start(offline.slurm_id(record))
    inner = offline.slurm.queue

    def queue(users: Sequence[str]) -> Listing:
        listing = inner(users)
        monkeypatch.setattr(offline.slurm, "queue", inner)
        control.extend(offline.site, [(record.id, HOUR)])
        return listing

    monkeypatch.setattr(offline.slurm, "queue", queue)
    for _ in range(2):
        offline.sync()
        assert told(offline.site, record) == [6 * HOUR * 1000]


def test_the_minutes_of_slurm_and_the_tasks_that_have_ended_are_no_other_limit(offline: Offline) -> None:
    short = offline.run(offline.job(timeAllocation={"hours": 0, "minutes": 1, "seconds": 30}))
    offline.slurm.change(offline.slurm_id(short), time_limit=120)
    array = offline.job(application="array", timeAllocation=FIVE_HOURS)
    slurm_id = offline.slurm_id(array)
    offline.slurm.split(slurm_id, "0", "1")
    offline.slurm.start(slurm_id, of="0")
    offline.slurm.change(slurm_id, of="1", time_limit=4 * HOUR)
    offline.slurm.finish(slurm_id, of="0")
    offline.sync()
    assert (told(offline.site, short), told(offline.site, array)) == ([], [])
    offline.slurm.change(offline.slurm_id(short), time_limit=60)
    offline.sync()
    assert told(offline.site, short) == [60_000]
    assert offline.site.store.updates(short.id)[-1].status == "Your job has been given less time: 00:01:00 in all"


def test_a_lost_answer_may_have_been_a_yes(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    record, inner = long_job(offline), offline.slurm.set_time_limits

    def lose(limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        inner(limits)
        return dict.fromkeys(limits, Unknown("Socket timed out"))

    monkeypatch.setattr(offline.slurm, "set_time_limits", lose)
    assert control.extend(offline.site, [(record.id, HOUR)])[0].time_limit == 6 * HOUR
    assert told(offline.site, record) == [6 * HOUR * 1000]


def test_what_slurm_refuses_is_told_and_what_it_did_is_kept(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, inner = long_job(offline), long_job(offline), offline.slurm.set_time_limits

    def refuse(limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        refused: dict[int, AdapterError] = {offline.slurm_id(bad): Refused("Access/permission denied")}
        return {**inner({id_: seconds for id_, seconds in limits.items() if id_ not in refused}), **refused}

    monkeypatch.setattr(offline.slurm, "set_time_limits", refuse)
    with pytest.raises(Refused, match=rf"job {bad.id} .*\(done: {good.id}\): Access/permission denied"):
        control.extend(offline.site, [(bad.id, HOUR), (good.id, HOUR)])
    assert (told(offline.site, bad), offline.now(bad).time_limit) == ([], 5 * HOUR)
    assert (told(offline.site, good), offline.now(good).time_limit) == ([6 * HOUR * 1000], 6 * HOUR)


def test_suspended_jobs_are_told_by_a_pass(offline: Offline) -> None:
    record = long_job(offline)
    for _ in range(2):  # twice is no error
        control.suspend(offline.site, [record.id])
        offline.sync()
        assert offline.now(record).state is JobState.SUSPENDED
    for _ in range(2):
        control.resume(offline.site, [record.id])
        offline.sync()
        assert offline.now(record).state is JobState.RUNNING
    assert offline.now(record).started == record.started


def test_a_job_that_waits_is_not_suspended_nor_is_the_rest_of_its_bulk(offline: Offline) -> None:
    runs, waits = long_job(offline), offline.job()
    with pytest.raises(Refused, match=rf"job {waits.id} cannot be suspended: .* PENDING"):
        control.suspend(offline.site, [runs.id, waits.id])
    with pytest.raises(Refused, match=rf"job {waits.id} cannot be resumed"):
        control.resume(offline.site, [waits.id])
    assert offline.slurm.see(offline.slurm_id(runs)).state == "RUNNING"


def operate(site: Adapter, what: str, id_: str) -> None:
    if what == "extend":
        control.extend(site, [(id_, HOUR)])
    else:
        {"suspend": control.suspend, "resume": control.resume}[what](site, [id_])


@pytest.mark.parametrize("what", ["extend", "suspend", "resume"])
def test_where_there_is_nothing_to_change(offline: Offline, what: str) -> None:
    """A job that has ended, one that Slurm does not have, one that has another name there, and an unknown one."""
    ended, renamed, doubtful = long_job(offline), long_job(offline), long_job(offline)
    offline.slurm.finish(offline.slurm_id(ended))
    with pytest.raises(Refused, match="has not ended"):
        operate(offline.site, what, ended.id)  # no pass has seen it yet
    offline.sync()
    offline.slurm.change(offline.slurm_id(renamed), name="mine")
    offline.slurm.lose_next("never")
    lost = offline.job()
    claim = offline.job(resources=[peer("db", lost)])
    assert [offline.now(each).stage for each in (lost, claim)] == [Stage.SUBMITTING, Stage.CLAIMED]
    for record, words in (
        (ended, "it has ended"),
        (lost, "does not have it yet"),
        (claim, "does not have it yet"),
        (renamed, "with the name"),
    ):
        with pytest.raises(Refused, match=words):
            operate(offline.site, what, record.id)
    with pytest.raises(NotFound):
        operate(offline.site, what, "999")
    offline.slurm.down = True
    with pytest.raises(TryAgain):
        operate(offline.site, what, doubtful.id)


@pytest.mark.parametrize("what", ["extend", "suspend", "resume"])
def test_without_an_operator_it_is_not_offered(tmp_path: Path, what: str) -> None:
    offline = Offline(tmp_path)
    with pytest.raises(NotOffered, match=r"clusters\.main\.operator"):
        operate(offline.site, what, long_job(offline).id)


# On a real cluster


@pytest.mark.sandbox
@pytest.mark.scenario(73, 74)
@pytest.mark.parametrize(("transport", "identity"), [("ssh", "sudo"), ("local", "service")])
def test_extensions_at_the_same_time_add_up(
    make_adapter: LiveSiteMaker, cluster: Cluster, transport: Transport, identity: Identity
) -> None:
    """And beyond the limit none is taken, in whatever order they come."""
    adapter = make_adapter(transport, identity)
    [record] = adapter.start(adapter.shell("sleep 60", timeAllocation=FIVE_HOURS))
    job = str(record.slurm_id)
    assert control.extend(adapter.site, [(record.id, HOUR)])[0].time_limit == 6 * HOUR
    assert cluster.show(job)["TimeLimit"] == "06:00:00"
    assert told(adapter.site, record) == [21_600_000]

    def ask(seconds: int) -> int | str:
        with Adapter(adapter.site.config) as site:
            try:
                return control.extend(site, [(record.id, seconds)])[0].time_limit
            except InvalidInput as error:
                return str(error)

    with ThreadPoolExecutor(4) as pool:
        assert max(map(int, pool.map(ask, [HOUR] * 4))) == 10 * HOUR
    assert cluster.show(job)["TimeLimit"] == "10:00:00"
    assert adapter.now(record).time_limit == 10 * HOUR
    with ThreadPoolExecutor(2) as pool:  # each alone would do
        answers = list(pool.map(ask, [20 * HOUR] * 2))
    assert 30 * HOUR in answers
    assert sum("allows at most" in str(answer) for answer in answers) == 1
    assert cluster.show(job)["TimeLimit"] == "1-06:00:00"
    adapter.cancel(record)
    adapter.until_ended(record)
    with pytest.raises(Refused, match="it has ended"):
        control.extend(adapter.site, [(record.id, HOUR)])


@pytest.mark.sandbox
@pytest.mark.scenario(73)
def test_the_limit_of_a_partition_and_an_operator_without_rights(adapter: LiveSite, cluster: Cluster) -> None:
    """Slurm itself would let its operator go beyond the partition's limit; the machine's is made larger than that."""
    text = adapter.config_file.read_text().replace('max_time = "12:00:00"', 'max_time = "2-00:00:00"')
    adapter.config_file.write_text(text)
    product = PRODUCT | {"id": "example-scavenge"}
    [record] = adapter.start(adapter.shell("sleep 60", product=product, timeAllocation=FIVE_HOURS))
    result = adapter.invoke("extend", record.id, "07:01:00")
    assert result.exit_code == 65
    assert "its partition allows at most 12:00:00" in result.output
    adapter.config_file.write_text(text.replace('"sudo", "-n", "-u", "slurm"', '"sudo", "-n", "-u", "alice"'))
    result = adapter.invoke("extend", record.id, "01:00:00")
    assert result.exit_code == 1
    assert "Access/permission denied" in result.output
    assert "clusters.NAME.operator" in result.output
    assert cluster.show(str(record.slurm_id))["TimeLimit"] == "05:00:00"
    adapter.config_file.write_text(text)
    result = adapter.invoke("extend", record.id, "07:00:00")
    assert (result.exit_code, result.stdout) == (0, "12:00:00\n"), result.output


@pytest.mark.sandbox
@pytest.mark.scenario(59, 75)
def test_a_suspended_job_goes_on_where_it_was(adapter: LiveSite, cluster: Cluster) -> None:
    [record] = adapter.start(adapter.shell(f"echo begun; {UNTIL_TOLD}; echo done"))

    def is_now(state: JobState) -> bool:
        return adapter.now(record).state is state

    assert adapter.invoke("suspend", record.id).exit_code == 0
    adapter.sync_until(lambda: is_now(JobState.SUSPENDED))
    assert cluster.show(str(record.slurm_id))["JobState"] == "SUSPENDED"
    assert adapter.invoke("resume", record.id).exit_code == 0
    adapter.sync_until(lambda: is_now(JobState.RUNNING))
    adapter.tell(record)
    assert adapter.until_successful(record) == ["begun\ndone\n"]
    states = [each.state for each in adapter.site.store.updates(record.id) if each.state is not None]
    assert states[-4:] == [JobState.RUNNING, JobState.SUSPENDED, JobState.RUNNING, JobState.SUCCESS]


@pytest.mark.sandbox
def test_an_array_as_a_whole(adapter: LiveSite, cluster: Cluster) -> None:
    [record] = adapter.submit(adapter.specification("array", timeAllocation=FIVE_HOURS))
    adapter.sync_until(lambda: adapter.now(record).state is JobState.RUNNING)
    job = str(record.slurm_id)
    cluster.wait_for(lambda: cluster.ask("squeue", "-h", "-r", "-j", job, "-o", "%T").split() == ["RUNNING"] * 2)
    assert control.extend(adapter.site, [(record.id, HOUR)])[0].time_limit == 6 * HOUR
    assert cluster.ask("squeue", "-h", "-r", "-j", job, "-o", "%l").split() == ["6:00:00"] * 2
    for _ in range(2):
        control.suspend(adapter.site, [record.id])
        assert cluster.ask("squeue", "-h", "-r", "-j", job, "-o", "%T").split() == ["SUSPENDED"] * 2
    for _ in range(2):
        control.resume(adapter.site, [record.id])
        assert cluster.ask("squeue", "-h", "-r", "-j", job, "-o", "%T").split() == ["RUNNING"] * 2
    cluster.ask("scancel", f"{job}_0", user=record.account)
    cluster.wait_for(lambda: cluster.ask("squeue", "-h", "-r", "-j", job, "-o", "%K").split() == ["1"])
    assert control.extend(adapter.site, [(record.id, HOUR)])[0].time_limit == 7 * HOUR
