"""The whole life of jobs, pass by pass, over a Slurm in memory and a real file system."""

from __future__ import annotations

import gc
import json
import shutil
import time
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from slurm_adapter.cluster.schedulers.hostlist import expand
from slurm_adapter.cluster.schedulers.interface import Accepted, Submission
from slurm_adapter.cluster.transports.interface import CommandTimeout, ConnectionLost
from slurm_adapter.core.errors import Unknown
from slurm_adapter.core.records import Record, Stage
from slurm_adapter.core.specification import Owner
from slurm_adapter.core.states import FENCED, JobState
from slurm_adapter.jobs import cancel
from slurm_adapter.jobs import submit as jobs
from slurm_adapter.jobs.gather import find_addresses
from slurm_adapter.jobs.report import Report
from slurm_adapter.jobs.sync import COLLECT_AFTER, sync
from slurm_adapter.state.claims import LEASE_SECONDS
from tests.offline import Offline, offline, peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from slurm_adapter.cluster.schedulers.fake import FakeScheduler
    from slurm_adapter.cluster.schedulers.interface import Listing, Outcome
    from slurm_adapter.cluster.transports.interface import Command

__all__ = ["offline"]

OURS = ("# BEGIN slurm-adapter\n", "# END slurm-adapter\n")


def shared(site: Offline) -> str:
    """Our part of the shared file."""
    text = site.shared
    return text[text.index(OURS[0]) + len(OURS[0]) : text.index(OURS[1])]


def told(site: Offline, record: Record) -> list[tuple[JobState | None, str]]:
    return [(update.state, update.status) for update in site.site.store.updates(record.id)]


def test_the_whole_life_of_a_job(offline: Offline) -> None:
    record = offline.job(replicas=2)
    assert offline.sync().problems == ()
    assert offline.now(record).status == "Your job waits in the queue: Priority"
    running = offline.run(record, "node003", "node001")
    assert (running.state, running.nodes) == (JobState.RUNNING, ("node003", "node001"))
    assert running.addresses == (("192.0.2.3",), ("192.0.2.1",))
    assert shared(offline) == ("# job 1 run 1.0\n192.0.2.3 job-1\n192.0.2.3 job-1-0\n192.0.2.1 job-1-1\n")
    assert offline.sync().changed == ()
    offline.slurm.finish(1)
    [(old, new)] = offline.sync().changed
    assert isinstance(new, Record)
    assert (old.state, new.state, new.exit_code, new.ended) == (
        JobState.RUNNING,
        JobState.SUCCESS,
        0,
        offline.slurm.now - 1,
    )
    assert shared(offline) == ""
    assert Path(record.folder, "owner").readlink() == Path("closed")
    assert [state for state, _ in told(offline, record) if state] == [JobState.RUNNING, JobState.SUCCESS]


def test_a_pass_with_nothing_to_do_asks_nobody(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.slurm.finish(1)
    offline.sync()
    before = len(offline.transport.commands)
    offline.slurm.down = True
    assert offline.sync().problems == ()
    assert len(offline.transport.commands) == before
    assert offline.now(record).state is JobState.SUCCESS


def ask(asked: list[str], name: str, inner: Callable[..., Any], *arguments: Any) -> Any:
    """Note the question, and answer it."""
    asked.append(name)
    return inner(*arguments)


@pytest.mark.scenario(67)
def test_a_pass_costs_the_same_for_many_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def commands_for(count: int) -> list[str]:
        folder = tmp_path / str(count)
        folder.mkdir()
        site = Offline(folder)
        records = site.submit(*(site.item() for _ in range(count)))
        for record in records:
            site.slurm.start(site.slurm_id(record))
        asked: list[str] = []
        for name in ("queue", "history", "nodes", "addresses"):
            inner = getattr(site.slurm, name)
            monkeypatch.setattr(site.slurm, name, partial(ask, asked, name, inner))
        before = len(site.transport.commands)
        site.sync()
        return [*asked, *("command" for _ in site.transport.commands[before:])]

    alone = commands_for(1)
    assert alone == commands_for(40)
    assert (alone.count("queue"), alone.count("history") <= 1) == (1, True)


def test_a_pass_over_jobs_of_which_nothing_is_new_is_one_question(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = offline.run(offline.job())
    offline.run(offline.job(resources=[peer("server", server)]))
    offline.submit(*(offline.item() for _ in range(5)))
    offline.submit(*(offline.item() for _ in range(5)), user="bob")
    assert len(offline.sync().changed) == 10
    asked: list[str] = []
    for name in ("queue", "history", "nodes", "addresses", "cancel"):
        monkeypatch.setattr(offline.slurm, name, partial(ask, asked, name, getattr(offline.slurm, name)))
    before = len(offline.transport.commands)
    assert offline.sync() == Report()
    assert (asked, len(offline.transport.commands) - before) == (["queue"], 0)


def test_a_pass_reads_whole_only_jobs_that_do_not_simply_live_on(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = offline.submit(*(offline.item() for _ in range(20)))
    offline.sync()
    read: list[str] = []
    inner = offline.site.store.with_slurm_names

    def with_slurm_names(tokens: Iterable[str]) -> list[Record]:
        read.extend(found := list(tokens))
        return inner(found)

    monkeypatch.setattr(offline.site.store, "with_slurm_names", with_slurm_names)
    assert offline.sync().changed == ()
    assert read == []
    running = offline.run(records[7])
    assert read == []
    offline.slurm.finish(running.slurm_id or 0)
    assert len(offline.sync().changed) == 1
    assert set(read) == {running.slurm_name}


def test_what_is_recorded_while_slurm_is_asked_is_left_to_the_next_pass(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline.slurm.lose_next("later")
    record = offline.job()
    inner = offline.slurm.queue

    def queue(users: Sequence[str]) -> Listing:
        listing = inner(users)
        with offline.open() as other:
            [arrived] = offline.slurm.arrive()
            other.store.change([(record, {"stage": Stage.SUBMITTED, "slurm_id": arrived})], 0.0)
        return listing

    monkeypatch.setattr(offline.slurm, "queue", queue)
    assert offline.sync() == Report()
    monkeypatch.undo()
    [(before, after)] = offline.sync().changed
    assert (before.missing_since, after.status) == (None, "Your job waits in the queue: Priority")


@pytest.mark.parametrize(
    ("threshold", "after"), [(700, COLLECT_AFTER), (10 * COLLECT_AFTER, 10 * COLLECT_AFTER), (0, 0)]
)
def test_a_sync_lets_python_look_for_garbage_rarely(offline: Offline, threshold: int, after: int) -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(threshold, 20, 30)
        offline.job()
        offline.sync()
        assert gc.get_threshold() == (after, 20, 30)
    finally:
        gc.set_threshold(*before)


@pytest.mark.scenario(49)
def test_names_are_in_force_while_both_live(offline: Offline) -> None:
    database = offline.job()
    consumer = offline.job(resources=[peer("database", database)])
    assert offline.view("2").read_text() == ""
    offline.run(database, "node002")
    names = "192.0.2.2 database\n192.0.2.2 database-0\n"
    assert offline.view("2").read_text().endswith(names)
    offline.run(consumer)
    assert "192.0.2.2 database.2.peers\n192.0.2.2 database-0.2.peers\n" in shared(offline)
    offline.slurm.finish(1)
    offline.sync()
    assert offline.view("2").read_text() == ""
    assert shared(offline) == "# job 2 run 2.0\n192.0.2.1 job-2\n192.0.2.1 job-2-0\n"
    offline.slurm.finish(2)
    offline.sync()
    assert (offline.views, shared(offline)) == (set(), "")


def test_a_requeue_moves_the_address(offline: Offline) -> None:
    database = offline.job()
    offline.job(resources=[peer("db", database)])
    offline.run(database, "node001")
    offline.slurm.requeue(1)
    offline.sync()
    assert offline.now(database).state is JobState.IN_QUEUE
    assert offline.view("2").read_text() == ""
    again = offline.run(database, "node004")
    assert (again.restarts, again.run) == (1, "1.1")
    assert offline.view("2").read_text().startswith("# consumer 2 peer 1 run 1.1 exit ")
    assert "192.0.2.4 db\n" in offline.view("2").read_text()


def test_a_requeue_between_two_passes_moves_it_too(offline: Offline) -> None:
    database = offline.job()
    offline.job(resources=[peer("db", database)])
    offline.run(database, "node001")
    offline.slurm.requeue(1)
    assert "192.0.2.2 db\n" in (offline.run(database, "node002"), offline.view("2").read_text())[1]
    offline.slurm.requeue(1)
    offline.run(database, "node002")
    assert "run 1.2 " in offline.view("2").read_text(), "the nodes drop a mapping by its run"


@pytest.mark.edge_case(19)
@pytest.mark.parametrize("address", ["{node}-ib0", None])
def test_addresses_that_are_names_are_resolved_on_the_cluster(tmp_path: Path, address: str | None) -> None:
    site = Offline(tmp_path, {"peers": {"address": address}} if address else {})
    site.slurm = type(site.slurm)(
        {"n1": "n1"}, {"n1": ["127.0.1.1", "192.0.2.7"], "n1-ib0": ["198.51.100.7", "fd00::7"]}
    )
    site.site = site.open()
    record = site.run(site.job(), "n1")
    assert record.addresses == ((("198.51.100.7", "fd00::7") if address else ("192.0.2.7",)),)
    assert find_addresses(site.site, ["n9"]) in ({}, {"n9": ()})


@pytest.mark.edge_case(18, 19)
@pytest.mark.scenario(53)
@pytest.mark.parametrize(
    ("nodes", "addresses"),
    [
        ("n[1-3,7]", (("10.0.0.1",), ("10.0.0.2",), ("10.0.0.3",), ("10.0.0.7",))),
        ("n1,gpu[01-02]", (("10.0.0.1",), ("192.0.2.1", "fd00::1"), ("fd00::2",))),
        ("a[1-2]b[3-4]", (("10.1.0.3",), ("10.1.0.4",), ("10.2.0.3",), ("10.2.0.4",))),
        ("n10,n1", (("10.0.0.10",), ("10.0.0.1",))),
        ("cn-1.example.org", (("198.51.100.1",),)),
        ("itself", (("192.0.2.9",),)),
    ],
)
def test_nodes_of_every_kind_have_their_addresses(
    tmp_path: Path, nodes: str, addresses: tuple[tuple[str, ...], ...]
) -> None:
    """Addresses come from Slurm and from names that it tells, never from what a node says of itself."""
    site = Offline(tmp_path)
    site.slurm = type(site.slurm)(
        {
            **{f"n{number}": f"10.0.0.{number}" for number in range(1, 11)},
            **{f"a{a}b{b}": f"10.{a}.0.{b}" for a in (1, 2) for b in (3, 4)},
            "gpu01": "gpu01-data",
            "gpu02": "FD00:0::2",
            "cn-1.example.org": "cn-1-alias",
            "itself": "itself",
        },
        {
            "gpu01-data": ["fe80::1%eth0", "192.0.2.1", "fd00::1"],
            "cn-1-alias": ["198.51.100.1"],
            "itself": ["127.0.1.1", "::1", "192.0.2.9"],
        },
    )
    site.site = site.open()
    database = site.job()
    consumer = site.job(resources=[peer("db", database)])
    record = site.run(database, *expand(nodes))
    assert record.addresses == addresses
    lines = [line.split() for line in site.view(consumer.id).read_text().splitlines() if line[0] != "#"]
    assert {address for address, _ in lines} == {address for each in addresses for address in each}
    assert [address for address, name in lines if name == "db"] == list(addresses[0])


def test_a_node_without_an_address_is_told_and_asked_for_again(offline: Offline) -> None:
    record = offline.job()
    offline.fence(record, 1)
    offline.slurm.start(1, ["nowhere"])
    assert "no usable address of nowhere is known; see peers.address" in offline.sync().problems[0]
    assert (offline.now(record).state, offline.now(record).nodes) == (JobState.RUNNING, ("nowhere",))
    assert offline.sync().problems != ()
    offline.slurm.change(1, nodes=("node001",))
    assert offline.sync().problems == ()
    assert offline.now(record).addresses == (("192.0.2.1",),)


# Lost answers, and second jobs


@pytest.mark.edge_case(1)
def test_a_lost_answer_is_adopted(offline: Offline) -> None:
    offline.slurm.lose_next("now")
    record = offline.job("key")
    assert (record.stage, record.state) == (Stage.SUBMITTING, JobState.IN_QUEUE)
    offline.sync()
    assert (offline.now(record).stage, offline.now(record).slurm_id) == (Stage.SUBMITTED, 1)
    assert offline.job("key").id == record.id
    assert len(offline.slurm.submissions) == 1


@pytest.mark.edge_case(1)
def test_an_answer_that_was_lost_for_good_is_asked_for_again_once_it_is_certain(offline: Offline) -> None:
    offline.slurm.lose_next("never")
    record = offline.job()
    for _ in range(4):
        offline.sync(after=60)
    offline.slurm.down = True
    offline.sync(after=60)  # what was heard until now was not healthy all the time
    offline.slurm.down = False
    waited = 0
    while len(offline.slurm.submissions) == 1:
        offline.sync(after=20)
        waited += 20
    assert waited >= 140
    assert (offline.now(record).stage, offline.slurm_jobs(record)) == (Stage.SUBMITTED, [2])
    assert Path(record.folder, "job.sbatch").exists()


@pytest.mark.edge_case(1, 6)
def test_no_second_submission_while_silence_says_nothing(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    offline.slurm.sees_others = False
    record = offline.job()
    for _ in range(20):
        offline.sync(after=60)
    assert len(offline.slurm.submissions) == 1
    offline.slurm.arrive()
    offline.sync()
    assert offline.now(record).slurm_id == 1


def make_two(site: Offline) -> Record:
    """A job that Slurm has twice: the first came up late, after the second had been handed in."""
    site.slurm.lose_next("later")
    record = site.job()
    while len(site.slurm.submissions) == 1:
        site.sync(after=60)
    assert site.now(record).slurm_id == 2
    assert site.slurm.arrive() == [1]
    return record


def test_a_second_slurm_job_that_has_not_started_is_cancelled(offline: Offline) -> None:
    record = make_two(offline)
    assert offline.sync().cancelled == (("1", 1),)
    assert Path(record.folder, "owner").readlink() == Path("2")
    assert (offline.slurm.see(1).state, offline.slurm.see(2).state) == ("CANCELLED", "PENDING")
    offline.run(record)
    offline.slurm.finish(2)
    offline.sync()
    assert offline.now(record).state is JobState.SUCCESS


@pytest.mark.parametrize("change", [{"name": "another"}, {"user": "bob"}, {"slurm_id": 9}])
def test_a_job_that_is_another_by_the_time_it_is_to_be_cancelled_is_left_alone(
    offline: Offline, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Slurm was asked before folders were looked into, which may take a while: its id alone is not believed."""
    make_two(offline)
    inner, asked = offline.slurm.queue, []

    def queue(users: Sequence[str]) -> Listing:
        listing = inner(users)
        asked.append(users)
        if len(asked) == 1:
            return listing
        rows = (row._replace(**change) if row.slurm_id == 1 else row for row in listing.observations)
        return replace(listing, observations=tuple(rows))

    monkeypatch.setattr(offline.slurm, "queue", queue)
    assert offline.sync().cancelled == ()
    assert len(asked) == 2
    assert offline.slurm.see(1).state == "PENDING"


def test_the_slurm_job_that_passed_the_fence_is_the_jobs_own(offline: Offline) -> None:
    record = make_two(offline)
    assert offline.fence(record, 1) == 1
    offline.slurm.start(1)
    assert offline.fence(record, 2) == 1  # the other begins too, and runs nothing
    offline.slurm.start(2)
    offline.slurm.finish(2)
    assert offline.sync().cancelled == ()
    assert (offline.now(record).slurm_id, offline.now(record).state) == (1, JobState.RUNNING)
    offline.slurm.finish(1, 7)
    offline.sync()
    assert (offline.now(record).state, offline.now(record).exit_code) == (JobState.FAILURE, 7)


def test_the_end_of_the_one_that_ran_nothing_says_nothing(offline: Offline) -> None:
    record = make_two(offline)
    offline.fence(record, 1)
    for slurm_id in (1, 2):
        offline.slurm.start(slurm_id)
    offline.slurm.finish(2)
    offline.slurm.purge(1)
    # The queue knows the loser alone, and says that it succeeded.
    for _ in range(3):
        offline.sync()
        assert offline.now(record).state is JobState.IN_QUEUE
    offline.record_exit(record, 3, slurm_id=1)
    offline.sync()
    assert (offline.now(record).state, offline.now(record).slurm_id) == (JobState.FAILURE, 1)


def test_none_of_two_is_judged_while_its_account_is_in_trouble(offline: Offline) -> None:
    """The one that is remembered lost at the fence, and Slurm calls it COMPLETED; the other one runs on."""
    record = make_two(offline)
    offline.fence(record, 1)
    for slurm_id in (1, 2):
        offline.slurm.start(slurm_id)
    offline.slurm.finish(2)

    def before(command: Command) -> None:
        if command.user is not None:
            raise CommandTimeout("her home folder hangs")

    offline.transport.before = before
    offline.sync()
    assert offline.now(record).state is JobState.IN_QUEUE
    offline.transport.before = lambda _: None
    offline.sync(100)
    assert (offline.now(record).slurm_id, offline.now(record).state) == (1, JobState.RUNNING)
    assert offline.slurm.see(1).state == "RUNNING"


@pytest.mark.parametrize("code", [FENCED, 0])  # 0: of a script of an older version
def test_a_loser_alone_in_the_queue_is_not_judged_while_its_account_is_in_trouble(offline: Offline, code: int) -> None:
    record = make_two(offline)
    offline.fence(record, 1)
    for slurm_id in (1, 2):
        offline.slurm.start(slurm_id)
    offline.slurm.finish(2, code)
    offline.slurm.purge(1)
    folder = Path(record.folder)
    away = folder.rename(folder.with_name("away"))

    def before(command: Command) -> None:
        if command.user is not None:
            raise CommandTimeout("her home folder hangs")

    offline.transport.before = before
    for _ in range(3):
        offline.sync(100)
        assert offline.now(record).stage is not Stage.ENDED
    away.rename(folder)
    offline.transport.before = lambda _: None
    offline.record_exit(record, 3, slurm_id=1)
    offline.sync(1000)
    assert (offline.now(record).state, offline.now(record).exit_code) == (JobState.FAILURE, 3)


def test_a_job_whose_account_stays_in_trouble_ends_after_a_while(offline: Offline) -> None:
    record = make_two(offline)
    offline.slurm.start(2)
    offline.slurm.finish(2, FENCED)
    offline.slurm.purge(1)

    def before(command: Command) -> None:
        if command.user is not None:
            raise CommandTimeout("her home folder hangs")

    offline.transport.before = before
    offline.sync()
    assert offline.now(record).stage is not Stage.ENDED
    for _ in range(4):
        offline.sync(offline.site.config.jobs.lost_after)
    assert (offline.now(record).state, offline.now(record).exit_code) == (JobState.FAILURE, FENCED)


def test_a_second_job_is_not_judged_while_its_folder_cannot_be_read(offline: Offline) -> None:
    record = make_two(offline)
    offline.fence(record, 1)
    offline.slurm.finish(1)
    offline.slurm.purge(2)

    def before(command: Command) -> None:
        if command.user is not None:
            raise ConnectionLost("gone")

    offline.transport.before = before
    assert offline.sync().problems != ()
    assert (offline.now(record).slurm_id, offline.now(record).state) == (2, JobState.IN_QUEUE)
    offline.transport.before = lambda _: None
    offline.sync()
    assert (offline.now(record).slurm_id, offline.now(record).state) == (1, JobState.SUCCESS)


def test_a_job_that_is_handed_in_during_a_pass_is_left_alone(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    offline.run(offline.job())
    inner = offline.slurm.queue
    fresh: list[Record] = []

    def queue(users: Sequence[str]) -> Listing:
        if not fresh:
            monkeypatch.setattr(offline.slurm, "queue", inner)
            fresh.extend(jobs.submit(offline.open(), Owner(created_by="alice"), [offline.item()]))
        return inner(users)

    monkeypatch.setattr(offline.slurm, "queue", queue)
    assert offline.sync().cancelled == ()
    assert offline.slurm.see(offline.slurm_id(fresh[0])).state == "PENDING"


def test_a_finished_job_that_its_owner_requeues_runs_nothing(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.slurm.finish(1)
    offline.sync()
    offline.job()
    offline.slurm.requeue(1)
    offline.slurm.start(1)
    assert Path(record.folder, "owner").readlink() == Path("closed")
    assert offline.sync().cancelled == (("1", 1),)
    assert offline.slurm.see(1).state == "CANCELLED"
    assert offline.now(record).state is JobState.SUCCESS


def test_a_pass_that_is_killed_when_a_job_is_final_leaves_its_folder_closed(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = offline.run(offline.job())
    offline.slurm.finish(1, 3)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(offline.site.store, "make_changes", killed)
        with pytest.raises(KeyboardInterrupt):
            offline.sync()
    assert Path(record.folder, "owner").readlink() == Path("closed")
    offline.sync()
    assert (offline.now(record).state, offline.now(record).exit_code) == (JobState.FAILURE, 3)


def test_a_cancel_whose_fence_was_made_and_not_remembered(offline: Offline) -> None:
    offline.slurm.lose_next("never")
    record = offline.job()
    Path(record.folder, "owner").symlink_to("cancelled")
    offline.sync()
    assert (offline.now(record).state, offline.now(record).status) == (JobState.SUCCESS, "Your job was cancelled")


# Claims that wait


def test_a_claim_is_handed_over_once_its_peer_is_there(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    database = offline.job()
    consumer = offline.job(resources=[peer("db", database)])
    offline.sync()
    assert offline.now(consumer).status == "Your job waits until Slurm has its peer 1 (db)"
    offline.slurm.arrive()
    assert offline.sync().submitted == ("2",)
    assert offline.now(consumer).stage is Stage.SUBMITTED
    assert offline.views == {"2"}


def test_a_claim_whose_peer_ends_ends_with_it(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    database = offline.job()
    consumer = offline.job(resources=[peer("db", database)])
    cancel.cancel(offline.site, [database.id])
    offline.sync()
    ended = offline.now(consumer)
    assert (ended.state, ended.status) == (JobState.FAILURE, "peer 1 (db) ended before this job could start")
    assert len(offline.slurm.submissions) == 1
    assert offline.views == set()


def test_a_claim_that_slurm_refuses_in_a_pass_ends_with_its_words(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    database = offline.job()
    consumer = offline.job(resources=[peer("db", database)])
    offline.slurm.arrive()
    offline.slurm.refuse_next("no such partition")
    assert offline.sync().problems == ()
    ended = offline.now(consumer)
    assert (ended.state, ended.status) == (JobState.FAILURE, "Slurm refused job 2: no such partition")
    offline.sync()
    assert offline.views == set()


def test_a_pass_leaves_a_new_claim_to_whoever_makes_its_folder_just_now(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass falls into every bulk that is handed in at UCloud's door, and would make a thousand folders again."""
    offline.slurm.lose_next("later")
    database = offline.job()
    offline.job(resources=[peer("db", database)])  # a claim that waits is not the submission's
    offline.sync()
    offline.slurm.arrive()
    passes: list[tuple[str, ...]] = []

    def look(command: Command) -> None:
        if "tar -x" in " ".join(command.argv) and not passes:
            passes.append(())  # the pass makes folders, too
            with offline.open() as other:
                passes[0] = sync(other).submitted
                offline.slurm.now += LEASE_SECONDS - 1
                passes.append(sync(other).submitted)
                offline.slurm.now += 1
                passes.append(sync(other).submitted)

    monkeypatch.setattr(offline.transport, "before", look)
    record = offline.job()
    assert passes == [("2",), (), (record.id,)]
    assert len(offline.slurm_jobs(record)) == 1


def test_a_sync_dispatches_the_claim_of_a_killed_process_after_its_lease(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed cannot give its lease back."""
    with monkeypatch.context() as killed:
        killed.setattr(jobs, "dispatch", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            offline.job()
    assert [offline.sync(seconds).submitted for seconds in (0, LEASE_SECONDS - 1, 1, 60)] == [(), (), ("1",), ()]
    assert len(offline.slurm.submissions) == 1


def test_a_sync_dispatches_the_claim_of_a_process_that_gave_up_at_once(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(command: Command) -> None:
        if "tar -x" in " ".join(command.argv):
            raise KeyboardInterrupt

    monkeypatch.setattr(offline.transport, "before", die)
    with pytest.raises(KeyboardInterrupt):
        offline.job()
    with offline.open() as other:
        assert sync(other).submitted == ("1",)


# Outages


@pytest.mark.scenario(60)
@pytest.mark.edge_case(25)
def test_an_outage_changes_nothing_and_empties_no_file(offline: Offline) -> None:
    database = offline.run(offline.job())
    offline.job(resources=[peer("db", database)])
    offline.sync()
    before = ([offline.now(database)], offline.shared, offline.view("2").read_text())
    offline.slurm.down = True
    for _ in range(5):
        report = offline.sync(after=3600)
        assert "could not list Slurm's jobs" in report.problems[0]
        assert report.changed == ()
    assert ([offline.now(database)], offline.shared, offline.view("2").read_text()) == before
    offline.slurm.down = False
    assert offline.sync().problems == ()


def test_an_answer_that_cannot_be_read_is_none(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    record = offline.run(offline.job())

    def queue(_: Sequence[str]) -> Listing:
        raise Unknown("half a row")

    with monkeypatch.context() as patch:
        patch.setattr(offline.slurm, "queue", queue)
        assert offline.sync(after=9999).problems == ("could not list Slurm's jobs: half a row",)
    assert offline.now(record) == record


@pytest.mark.edge_case(10)
@pytest.mark.scenario(63)
def test_an_id_that_came_round_again_is_another_job(tmp_path: Path) -> None:
    site = Offline(tmp_path, accounting=True)
    record = site.run(site.job())
    # The cluster was installed anew: the id is a job of the same account again, and soon one of somebody else's.
    for values in ({"name": "another"}, {"name": "another", "user": "bob"}, {"user": "bob"}):
        for state in ("RUNNING", "COMPLETED", "FAILED"):
            site.slurm.change(1, **{"name": record.slurm_name, "user": "alice"} | values, state=state, submitted=1)
            site.slurm.change(1, nodes=("node004",), exit_code=0, restarts=3)
            site.sync()
            assert (site.now(record).state, site.now(record).nodes) == (JobState.RUNNING, ("node001",)), values
            assert "192.0.2.4" not in site.shared


@pytest.mark.edge_case(10)
@pytest.mark.scenario(63, 71)
def test_a_job_of_somebody_else_under_the_name_of_ours(offline: Offline) -> None:
    """Names of jobs are for everybody to see: one under a strange account is never taken for ours."""

    def forge(token: str) -> int:
        [forged] = offline.slurm.submit([Submission(token, "bob", "/f", ())])
        assert isinstance(forged, Accepted)
        offline.slurm.start(forged.slurm_id, ["node004"])
        return forged.slurm_id

    offline.job(user="bob")  # so that bob's jobs are asked for
    record = offline.run(offline.job())
    first = forge(record.slurm_name)
    offline.slurm.lose_next("never")
    lost = offline.job()
    second = forge(lost.slurm_name)
    assert offline.sync().problems == ()
    assert (offline.now(record).nodes, offline.now(lost).slurm_id) == (("node001",), None)
    for slurm_id in (first, second):
        offline.slurm.finish(slurm_id)
    assert offline.sync().problems == ()
    assert (offline.now(record).state, offline.now_stage(lost.id)) == (JobState.RUNNING, Stage.SUBMITTING)
    cancel.cancel(offline.site, [record.id])
    offline.sync()
    forged = forge(record.slurm_name)
    report = offline.sync()
    assert (report.cancelled, report.problems) == ((), ()), "it is not ours to cancel"
    assert offline.slurm.see(forged).state == "RUNNING"


@pytest.mark.edge_case(9)
@pytest.mark.scenario(61)
@pytest.mark.parametrize("midnight", ["2026-11-24T00:00", "2026-03-29T01:00", "2026-10-25T01:00", "2027-01-01T00:00"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Copenhagen", "America/New_York"])
def test_a_job_over_midnight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, midnight: str, zone: str) -> None:
    """Or over the hour at which the clocks are changed; no pass comes between its start and its end."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    site = Offline(tmp_path, accounting=True)
    turn = int(datetime.fromisoformat(f"{midnight}+00:00").timestamp())
    site.slurm.now = turn - 60
    record = site.job()
    site.fence(record, 1)
    site.slurm.start(1)
    site.slurm.now = turn + 60
    site.slurm.finish(1, 3)
    site.slurm.purge(1)
    site.sync(after=240)
    ended = site.now(record)
    assert (ended.state, ended.exit_code, ended.slurm_id) == (JobState.FAILURE, 3, 1)
    assert (ended.started, ended.ended) == (turn - 60, turn + 60)


@pytest.fixture(autouse=True)
def _zone() -> Iterator[None]:
    """Whatever a test did to the zone."""
    yield
    time.tzset()


def test_a_cancel_that_slurm_did_not_carry_out_is_repeated(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    record = offline.run(offline.job())
    inner = offline.slurm.cancel

    def fail(_: object) -> None:
        raise Unknown("Socket timed out on send/recv operation")

    monkeypatch.setattr(offline.slurm, "cancel", fail)
    with pytest.raises(Unknown):
        cancel.cancel(offline.site, [record.id])
    monkeypatch.setattr(offline.slurm, "cancel", inner)
    offline.sync()
    assert offline.slurm.see(1).state == "RUNNING", "Slurm may still be ending it"
    assert offline.sync(after=120).cancelled == ((record.id, 1),)
    offline.sync()
    assert (offline.now(record).state, offline.now(record).status) == (JobState.SUCCESS, "Your job was cancelled")


def test_a_job_that_its_user_renamed_is_not_lost(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.slurm.change(1, name="my own name")
    for _ in range(3):
        offline.slurm.now += 4000
        report = offline.sync()
        assert report.problems == ()
        assert f"JobName={record.slurm_name}" in report.account_problems[0]
        assert offline.now(record).trouble in report.account_problems[0]
        assert offline.now(record).state is JobState.RUNNING
    offline.slurm.change(1, name=record.slurm_name)
    offline.slurm.finish(1)
    assert offline.sync().problems == ()
    assert offline.now(record).state is JobState.SUCCESS


def test_a_job_that_nobody_knows_is_lost_after_long_and_healthy_silence(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.slurm.purge(1)
    offline.slurm.sees_others = False
    for _ in range(5):
        assert "may not see others' jobs" in offline.sync(after=3600).problems[0]
    offline.slurm.sees_others = True
    assert offline.sync().problems == ()
    offline.sync(after=3599)
    assert offline.now(record).state is JobState.RUNNING
    offline.sync(after=1)
    assert offline.now(record).state is JobState.FAILURE
    assert "Your job was lost" in offline.now(record).status


@pytest.mark.scenario(62)
@pytest.mark.edge_case(7)
def test_a_purged_job_ends_by_its_exit_record(offline: Offline) -> None:
    for code, state in ((0, JobState.SUCCESS), (3, JobState.FAILURE)):
        record = offline.run(offline.job())
        offline.record_exit(record, code)
        offline.slurm.purge(offline.slurm_id(record))
        offline.sync()
        assert (offline.now(record).state, offline.now(record).exit_code) == (state, code)


def test_the_record_of_an_earlier_run_says_nothing(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.record_exit(record, 0)
    offline.slurm.requeue(1)
    offline.run(record)
    offline.slurm.purge(1)
    offline.sync()
    assert offline.now(record).state is JobState.RUNNING
    offline.record_exit(record, 4, restart=1)
    offline.sync()
    assert offline.now(record).exit_code == 4


def test_accounting_tells_what_the_queue_has_forgotten(tmp_path: Path) -> None:
    site = Offline(tmp_path, accounting=True)
    record = site.run(site.job())
    site.slurm.end(1, "OUT_OF_MEMORY")
    site.slurm.purge(1)
    site.sync()
    assert (site.now(record).state, site.now(record).status) == (
        JobState.FAILURE, "Your job used more memory than it asked for"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("by", "state", "words"), [("alice", JobState.SUCCESS, "was cancelled"), ("root", JobState.FAILURE, "by the site")]
)
def test_who_cancelled_it(tmp_path: Path, by: str, state: JobState, words: str) -> None:
    site = Offline(tmp_path, accounting=True)
    record = site.run(site.job())
    site.slurm.end(1, "CANCELLED", cancelled_by=by)
    site.sync()
    assert site.now(record).state is state
    assert words in site.now(record).status


def test_hosts_files_that_could_not_be_written_are_the_next_passes_affair(offline: Offline) -> None:
    database = offline.run(offline.job())
    offline.job(resources=[peer("db", database)])
    offline.slurm.finish(1)
    offline.slurm.finish(2)

    def before(command: Command) -> None:
        if command.user is None:
            raise ConnectionLost("gone")

    offline.transport.before = before
    assert "could not write the hosts files: gone" in offline.sync().problems
    assert offline.now(database).state is JobState.SUCCESS, "what was learned is remembered all the same"
    assert "192.0.2.1 db\n" in offline.view("2").read_text()
    offline.transport.before = lambda _: None
    assert offline.sync().problems == ()
    assert (offline.views, shared(offline)) == (set(), "")


def test_a_folder_that_is_gone_is_no_obstacle(offline: Offline) -> None:
    record = offline.run(offline.job())
    Path(record.folder).rename(f"{record.folder}-elsewhere")
    offline.slurm.finish(1)
    assert offline.sync().problems == ()
    assert offline.now(record).state is JobState.SUCCESS


def test_what_users_put_into_their_folders_stops_no_pass(offline: Offline) -> None:
    mine = offline.run(offline.job())
    bobs = offline.job(user="bob")
    Path(bobs.folder, "owner").symlink_to("9" * 40)
    Path(bobs.folder, "exit.json").write_text(json.dumps({"slurm_id": 2, "ended_at": 1e999}) + "\n0 owner 5\nend\n")
    offline.slurm.purge(2)
    offline.slurm.finish(1)
    assert offline.sync().problems == ()
    assert offline.now(mine).state is JobState.SUCCESS
    assert offline.now(bobs).state is JobState.IN_QUEUE
    Path(bobs.folder, "owner").unlink()
    Path(bobs.folder, "owner").symlink_to("4294967295")
    offline.sync()
    assert offline.now(bobs).state is JobState.IN_QUEUE


# Views in the jobs' own folders


def test_private_views(tmp_path: Path) -> None:
    site = Offline(tmp_path, {"peers": {"private": True}})
    database = site.run(site.job(), "node002")
    consumer = site.job(resources=[peer("db", database)])
    view = Path(consumer.folder, "hosts")
    assert "192.0.2.2 db\n" in view.read_text()
    assert view.stat().st_mode & 0o777 == 0o600
    assert not site.peers.exists()
    before = view.stat().st_ino
    site.sync()
    assert view.stat().st_ino == before, "only what changed is written"
    site.slurm.finish(1)
    site.sync()
    assert view.read_text() == ""
    assert not site.peers.exists()


def test_a_private_view_is_written_even_where_a_pass_came_before_the_folder(tmp_path: Path) -> None:
    site = Offline(tmp_path, {"peers": {"private": True}})
    site.slurm.lose_next("later")
    database = site.job()
    consumer = site.job(resources=[peer("db", database)])
    other = site.run(site.job())
    assert other.state is JobState.RUNNING
    assert not Path(consumer.folder).exists()
    site.slurm.arrive()
    for _ in range(3):
        site.sync()
    assert site.now(consumer).stage is Stage.SUBMITTED
    assert Path(consumer.folder, "hosts").read_text() == ""
    site.run(database)
    assert "db\n" in Path(consumer.folder, "hosts").read_text()


def test_every_job_has_a_view_where_the_site_wants_it(tmp_path: Path) -> None:
    site = Offline(tmp_path, {"peers": {"always": True}})
    record = site.job()
    site.sync()
    assert (site.views, site.view(record.id).read_text()) == ({record.id}, "")


# Dry runs


def test_a_dry_run_changes_nothing(offline: Offline) -> None:
    record = make_two(offline)
    offline.slurm.start(2)
    waiting = offline.job(resources=[peer("db", record)])
    offline.site.store.change([(offline.now(waiting), {"status": "x"})], 1.0)

    def state() -> Any:
        return (
            offline.site.store.all(9), told(offline, record), offline.shared, offline.views,
            offline.slurm.see(1), offline.slurm.see(2),
            sorted(str(path) for path in (offline.folder / "home").rglob("*")), len(offline.slurm.submissions),
        )  # fmt: skip

    before = state()
    report = sync(offline.site, dry_run=True)
    assert next((old.id, new.state) for old, new in report.changed) == ("1", JobState.RUNNING)
    assert state() == before
    assert sync(offline.site).changed


@pytest.mark.edge_case(25)
def test_a_controller_that_gives_no_good_answer_is_spared(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    record = offline.run(offline.job())
    offline.slurm.finish(offline.slurm_id(record))
    inner, asked = offline.slurm.queue, []

    def queue(_: Sequence[str]) -> Listing:
        asked.append(offline.slurm.now)
        raise Unknown("Socket timed out on send/recv operation")

    monkeypatch.setattr(offline.slurm, "queue", queue)
    begun = offline.slurm.now + 1
    for _ in range(300):
        [problem] = offline.sync().problems
        assert "Socket timed out" in problem or "times in a row; next attempt in" in problem
    assert [when - begun for when in asked] == [0, 1, 2, 42, 122, 242]
    assert offline.now(record).state is JobState.RUNNING
    monkeypatch.setattr(offline.slurm, "queue", inner)
    assert offline.sync(after=120).problems == ()
    assert offline.now(record).state is JobState.SUCCESS


def test_a_controller_that_is_down_is_asked_in_every_pass(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.slurm.finish(offline.slurm_id(record))
    offline.slurm.down = True
    for _ in range(9):
        assert "Unable to contact slurm controller" in offline.sync().problems[0]
    offline.slurm.down = False
    assert offline.sync().problems == ()
    assert offline.now(record).state is JobState.SUCCESS


def test_hosts_files_that_somebody_damaged_are_mended(offline: Offline) -> None:
    offline.run(offline.job())
    whole = offline.shared
    (offline.peers / "hosts").unlink()
    offline.sync()
    assert offline.shared == "", "not every pass looks"
    offline.sync(after=600)
    assert offline.shared == whole


def test_accounting_is_asked_about_a_job_whose_answer_was_lost(tmp_path: Path) -> None:
    site = Offline(tmp_path, accounting=True)
    site.slurm.lose_next("now")
    record = site.job()
    site.slurm.end(1, "CANCELLED", cancelled_by="root")
    site.sync(after=100)
    assert (site.now(record).state, site.now(record).status) == (JobState.FAILURE, "Your job was cancelled by the site")


def test_a_job_that_comes_up_late_runs_nothing_where_slurm_refused_the_second_attempt(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    record = offline.job()
    offline.slurm.refuse_next("Batch job submission failed: Invalid qos specification")
    for _ in range(3):
        offline.sync(after=400)
    assert offline.now(record).state is JobState.FAILURE
    assert Path(record.folder, "owner").readlink() == Path("closed")


# Arrays


def test_a_task_that_left_no_trace_keeps_its_array_waiting_for_it(offline: Offline) -> None:
    record = offline.job(application="array")
    assert record.tasks == 2
    offline.slurm.change(1, task="0-1")
    offline.fence(record, 1)
    offline.slurm.start(1)
    offline.sync()
    offline.record_exit(record, 0, task="0")
    offline.slurm.forget(1)
    for _ in range(3):
        offline.sync(after=1200)
        assert offline.now(record).state is JobState.RUNNING
    offline.sync(after=1200)
    assert (offline.now(record).state, offline.now(record).status) == (
        JobState.FAILURE, "Your job failed: 1 of its 2 tasks were lost; nothing shows how they ended"
    )  # fmt: skip


def test_an_array_ends_with_its_last_task(offline: Offline) -> None:
    record = offline.job(application="array")
    assert record.array
    offline.slurm.change(1, task="0")
    offline.run(record)
    offline.record_exit(record, 5, task="1")
    assert shared(offline) == "", "the tasks of an array have no one address"
    offline.slurm.finish(1)
    offline.sync()
    assert offline.now(record).state is JobState.FAILURE


@pytest.mark.parametrize("known", [True, False])
def test_an_array_that_its_user_cancelled_has_not_failed(offline: Offline, *, known: bool) -> None:
    record = offline.job(application="array")
    offline.slurm.split(1, "0", "1")
    offline.fence(record, 1)
    for task in ("0", "1"):
        offline.slurm.start(1, of=task)
    if known:
        offline.sync()
    for task in ("0", "1"):
        offline.slurm.end(1, "CANCELLED", of=task, cancelled_by="alice")
    (Path(record.folder) / "exit-0.json").write_text(
        json.dumps({"slurm_id": 1, "restart": 0, "task": 0, "exit_code": 143, "ended_at": 1, "reason": None})
    )
    offline.sync()
    assert offline.now(record).state is JobState.SUCCESS


@pytest.mark.edge_case(25)
def test_only_one_pass_at_a_time(offline: Offline) -> None:
    with offline.site.sync_lock() as first, offline.open().sync_lock() as second:
        assert (first, second) == (True, False)
    with offline.site.sync_lock() as again:
        assert again


# What a review found


@pytest.mark.edge_case(1)
def test_a_job_in_doubt_whose_folder_is_gone_is_never_handed_in_again(offline: Offline) -> None:
    """It may have run, ended and been forgotten, and its application may have removed the folder, the fence with it."""
    offline.slurm.lose_next("now")
    record = offline.job()
    offline.slurm.start(1)
    offline.slurm.finish(1)
    offline.slurm.purge(1)
    shutil.rmtree(record.folder)
    for _ in range(9):
        offline.sync(after=300)
    assert len(offline.slurm.submissions) == 1
    offline.sync(after=3600)
    assert (offline.now(record).state, offline.now(record).status) == (
        JobState.FAILURE, "Your job was lost: Slurm does not know it, and its folder is gone"
    )  # fmt: skip


def test_a_job_that_only_its_fence_tells_of_is_not_judged_by_its_script_alone(tmp_path: Path) -> None:
    site = Offline(tmp_path, accounting=True)
    site.slurm.lose_next("now")
    record = site.job()
    site.fence(record, 1)
    site.slurm.start(1)
    site.slurm.end(1, "OUT_OF_MEMORY")
    site.slurm.purge(1)
    (Path(record.folder) / "exit.json").write_text(
        json.dumps({"slurm_id": 1, "restart": 0, "task": None, "exit_code": 0, "ended_at": 1, "reason": None})
    )
    site.sync()
    site.sync()
    assert (site.now(record).state, site.now(record).status) == (
        JobState.FAILURE, "Your job used more memory than it asked for"
    )  # fmt: skip


@pytest.mark.edge_case(25)
def test_a_file_system_that_is_away_ends_nothing(offline: Offline) -> None:
    ended, waits = offline.run(offline.job()), offline.submit(offline.item(), offline.item())
    offline.record_exit(ended, 0)
    offline.slurm.finish(offline.slurm_id(ended))
    offline.slurm.purge(offline.slurm_id(ended))
    home = offline.folder / "home"
    home.rename(home.with_name("away"))
    for _ in range(3):
        problems = offline.sync(after=3000).problems
        assert f"neither its folder {ended.folder} is there nor that in which it should be" in problems[0]
    home.with_name("away").rename(home)
    assert offline.sync().problems == ()
    assert offline.now(ended).state is JobState.SUCCESS
    assert not any(offline.now(record).state.final for record in waits)


def test_a_job_that_is_cancelled_while_it_is_handed_over_leaves_no_slurm_job(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = offline.slurm.submit

    def submit(submissions: Sequence[Submission]) -> list[Outcome]:
        outcomes = inner(submissions)
        cancel.cancel(offline.open(), ["1"])
        return outcomes

    monkeypatch.setattr(offline.slurm, "submit", submit)
    record = offline.job()
    assert (offline.now(record).state, offline.slurm.see(1).state) == (JobState.SUCCESS, "CANCELLED")


def test_a_dry_run_names_slurm_jobs_that_would_be_cancelled(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.slurm.make(2, offline.slurm.submissions[0])
    assert sync(offline.site, dry_run=True).cancelled == ((record.id, 2),)


def test_thousands_of_exit_files_keep_no_other_job_waiting(offline: Offline) -> None:
    busy, other = offline.run(offline.job()), offline.run(offline.job())
    for number in range(5000):
        (Path(busy.folder) / f"exit-{number}.json").write_text("x" * 2000)
    for record in (busy, other):
        offline.record_exit(record, 0)
        offline.slurm.finish(offline.slurm_id(record))
        offline.slurm.purge(offline.slurm_id(record))
    assert offline.sync().problems == ()
    assert [offline.now(record).state for record in (busy, other)] == [JobState.SUCCESS] * 2


# What UCloud is told of when a job ran. Jobs shorter than the time between two syncs were never RUNNING there.

STARTED = "Your job started"


def told_states(offline: Offline, record: Record) -> list[JobState]:
    return [each.state for each in offline.site.store.updates(record.id) if each.state is not None]


def begin(offline: Offline, record: Record, *nodes: str) -> int:
    """Slurm starts the job and its script passes the fence; no sync sees it."""
    slurm_id = offline.slurm_id(record)
    offline.fence(record, slurm_id)
    offline.slurm.start(slurm_id, nodes or ("node001",))
    offline.slurm.now += 5
    return slurm_id


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (lambda slurm, id_: slurm.finish(id_), JobState.SUCCESS),
        (lambda slurm, id_: slurm.finish(id_, 3), JobState.FAILURE),
        (lambda slurm, id_: slurm.end(id_, "TIMEOUT"), JobState.EXPIRED),
        (lambda slurm, id_: slurm.end(id_, "CANCELLED"), JobState.SUCCESS),
        (lambda slurm, id_: slurm.end(id_, "NODE_FAIL"), JobState.FAILURE),
    ],
)
def test_a_job_shorter_than_the_time_between_two_syncs_is_told_running(
    offline: Offline, end: Callable[[FakeScheduler, int], None], state: JobState
) -> None:
    record = offline.job()
    slurm_id = begin(offline, record)
    started = offline.slurm.now - 5
    end(offline.slurm, slurm_id)
    offline.sync(100)
    offline.sync(100)
    assert told_states(offline, record) == [JobState.RUNNING, state]
    [ran] = [each for each in offline.site.store.updates(record.id) if each.status == STARTED]
    assert ran.time == offline.now(record).started == started


def test_a_job_that_a_sync_saw_running_is_told_so_once(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.slurm.finish(offline.slurm_id(record))
    offline.sync()
    assert told_states(offline, record) == [JobState.RUNNING, JobState.SUCCESS]


def test_a_job_that_was_cancelled_while_it_waited_never_ran(offline: Offline) -> None:
    record = offline.job()
    slurm_id = offline.slurm_id(record)
    offline.slurm.end(slurm_id, "CANCELLED", started=offline.slurm.now)  # as squeue tells of one
    offline.sync(100)
    offline.sync(100)
    assert told_states(offline, record) == [JobState.SUCCESS]
    assert offline.now(record).started is None


def test_a_job_whose_script_never_came_to_its_fence_never_ran(offline: Offline) -> None:
    record = offline.job()
    slurm_id = offline.slurm_id(record)
    offline.slurm.start(slurm_id)
    offline.slurm.finish(slurm_id, signal=53)
    offline.sync()
    assert told_states(offline, record) == [JobState.FAILURE]


def test_a_job_that_gave_up_before_its_application_never_ran(offline: Offline) -> None:
    record = offline.job()
    slurm_id = begin(offline, record)
    offline.record_exit(record, 1, reason="peer 9 (db) never started")
    offline.slurm.finish(slurm_id, 1)
    offline.sync()
    assert told_states(offline, record) == [JobState.FAILURE]


@pytest.mark.parametrize("known", ["exit record", "accounting", "fence"])
def test_a_short_job_that_the_queue_has_forgotten_is_told_running(tmp_path: Path, known: str) -> None:
    offline = Offline(tmp_path, accounting=known == "accounting")
    record = offline.job()
    slurm_id = begin(offline, record)
    offline.slurm.finish(slurm_id)
    if known == "exit record":
        offline.record_exit(record, 0)
    offline.slurm.purge(slurm_id)
    offline.sync(100)
    offline.sync(offline.config.jobs.lost_after)
    end = JobState.FAILURE if known == "fence" else JobState.SUCCESS  # nothing tells how the last one ended
    assert told_states(offline, record) == [JobState.RUNNING, end]
    ended = offline.now(record)
    assert record.created <= (ended.started or 0.0) <= (ended.ended or 0.0)


def test_a_short_job_that_was_put_back_and_cancelled_is_told_running_once(offline: Offline) -> None:
    unseen, seen = offline.job(), offline.run(offline.job())
    begin(offline, unseen)
    for record in (unseen, seen):
        offline.slurm.requeue(offline.slurm_id(record))
    offline.sync()
    for record in (unseen, seen):
        offline.slurm.end(offline.slurm_id(record), "CANCELLED")
    offline.sync(100)
    offline.sync(100)
    assert told_states(offline, unseen) == [JobState.RUNNING, JobState.SUCCESS]
    assert told_states(offline, seen) == [JobState.RUNNING, JobState.IN_QUEUE, JobState.SUCCESS]


def test_an_array_of_short_tasks_is_told_running_with_its_first_start(offline: Offline) -> None:
    record = offline.job(application="array")
    slurm_id = offline.slurm_id(record)
    offline.fence(record, slurm_id)
    offline.slurm.split(slurm_id, "0", "1")
    started = offline.slurm.now
    for task in ("0", "1"):
        offline.slurm.start(slurm_id, of=task)
        offline.slurm.now += 5
        offline.slurm.finish(slurm_id, of=task)
    offline.sync()
    assert told_states(offline, record) == [JobState.RUNNING, JobState.SUCCESS]
    assert offline.now(record).started == started


def test_the_default_time_limit_is_told_once_slurm_has_the_job(offline: Offline) -> None:
    """`jobs.default_time`: UCloud computes `expiresAt` from a job's time allocation."""
    plain = offline.job()
    wanted = offline.job(timeAllocation={"hours": 2, "minutes": 0, "seconds": 0})
    offline.slurm.lose_next("now")
    late = offline.job()
    offline.sync(60)
    for record, told in ((plain, [3_600_000]), (wanted, []), (late, [3_600_000])):
        updates = offline.site.store.updates(record.id)
        assert [each.more["newTimeAllocation"] for each in updates if "newTimeAllocation" in each.more] == told


def test_a_job_whose_folder_was_removed_says_so_and_never_ran(offline: Offline) -> None:
    """Slurm from 23.11 on makes the output's folder anew, and the script runs there."""
    record = offline.job()
    slurm_id = offline.slurm_id(record)
    shutil.rmtree(record.folder)
    offline.slurm.start(slurm_id)
    offline.slurm.finish(slurm_id, 66)
    offline.sync()
    assert told_states(offline, record) == [JobState.FAILURE]
    assert offline.now(record).status == (
        "Your job could not start: its folder or its output file cannot be opened on the node"
    )


@pytest.mark.parametrize(
    ("unknown", "of_the_site", "of_accounts"),
    [
        ({"bob"}, [], ["the cluster does not know the account bob"]),
        ({"alice", "bob"}, ["the cluster does not know 2 of the 2 accounts with jobs (alice, bob, ...)"], []),
    ],
)
def test_accounts_that_the_cluster_does_not_know(
    offline: Offline,
    monkeypatch: pytest.MonkeyPatch,
    unknown: set[str],
    of_the_site: list[str],
    of_accounts: list[str],
) -> None:
    for user in ("alice", "bob"):
        offline.job(user=user)
    offline.sync()
    listed = offline.slurm.queue
    monkeypatch.setattr(
        offline.slurm,
        "queue",
        lambda users: replace(
            found := listed(users),
            observations=tuple(row for row in found.observations if row.user not in unknown),
            unnamed=frozenset(unknown),
        ),
    )
    report = offline.sync()
    assert report.changed == ()
    assert [each.partition(":")[0] for each in report.problems] == of_the_site
    assert [each for each in report.account_problems if each.startswith("the cluster")] == of_accounts
