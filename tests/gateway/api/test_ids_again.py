"""UCloud's server is killed while it creates a job, and gives the same id to another job after its restart.

The new job has another `createdAt`. The old one is cancelled and closed, the new one runs, and each has things of its
own. In all calls but `create` a `createdAt` says nothing: a restart of the server changes it for every job.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import Duplicate, InvalidInput, TryAgain
from slurm_adapter.core.records import OLDER_SECONDS, Stage
from slurm_adapter.core.specification import Job, Owner
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.api.provider import find_own
from slurm_adapter.jobs import cancel, deleted_in_ucloud, deliver, submit
from slurm_adapter.jobs.item import Item
from tests.gateway.api_site import ApiSite, opened, wait_until
from tests.offline import Offline, peer, site
from tests.ucloud_double import Ucloud, ucloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from slurm_adapter.core.messages import Message
    from slurm_adapter.core.records import Record

__all__ = ["site", "ucloud"]

JOBS = "/ucloud/example/jobs"
ALICE = Owner(created_by="alice")
FIRST, SECOND, THIRD = 1633329776235, 1633329976235, 1633329976236


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiSite]:
    with opened(tmp_path) as api:
        yield api


def create(site: Offline, created_at: int | None, id_: str = "4101", owner: Owner = ALICE, **fields: Any) -> Record:
    """What UCloud's `create` does."""
    item = site.item(**fields)
    [record] = submit.submit(site.site, owner, [Item(item.specification, id=id_, created_at=created_at)])
    return record


def again(site: Offline, record: Record) -> Record:
    """A job as it is now, whatever its id."""
    [found] = site.site.store.again([record])
    return found


def waits(site: Offline) -> Record:
    """The old job waits in Slurm."""
    return create(site, FIRST)


def runs(site: Offline) -> Record:
    """The old job runs."""
    return site.run(create(site, FIRST))


def ended(site: Offline) -> Record:
    """The old job has ended well."""
    record = runs(site)
    site.slurm.finish(site.slurm_id(record))
    site.sync()
    assert site.now(record).state is JobState.SUCCESS
    return record


def is_in_doubt(site: Offline) -> Record:
    """The answer of the old job's sbatch was lost, and the job comes up late."""
    site.slurm.lose_next("later")
    return create(site, FIRST)


def is_claimed(site: Offline) -> Record:
    """The old job was claimed, and waits for its peer."""
    site.slurm.lose_next("never")
    database = site.job()
    return create(site, FIRST, resources=[peer("db", database)])


PAST = (waits, runs, ended, is_in_doubt, is_claimed)


@pytest.mark.parametrize("past", PAST, ids=lambda each: each.__name__)
@pytest.mark.parametrize("change", [{}, {"name": "another"}, {"owner": Owner(created_by="bob")}], ids=str)
def test_another_job_with_the_same_id_runs(
    site: Offline, ucloud: Ucloud, past: Callable[[Offline], Record], change: dict[str, Any]
) -> None:
    old = past(site)
    new = create(site, SECOND, **change)
    assert (new.id, new.stage, new.state) == ("4101", Stage.SUBMITTED, JobState.IN_QUEUE)
    assert not {new.slurm_name, new.folder, new.peers_file} & {old.slurm_name, old.folder, old.peers_file}
    site.slurm.arrive()
    ucloud.know("4101")
    new = site.run(new)
    site.sync()
    before = again(site, old)
    assert (before.state, before.id.partition("-")[0]) == (JobState.SUCCESS, "4101")
    assert before.id != "4101"
    for seconds in (1, 400, 400):
        assert site.sync(seconds).problems == ()
    assert (site.now(new).state, again(site, old).stage) == (JobState.RUNNING, Stage.ENDED)
    assert [row.name for row in site.slurm.queue(["alice", "bob"]).observations if row.state == "RUNNING"] == [
        new.slurm_name
    ]
    if before.slurm_id is not None or past is is_in_doubt:
        assert os.readlink(f"{old.folder}/owner") in {"cancelled", "closed"}  # noqa: PTH115  # it leads nowhere
    site.slurm.finish(site.slurm_id(new), 3)
    site.sync()
    told = [(update["state"], update["status"]) for update in ucloud.updates("4101")]
    assert [state for state, _ in told if state] == ["RUNNING", "FAILURE"], "nothing of the old job is told"
    # The same `create` once more is the newest job, and doubles nothing.
    assert create(site, SECOND, **change).slurm_name == new.slurm_name


@pytest.mark.parametrize("past", PAST, ids=lambda each: each.__name__)
def test_a_repeated_create_is_the_same_job(site: Offline, past: Callable[[Offline], Record]) -> None:
    old = past(site)
    fields: dict[str, Any] = {"resources": [peer("db", old.peers[0].job_id)]} if old.peers else {}
    assert [create(site, FIRST, **fields).slurm_name for _ in range(2)] == [old.slurm_name] * 2
    assert create(site, None, **fields).slurm_name == old.slurm_name, "a core that sends no createdAt"
    assert len(site.site.store.find(["4101"])) == 1


def test_a_third_job_replaces_the_second(site: Offline, ucloud: Ucloud) -> None:
    records = [create(site, created_at) for created_at in (FIRST, SECOND, THIRD, FIRST)]
    ucloud.know("4101")
    site.run(records[-1])
    site.sync()
    assert [again(site, record).stage for record in records] == [*[Stage.ENDED] * 3, Stage.SUBMITTED]
    assert len({record.slurm_name for record in records}) == len({record.folder for record in records}) == 4


def test_what_is_noted_of_the_old_job_is_not_noted_on_the_new_one(site: Offline) -> None:
    """A sync reads a job, UCloud gives its id to a new one, and then the sync writes what it has seen."""
    old = create(site, FIRST)
    new = create(site, SECOND)
    store = site.site.store
    store.note_trouble({old.slurm_name: "of the old one"})
    store.note_closing({old.slurm_name: 17.0})
    store.request_cancel([old.slurm_name], 5.0)
    assert store.get(new.id).slurm_name == new.slurm_name
    assert (store.get(new.id).trouble, store.get(new.id).close_after, store.get(new.id).cancel_requested) == (
        "",
        None,
        None,
    )
    [now] = store.with_slurm_names([old.slurm_name])
    assert (now.trouble, now.close_after) == ("of the old one", 17.0)


def test_the_new_job_is_not_forgotten_in_place_of_the_old_one(site: Offline, ucloud: Ucloud) -> None:
    """A sync finds that a job was kept for its time. Before it is forgotten, a new job gets the id, and ends."""
    old = create(site, FIRST)
    ucloud.know("4101")
    cancel.cancel(site.site, [old.id])
    site.slurm.finish(site.slurm_id(old))
    site.sync()
    store = site.site.store
    due = store.forgettable(site.site.clock() + 1, 9, with_folder=True)
    assert list(due.values()) == [old.id]
    new = create(site, SECOND)
    cancel.cancel(site.site, [new.id])
    site.slurm.finish(site.slurm_id(new))
    site.sync()
    assert site.now(new).stage is Stage.ENDED
    store.forget_ended(due)
    assert [record.slurm_name for record in store.all(9)] == [new.slurm_name]


def test_a_job_of_an_older_program_has_no_created_at(site: Offline) -> None:
    """Its `create` that is repeated is the same job; one for a job that UCloud made later is another."""
    old = create(site, None)
    made = int(old.created * 1000)
    assert create(site, made - 1000).slurm_name == create(site, made + 1000).slurm_name == old.slurm_name
    new = create(site, made + (OLDER_SECONDS + 1) * 1000)
    assert new.slurm_name != old.slurm_name
    site.sync()
    assert again(site, old).cancel_sent is not None


def test_peers_that_name_the_id_mean_the_newest(site: Offline) -> None:
    old = site.run(create(site, FIRST))
    consumer = site.run(create(site, FIRST, "4150", resources=[peer("db", "4101")]), "node002")
    assert "192.0.2.1 db\n" in site.view("4150").read_text()
    new = create(site, SECOND)
    moved = again(site, old)
    assert [each.job_id for each in site.now(consumer).peers] == [moved.id]
    late = create(site, FIRST, "4151", resources=[peer("db", "4101")])
    site.run(new, "node003")
    assert "192.0.2.3 db\n" in site.view(late.id).read_text()
    assert "192.0.2.3 db\n" not in site.view("4150").read_text()
    assert "192.0.2.3 job-4101\n" in site.shared
    with pytest.raises(InvalidInput, match="no such job"):
        create(site, THIRD, resources=[peer("db", "4101")])  # itself


def test_what_was_due_of_the_old_job_is_told_nobody(
    site: Offline, ucloud: Ucloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old job's end is about to be delivered when the new one comes."""
    ended(site)
    ucloud.know("4101")
    inner = site.site.store.due
    new: list[Record] = []

    def due(after: int, limit: int) -> list[Message]:
        messages = inner(after, limit)
        if not new:
            assert JobState.SUCCESS in {message.state for message in messages}
            new.append(create(site, SECOND))
        return messages

    monkeypatch.setattr(site.site.store, "due", due)
    assert site.site.receiver is not None
    deliver.deliver(site.site.store, site.site.receiver, site.site.clock())
    assert [update["status"] for update in ucloud.updates("4101")] == [new[0].status]


def test_a_duplicate_is_refused_but_not_because_of_the_job_that_makes_room(tmp_path: Path) -> None:
    site = Offline(tmp_path, {"gateway": {"refuse_duplicates": True}})
    old = create(site, FIRST)
    assert create(site, SECOND).slurm_name != old.slurm_name
    with pytest.raises(Duplicate):
        create(site, FIRST, "4102")


def test_slurm_is_away_after_the_new_job_came(site: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass that reaches Slurm ends the old job."""
    old = site.run(create(site, FIRST))
    new = create(site, SECOND)
    with monkeypatch.context() as patch:

        def away(*_: object) -> Any:
            raise TryAgain("away")

        patch.setattr(site.slurm, "queue", away)
        assert site.sync().problems != ()
    assert (again(site, old).state, again(site, old).cancel_requested) == (JobState.RUNNING, 0)
    for _ in range(2):
        assert site.sync().problems == ()
    assert (again(site, old).state, again(site, old).cancel_requested) == (JobState.SUCCESS, None)
    assert site.now(new).stage is Stage.SUBMITTED


def test_the_old_job_is_about_to_be_given_to_slurm_when_the_new_one_comes(
    site: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = site.site.store.take
    new: list[Record] = []

    def take(tokens: Sequence[str], now: float) -> list[Record]:
        if not new:
            new.append(create(site, SECOND, name="new") if not new else new[0])
        return inner(tokens, now)

    def create_once(tokens: Sequence[str], now: float) -> list[Record]:
        monkeypatch.setattr(site.site.store, "take", inner)
        return take(tokens, now)

    monkeypatch.setattr(site.site.store, "take", create_once)
    old = create(site, FIRST)
    assert old.slurm_name == new[0].slurm_name, "whoever asks for the id is told of the newest"
    assert [row.name for row in site.slurm.queue(["alice"]).observations] == [new[0].slurm_name]
    site.sync()
    [ended] = [record for record in site.site.store.all(9) if record.id != "4101"]
    assert (ended.state, ended.stage) == (JobState.SUCCESS, Stage.ENDED)


def test_calls_for_the_id_mean_the_newest(api: ApiSite) -> None:
    old_job, new_job = (api.job("4101") | {"createdAt": each} for each in (FIRST, SECOND))
    ids = [
        api.ask("POST", JOBS, {"items": [job]}, **api.as_ucloud()).json()["responses"][0]["id"]
        for job in (old_job, new_job, new_job)
    ]
    assert ids[0] != ids[1] == ids[2]
    offline = api.offline
    new = offline.site.store.get("4101")
    assert new.slurm_name == ids[1]
    # After a restart of UCloud's server every job has another createdAt.
    asked = new_job | {"createdAt": THIRD, "providerGeneratedId": new.slurm_name}
    [found] = find_own(offline.site, [Job.model_validate(asked)])
    assert found.slurm_name == new.slurm_name
    answer = api.ask("POST", f"{JOBS}/terminate", {"items": [asked]}, **api.as_ucloud())
    assert answer.status_code == 200

    def all_cancelled() -> bool:
        offline.sync()
        return {(each.stage, each.state) for each in offline.site.store.all(9)} == {(Stage.ENDED, JobState.SUCCESS)}

    wait_until(all_cancelled, "jobs live on")
    assert offline.site.store.get("4101").slurm_name == new.slurm_name


def test_a_bulk_of_which_one_id_is_known(api: ApiSite) -> None:
    first = api.job("4101") | {"createdAt": FIRST}
    second = [api.job(id_) | {"createdAt": SECOND} for id_ in ("4101", "4102")]
    for items in ([first], second, second):
        assert api.ask("POST", JOBS, {"items": items}, **api.as_ucloud()).status_code == 200
    store, slurm = api.offline.site.store, api.offline.slurm
    new = {record.slurm_name for record in store.find(["4101", "4102"]).values()}
    wait_until(lambda: new <= {each.slurm_name for each in slurm.submissions}, "Slurm never gets the new jobs")
    assert len(store.all(9)) == 3
    assert len({each.slurm_name for each in slurm.submissions}) == len(slurm.submissions) <= 3


def test_the_old_job_is_not_taken_for_the_new_one_by_those_who_look_after_jobs(
    site: Offline, ucloud: Ucloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UCloud denies the old job twice, and gives its id to the new one before the old one is cancelled."""
    old = site.run(create(site, FIRST))
    assert site.now(old).unknown_since is not None
    site.slurm.now += deleted_in_ucloud.UNKNOWN_SECONDS
    assert site.site.receiver is not None
    inner = site.site.receiver.exists
    new: list[Record] = []

    def exists(ids: Sequence[str]) -> frozenset[str]:
        answer = inner(ids)
        if not new:
            new.append(create(site, SECOND))
            ucloud.know("4101")
        return answer

    monkeypatch.setattr(site.site.receiver, "exists", exists)
    deleted_in_ucloud.end_orphans(site.site, site.site.receiver)
    assert new
    now = site.site.store.get("4101")
    assert (now.slurm_name, now.cancel_sent, now.deleted_in_ucloud) == (new[0].slurm_name, None, None)
    site.run(new[0])
    deliver.deliver(site.site.store, site.site.receiver, site.site.clock())
    assert ucloud.state("4101") == "RUNNING"
    site.sync()
    assert again(site, old).state is JobState.SUCCESS
