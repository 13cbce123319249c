"""What is done with jobs, over a Slurm in memory and a real file system: all of it, or nothing left behind."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.cluster import job_folders
from slurm_adapter.cluster.schedulers.interface import Accepted, NotStarted
from slurm_adapter.cluster.transports.interface import ConnectionLost, NotConnected
from slurm_adapter.core.errors import AdapterError, InvalidConfig, InvalidInput, NotFound, Refused, TryAgain, Unknown
from slurm_adapter.core.records import Stage
from slurm_adapter.core.specification import Owner
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import cancel
from slurm_adapter.jobs import submit as jobs
from slurm_adapter.jobs.caller import Caller
from slurm_adapter.jobs.cluster_facts import learn
from slurm_adapter.jobs.dispatch import MANY, dispatch
from slurm_adapter.state.claims import LEASE_SECONDS
from tests.offline import Offline, Tripping, offline, peer, tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurm_adapter.cluster.schedulers.interface import Outcome, Submission
    from slurm_adapter.cluster.transports.interface import Command, Transport
    from slurm_adapter.core.records import Record

__all__ = ["offline", "tiny"]


def nothing_is_left(site: Offline) -> bool:
    """No record, no folder, no view, no Slurm job."""
    job_folders = [path for account in ("alice", "bob") for path in (site.folder / "home" / account).iterdir()]
    return (site.site.store.all(99), job_folders, site.views, site.slurm.queue(["alice", "bob"]).observations) == (
        [], [], set(), ()
    )  # fmt: skip


def test_a_job_is_claimed_its_folder_made_and_slurm_has_it(offline: Offline) -> None:
    record = offline.job()
    assert (record.id, record.stage, record.state, record.slurm_id) == ("1", Stage.SUBMITTED, JobState.IN_QUEUE, 1)
    assert re.fullmatch(rf"{offline.site.store.instance}-local-1-[a-z][a-z2-7]{{7}}", record.slurm_name)
    folder = Path(record.folder)
    assert folder == offline.folder / "home" / "alice" / "1"
    assert {path.name for path in folder.iterdir()} == {".token", "job.sbatch", "node"}
    [submission] = offline.slurm.submissions
    assert (submission.slurm_name, submission.user, submission.folder) == (record.slurm_name, "alice", record.folder)
    directives = {directive.name: directive.value for directive in submission.directives}
    assert directives["job-name"] == directives["comment"] == record.slurm_name
    assert [update.status for update in offline.site.store.updates("1")] == [
        "Your job has been submitted to the queue (Slurm ID: 1)"
    ]


def test_the_script_in_the_folder_is_what_render_shows(offline: Offline) -> None:
    record = offline.job(parameters={})
    shown = jobs.render(offline.site, Owner(created_by="alice"), offline.item(parameters={}).specification)
    script = Path(record.folder, "job.sbatch").read_text()
    assert script == shown.replace("render-0", record.slurm_name).replace("/alice/0", "/alice/1").replace(
        "=0\n", "=1\n", 1
    )


@pytest.mark.scenario(89)
def test_render_touches_nothing(offline: Offline) -> None:
    offline.slurm.down = True
    jobs.render(offline.site, Owner(created_by="alice"), offline.item().specification)
    assert offline.transport.commands == []
    assert not (offline.folder / "state").exists()


# Peers


def test_a_peer_is_written_in_lower_case_everywhere(offline: Offline) -> None:
    database = offline.run(offline.job(), "node002")
    consumer = offline.job(resources=[peer("DataBase", database)])
    assert [each.hostname for each in consumer.peers] == ["database"]
    assert Path(consumer.folder, "node", "peers").read_text() == f"1 database {database.slurm_name}\n"
    assert offline.view(consumer.id).read_text() == (
        f"# consumer 2 peer 1 run 1.0 exit {database.folder}/exit.json\n192.0.2.2 database\n192.0.2.2 database-0\n"
    )
    directives = {directive.name: directive.value for directive in offline.slurm.submissions[1].directives}
    assert directives["dependency"] == "after:1"


def test_the_view_is_there_before_slurm_has_the_job(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    database = offline.job()
    inner = offline.slurm.submit

    def look(submissions: Sequence[Submission]) -> list[Outcome]:
        assert offline.views == {"2"}
        assert Path(submissions[0].folder, "job.sbatch").exists()
        assert offline.now_stage("2") is Stage.SUBMITTING
        return inner(submissions)

    monkeypatch.setattr(offline.slurm, "submit", look)
    assert offline.job(resources=[peer("db", database)]).slurm_id == 2


def test_a_consumer_of_a_peer_that_slurm_does_not_have_stays_claimed(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    database = offline.job()
    assert database.stage is Stage.SUBMITTING
    consumer = offline.job(resources=[peer("db", database)])
    assert (consumer.stage, consumer.state, len(offline.slurm.submissions)) == (Stage.CLAIMED, JobState.IN_QUEUE, 1)


NOBODYS = "there is no such job in this workspace"


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ([peer("db", "99")], rf"resources\[0\].jobId: '99': {NOBODYS}"),
        ([peer("db", "2")], rf"resources\[0\].jobId: '2': {NOBODYS}"),  # bob's
        ([peer("db", "3")], rf"resources\[0\].jobId: '3': {NOBODYS}"),  # alice's, in a project
        ([peer("db", "4")], r"resources\[0\].jobId: '4': this job has ended \(SUCCESS\)"),
        ([peer("db", "5")], r"resources\[0\].jobId: '5': this job is an array"),
        ([peer("a b", "1")], r"resources\[0\].hostname: .*'a b'"),
        ([peer("node001", "1")], r"resources\[0\].hostname: Invalid hostname: 'node001': this name belongs to a node"),
        ([peer("ldap", "1")], r"Invalid hostname: 'ldap'"),
        ([peer("db", "1"), peer("DB", "1")], r"Duplicate hostname detected: db"),
        ([peer("db", "1"), peer("db-1", "6")], r"Duplicate hostname detected: db-1"),
    ],
)
def test_peers_that_are_refused(tmp_path: Path, resources: list[dict[str, str]], words: str) -> None:
    site = Offline(tmp_path, {"peers": {"reserved": ["ldap"]}})
    site.job(replicas=2)
    site.job(user="bob")
    site.job(project="p")
    ended = site.job()
    site.job(application="array")
    site.job()
    site.slurm.finish(site.slurm_id(ended))
    site.sync()
    before = (len(site.site.store.all(99)), len(site.slurm.submissions), site.views)
    with pytest.raises(InvalidInput, match=words):
        site.job(resources=resources)
    assert (len(site.site.store.all(99)), len(site.slurm.submissions), site.views) == before


def test_members_of_a_project_may_name_each_others_jobs(offline: Offline) -> None:
    database = offline.job(project="p")
    consumer = offline.job(user="bob", project="p", resources=[peer("db", database)])
    assert (consumer.account, consumer.stage) == ("bob", Stage.SUBMITTED)
    for user, project in (("bob", "q"), ("bob", None), ("alice", None)):
        with pytest.raises(InvalidInput, match=NOBODYS):
            offline.job(user=user, project=project, resources=[peer("db", database)])


@pytest.mark.scenario(41)
def test_two_consumers_mean_different_jobs_by_one_name(offline: Offline) -> None:
    first, second = offline.run(offline.job(), "node001"), offline.run(offline.job(), "node002")
    for database, address in ((first, "192.0.2.1"), (second, "192.0.2.2")):
        consumer = offline.job(resources=[peer("database", database)])
        assert f"{address} database\n" in offline.view(consumer.id).read_text()
        assert f"{address} database.{consumer.id}.peers\n" in offline.shared


def test_one_process_at_a_time_writes_hosts_files(offline: Offline) -> None:
    database = offline.job()
    held: list[str] = []

    def before(command: Command) -> None:
        if "sha256sum" in "".join(command.argv):  # both the reading and the writing
            with (offline.folder / "state" / "hosts.lock").open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(command.argv[0])

    offline.transport.before = before
    offline.job(resources=[peer("db", database)])
    assert len(held) == 2
    with (offline.folder / "state" / "hosts.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Refusals leave nothing behind


def test_slurm_refuses(offline: Offline) -> None:
    offline.slurm.refuse_next("Invalid partition name specified")
    with pytest.raises(Refused, match="Slurm refused job 1: Invalid partition name specified"):
        offline.job("key")
    assert nothing_is_left(offline)
    assert offline.job("key").id == "2", "ids are not used again, and the key is free"


def test_slurm_refuses_a_consumer(offline: Offline) -> None:
    database = offline.job()
    offline.slurm.refuse_next("no")
    with pytest.raises(Refused):
        offline.job(resources=[peer("db", database)])
    assert offline.views == set()
    assert not (offline.folder / "home/alice/2").exists()


@pytest.mark.scenario(27)
def test_slurm_is_down(offline: Offline) -> None:
    offline.slurm.down = True
    with pytest.raises(TryAgain, match="Unable to contact slurm controller"):
        offline.job()
    offline.slurm.down = False
    assert nothing_is_left(offline)


@pytest.mark.scenario(27)
def test_slurm_goes_down_before_sbatch(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline.slurm, "submit", lambda given: [NotStarted("busy") for _ in given])
    with pytest.raises(TryAgain, match="job 1 could not be given to Slurm: busy"):
        offline.job()
    assert nothing_is_left(offline)


def drop(when: Callable[[Command], bool], error: type[AdapterError]) -> Callable[[Command], None]:
    """A tripwire."""

    def before(command: Command) -> None:
        if when(command):
            raise error("the connection broke")

    return before


@pytest.mark.parametrize("error", [NotConnected, ConnectionLost])
@pytest.mark.parametrize("part", [".ucloud-new.", "sha256sum", "find . -maxdepth"])
def test_the_cluster_goes_away_before_sbatch(offline: Offline, part: str, error: type[AdapterError]) -> None:
    database = offline.job()
    offline.transport.before = drop(lambda command: part in "".join(command.argv), error)
    with pytest.raises(TryAgain, match=r"job 2 was not given to Slurm: .*the connection broke"):
        offline.job("key", resources=[peer("db", database)])
    offline.transport.before = lambda _: None
    assert [record.id for record in offline.site.store.all(9)] == ["1"]
    assert len(offline.slurm.submissions) == 1
    assert not (offline.folder / "home/alice/2").exists()
    assert offline.views == set()


def test_the_cluster_goes_away_for_good_and_nothing_is_tried_later(offline: Offline) -> None:
    database = offline.job()
    commands: list[Command] = []

    def before(command: Command) -> None:
        commands.append(command)
        if len(commands) > 2:  # the system's names, the folder
            raise ConnectionLost("the connection broke")

    offline.transport.before = before
    with pytest.raises(TryAgain):
        offline.job(resources=[peer("db", database)])
    offline.transport.before = lambda _: None
    offline.sync()
    assert [record.id for record in offline.site.store.all(9)] == ["1"]
    assert len(offline.slurm.submissions) == 1


def test_the_shared_file_is_damaged(offline: Offline) -> None:
    database = offline.job()
    offline.sync()
    (offline.peers / "hosts").write_text("# END slurm-adapter\n")
    with pytest.raises(TryAgain, match="keep one pair"):
        offline.job(resources=[peer("db", database)])
    assert len(offline.site.store.all(9)) == 1
    assert offline.job().stage is Stage.SUBMITTED, "one without peers needs no hosts file"


def test_an_id_whose_folder_is_there_is_skipped(offline: Offline) -> None:
    """The database is lost, and the user's old job folders are there; whatever they are."""
    home = offline.folder / "home/alice"
    for name in ("1", "2", "4"):
        (home / name).mkdir()
    (home / "3").symlink_to("nowhere")
    (home / "6").write_text("mine")
    (home / "1" / "x").write_text("mine")
    assert [record.id for record in offline.submit(*(offline.item() for _ in range(3)))] == ["5", "7", "8"]
    assert [path.name for path in (home / "1").iterdir()] == ["x"]
    assert offline.job(user="bob").id == "9"
    assert offline.job().id == "10"


OTHER = 12345
"""An account that is nobody here: the files of a test belong to root, as whom it runs."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("owners", "error", "hint"),
    [
        # What is there of the way to alice's folders, and whether it is hers.
        ({"home": False}, TryAgain, "is its file system mounted"),
        ({"home": False, "home/alice": False}, TryAgain, "is its file system mounted"),
        ({}, TryAgain, "is its file system mounted"),
        ({"home": False, "home/alice": True}, InvalidConfig, "make it as this account: mkdir -m 700 "),
        ({"home": False, "home/alice": True, "home/alice/jobs": "file"}, InvalidConfig, "is not a folder"),
        ({"home": False, "home/alice": True, "home/alice/jobs": "link"}, TryAgain, "is its file system mounted"),
    ],
)
def test_where_job_folders_belong_is_away(
    tmp_path: Path, owners: dict[str, object], error: type[AdapterError], hint: str
) -> None:
    """The shared file system, or one user's home, is away: 75, and try again. What its user can fix is told so."""
    site = Offline(tmp_path, {"jobs": {"folder": f"{tmp_path}/far/home/{{user}}/jobs/{{id}}"}})
    far = tmp_path / "far"
    (far).mkdir()
    os.chown(far, OTHER, OTHER)
    for name, own in owners.items():
        path = far / name
        if own == "file":
            path.touch()
        elif own == "link":
            path.symlink_to(far / "scratch" / "alice")
        else:
            path.mkdir()
            os.chown(path, 0 if own else OTHER, -1)
    with pytest.raises(error, match=hint):
        site.job()
    assert site.site.store.all(9) == []
    (far / "home/alice/jobs").unlink(missing_ok=True)
    (far / "home/alice/jobs").mkdir(parents=True)
    assert site.job().slurm_id == 1


@pytest.mark.parametrize(
    "words",
    [
        "Stale file handle", "Input/output error", "Read-only file system", "Transport endpoint is not connected",
        "Host is down", "No such device", "Disk quota exceeded", "Remote I/O error", "Key has expired",
    ],
)  # fmt: skip
def test_a_file_system_that_is_broken_is_not_the_configurations_fault(
    offline: Offline, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(job_folders, "make", lambda *_: [f"mktemp: failed to create directory: {words}"])
    with pytest.raises(TryAgain, match=f"{words}; try again"):
        offline.job()


def test_a_folder_that_appears_meanwhile(offline: Offline) -> None:
    """Two sites make jobs' folders in one place: the one that comes second takes the next id."""
    mine = offline.folder / "home/alice/1"

    def before(command: Command) -> None:
        if ".ucloud-new." in "".join(command.argv):
            mine.mkdir(exist_ok=True)
            (mine / "x").write_text("mine")

    offline.transport.before = before
    with pytest.raises(TryAgain, match=r"could not be made as alice: .*File exists; try again"):
        offline.job()
    assert offline.site.store.all(9) == []
    assert [path.name for path in mine.iterdir()] == ["x"]
    assert offline.job().id == "2"


def test_bad_input_reaches_nobody(offline: Offline) -> None:
    for fields in ({"replicas": 99}, {"hostname": "x"}, {"application": "none"}, {"resources": [{"type": "network"}]}):
        with pytest.raises(InvalidInput):
            offline.job(**fields)
    with pytest.raises(InvalidInput, match="no account"):
        offline.job(user="mallory")
    assert nothing_is_left(offline)
    assert offline.site.store.reserve_ids(1, 1) == ["1"] or offline.slurm.submissions == []


# Keys


def test_the_same_key_is_the_same_job(offline: Offline) -> None:
    first = offline.job("key")
    assert offline.job("key").id == first.id
    offline.run(first)
    offline.slurm.finish(offline.slurm_id(first))
    offline.sync()
    offline.slurm.down = True  # what is known needs no cluster
    again = offline.job("key")
    assert (again.id, again.state, len(offline.slurm.submissions)) == (first.id, JobState.SUCCESS, 1)
    with pytest.raises(InvalidInput, match="the key 'key' belongs to job 1, which has another specification"):
        offline.job("key", name="another")


def test_a_job_without_a_key_is_not_the_one_with_an_empty_key(offline: Offline) -> None:
    first, second = jobs.submit(offline.site, Owner(created_by="alice"), [offline.item(""), offline.item(None)])
    again, third = jobs.submit(offline.site, Owner(created_by="alice"), [offline.item(""), offline.item(None)])
    assert again.id == first.id
    assert len({first.id, second.id, third.id}) == 3


def test_a_key_is_its_owners(offline: Offline) -> None:
    ids = {
        offline.job("key").id,
        offline.job("key", user="bob").id,
        offline.job("key", project="p").id,
        offline.job().id,
        offline.job().id,
    }
    assert len(ids) == 5


def test_the_same_key_at_the_same_time(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    # While the first is being handed over, a second process comes with the same key; then Slurm refuses.
    other = offline.open()
    inner = offline.slurm.submit
    meanwhile: list[Record] = []

    def submit(given: Sequence[Submission]) -> list[Outcome]:
        meanwhile.extend(jobs.submit(other, Owner(created_by="alice"), [offline.item("key")]))
        return inner(given)

    monkeypatch.setattr(offline.slurm, "submit", submit)
    assert offline.job("key").id == "1"
    assert [(record.id, record.stage) for record in meanwhile] == [("1", Stage.SUBMITTING)]
    assert len(offline.slurm.submissions) == 1


def test_the_same_key_while_the_first_is_being_refused(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second call has found no key yet, the first one claims and is refused, and the claim is gone again.
    claim = offline.site.store.claim

    def meanwhile(*arguments: Any) -> list[Record]:
        kept = offline.open()
        offline.slurm.refuse_next("no")
        with pytest.raises(Refused):
            jobs.submit(kept, Owner(created_by="alice"), [offline.item("key")])
        return claim(*arguments)

    monkeypatch.setattr(offline.site.store, "claim", meanwhile)
    assert offline.job("key").stage is Stage.SUBMITTED


# Bulk


def test_a_bulk_is_handed_over_by_one_call(offline: Offline) -> None:
    records = offline.submit(*(offline.item(f"k/{number}") for number in range(20)))
    assert [record.id for record in records] == [str(number) for number in range(1, 21)]
    assert {record.stage for record in records} == {Stage.SUBMITTED}
    assert sum(".ucloud-new." in "".join(command.argv) for command in offline.transport.commands) == 1


def test_a_bad_item_of_a_bulk_refuses_all(offline: Offline) -> None:
    with pytest.raises(InvalidInput, match=r"^items\[1\]\.replicas: 99"):
        offline.submit(offline.item(), offline.item(replicas=99))
    with pytest.raises(InvalidInput, match=r"^items\[1\]\.resources\[0\]\.jobId"):
        offline.submit(offline.item(), offline.item(resources=[peer("db", "9")]))
    assert nothing_is_left(offline)


def test_one_of_a_bulk_that_slurm_refuses_ends_and_the_others_run(offline: Offline) -> None:
    offline.slurm.refuse_next("no such account")
    first, second = offline.submit(offline.item(), offline.item())
    assert (first.state, first.stage, second.stage) == (JobState.FAILURE, Stage.ENDED, Stage.SUBMITTED)
    assert first.status == "Slurm refused job 1: no such account"


def test_a_bulk_of_which_slurm_refuses_all_leaves_nothing(offline: Offline) -> None:
    offline.slurm.refuse_next("no")
    offline.slurm.refuse_next("no")
    with pytest.raises(Refused, match="nothing of all this was submitted"):
        offline.submit(offline.item(), offline.item())
    assert nothing_is_left(offline)


def test_one_of_a_bulk_that_could_not_be_handed_over_is_tried_again(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(offline.slurm, "submit", lambda _: [Accepted(99), NotStarted("busy")])
        first, second = offline.submit(offline.item(), offline.item())
    assert (first.stage, second.stage) == (Stage.SUBMITTED, Stage.CLAIMED)
    assert second.status == "Your job waits until it can be submitted to Slurm"
    offline.sync()
    assert offline.now(second).slurm_id == 1


def test_trouble_with_one_account_is_not_the_others(offline: Offline) -> None:
    # Claims of two accounts that a pass hands over; sudo refuses one of them.
    offline.slurm.lose_next("later")
    database = offline.job(project="p")
    for user in ("alice", "bob"):
        offline.job(user=user, project="p", resources=[peer("db", database)])
    offline.slurm.arrive()
    offline.transport.before = drop(
        lambda each: each.user == "alice" and ".ucloud-new." in str(each.argv), NotConnected
    )
    assert offline.sync().problems == ()
    assert offline.now(offline.site.store.get("2")).trouble == "job 2 was not given to Slurm: the connection broke"
    assert [offline.now_stage(id_) for id_ in "123"] == [Stage.SUBMITTED, Stage.CLAIMED, Stage.SUBMITTED]
    offline.transport.before = lambda _: None
    offline.sync()
    assert offline.now_stage("2") is Stage.CLAIMED, "an account in trouble is left alone for a while"
    offline.sync(60)
    assert offline.now_stage("2") is Stage.SUBMITTED


# Cancel


def test_a_job_is_cancelled(offline: Offline) -> None:
    record = offline.run(offline.job())
    [cancelled] = cancel.cancel(offline.site, [record.id])
    assert (cancelled.stage, cancelled.cancel_sent is not None) == (Stage.SUBMITTED, True)
    assert offline.slurm.see(1).state == "CANCELLED"
    offline.sync()
    assert (offline.now(record).state, offline.now(record).status) == (JobState.SUCCESS, "Your job was cancelled")
    assert [each.state for each in cancel.cancel(offline.site, [record.id, record.id])] == [JobState.SUCCESS]


def test_an_unknown_job_cancels_nothing(offline: Offline) -> None:
    record = offline.job()
    with pytest.raises(NotFound):
        cancel.cancel(offline.site, [record.id, "99"])
    assert offline.now(record).cancel_sent is None


@pytest.mark.scenario(72)
@pytest.mark.parametrize(
    "id_", ["a/b", "'; rm -rf /", "", "../1", "1/../1", "$(id)", "1\n", " 1", "01", "-1", "\u0661", "1" * 4000]
)
def test_what_is_no_id_is_unknown_and_runs_nothing(offline: Offline, id_: str) -> None:
    record = offline.job()
    before = list(offline.transport.commands)
    for ask in (
        lambda: cancel.cancel(offline.site, [id_]),
        lambda: cancel.cancel(offline.site, [record.id, id_]),
        lambda: offline.site.store.get(id_),
    ):
        with pytest.raises(NotFound):
            ask()
    assert offline.transport.commands == before
    assert (offline.now(record).cancel_sent, offline.slurm.see(1).state) == (None, "PENDING")


def test_slurm_is_down_when_a_cancel_is_asked_for(offline: Offline) -> None:
    record = offline.run(offline.job())
    offline.slurm.down = True
    with pytest.raises(TryAgain):
        cancel.cancel(offline.site, [record.id])
    offline.slurm.down = False
    assert offline.now(record).cancel_sent is None, "it was not cancelled, and its failure is a failure"


@pytest.mark.edge_case(10)
@pytest.mark.scenario(63, 71)
def test_a_strangers_job_under_the_same_id_is_left_alone(offline: Offline) -> None:
    record = offline.job()
    offline.job(user="bob")
    offline.slurm.change(1, user="bob")
    cancel.cancel(offline.site, [record.id])
    assert offline.slurm.see(1).state == "PENDING"


@pytest.mark.scenario(71)
def test_a_job_under_a_strange_name_is_left_alone_and_said_to_be(offline: Offline) -> None:
    record = offline.job()
    other = offline.job()
    offline.slurm.change(1, name="a stranger's")
    with pytest.raises(Refused, match=f"JobId=1 JobName={record.slurm_name}"):
        cancel.cancel(offline.site, [record.id, other.id])
    assert (offline.slurm.see(1).state, offline.slurm.see(2).state) == ("PENDING", "CANCELLED")
    assert offline.now(record).cancel_sent is None


def test_a_claim_that_waits_for_its_peer_ends_at_once(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    database = offline.job()
    consumer = offline.job(resources=[peer("db", database)])
    offline.sync()
    assert offline.views == {consumer.id}
    [ended] = cancel.cancel(offline.site, [consumer.id])
    assert (ended.state, ended.stage, ended.status) == (JobState.SUCCESS, Stage.ENDED, "Your job was cancelled")
    offline.sync()
    assert offline.views == set()
    assert len(offline.slurm.submissions) == 1


def test_a_cancel_in_doubt_fences_first(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    record = offline.job()
    [ended] = cancel.cancel(offline.site, [record.id])
    assert (ended.state, ended.stage) == (JobState.SUCCESS, Stage.ENDED)
    assert Path(record.folder, "owner").readlink() == Path("cancelled")
    [late] = offline.slurm.arrive()
    other = offline.job()  # something to make a pass for
    offline.sync()
    assert offline.slurm.see(late).state == "CANCELLED"
    assert offline.slurm.see(offline.slurm_id(other)).state == "PENDING"


def test_a_cancel_in_doubt_of_a_job_that_runs_already(offline: Offline) -> None:
    offline.slurm.lose_next("now")
    record = offline.job()
    offline.fence(record, 1)
    offline.slurm.start(1)
    [cancelled] = cancel.cancel(offline.site, [record.id])
    assert (cancelled.stage, cancelled.slurm_id) == (Stage.SUBMITTED, 1)
    assert offline.slurm.see(1).state == "CANCELLED"


def test_a_cancel_in_doubt_that_cannot_be_fenced_says_so_and_does_the_rest(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    record, other = offline.job(), offline.job()
    Path(record.folder, "owner").write_text("no link")
    with pytest.raises(AdapterError, match="not cancelled, because it is unknown whether Slurm has them"):
        cancel.cancel(offline.site, [record.id, other.id])
    assert offline.now(record).stage is Stage.SUBMITTING
    assert offline.slurm.see(offline.slurm_id(other)).state == "CANCELLED"


@pytest.mark.parametrize("ended", [True, False])
def test_the_folder_is_told_once_though_the_answer_was_lost(tmp_path: Path, ended: bool) -> None:  # noqa: FBT001  # of a table
    offline = Offline(tmp_path, {"drives": [{"id": "77", "path": f"{tmp_path}/home/alice"}]})
    offline.slurm.lose_next("now")
    record = offline.job()
    [seen] = offline.slurm.queue([record.account]).observations
    if ended:
        offline.fence(record, seen.slurm_id)
        offline.slurm.start(seen.slurm_id)
        offline.slurm.finish(seen.slurm_id)
    for _ in range(2):
        offline.sync()
        told = [each.more.get("outputFolder") for each in offline.site.store.updates(record.id)]
        assert [each for each in told if each] == [f"/77/{record.id}"]
    offline.site.store.close()


def test_an_account_that_cannot_be_fenced_holds_up_no_other(offline: Offline) -> None:
    offline.slurm.lose_next("never")
    hers, his = offline.job(), offline.job(user="bob")

    def refuse(command: Command) -> None:
        if command.user == hers.account:
            raise Unknown("sudo says no")

    offline.transport.before = refuse
    with pytest.raises(Unknown, match=r"fencing them failed: 1 in .*\n.*sudo says no"):
        cancel.cancel(offline.site, [hers.id, his.id])
    assert offline.now(hers).stage is Stage.SUBMITTING
    assert offline.slurm.see(offline.slurm_id(his)).state == "CANCELLED"


def test_a_cancel_of_a_claim_that_was_handed_over_before_is_in_doubt_too(offline: Offline) -> None:
    offline.slurm.lose_next("later")
    record = offline.job()
    [back] = offline.site.store.change([(record, {"stage": Stage.CLAIMED})], 1.0)
    [ended] = cancel.cancel(offline.site, [back.id])
    assert ended.stage is Stage.ENDED
    assert Path(record.folder, "owner").readlink() == Path("cancelled")


def test_a_user_cannot_make_the_adapter_stumble_by_his_fence(offline: Offline) -> None:
    for target in ("9" * 30, "x\ny", "-1", "0"):
        offline.slurm.lose_next("later")
        record = offline.job()
        Path(record.folder, "owner").symlink_to(target)
        with pytest.raises(AdapterError, match="not cancelled"):
            cancel.cancel(offline.site, [record.id])


def test_a_job_that_a_pass_hands_over_while_it_is_cancelled(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    offline.slurm.lose_next("later")
    database = offline.job()
    consumer = offline.job(resources=[peer("db", database)])
    offline.slurm.arrive()
    change = offline.site.store.change

    def meanwhile(*arguments: Any) -> list[Record]:
        monkeypatch.setattr(offline.site.store, "change", change)
        other = offline.open()
        offline.site, kept = other, offline.site
        offline.sync()
        offline.sync()
        offline.site = kept
        assert offline.now(consumer).stage is Stage.SUBMITTED
        return change(*arguments)

    monkeypatch.setattr(offline.site.store, "change", meanwhile)
    cancel.cancel(offline.site, [consumer.id])
    assert offline.slurm.see(offline.slurm_id(consumer)).state == "CANCELLED"


# Crashes


class Crash(BaseException):
    """The process is gone, there and then."""


def crash_at(site: Offline, step: int, when: str) -> list[str]:
    """Let the process end before or after its `step`-th effect; what effects there were."""
    effects: list[str] = []

    def wrap(holder: Any, name: str) -> None:
        inner = getattr(holder, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            effects.append(name)
            mine = len(effects)
            if (mine, when) == (step, "before"):
                raise Crash
            result = inner(*arguments, **named)
            if (mine, when) == (step, "after"):
                raise Crash
            return result

        setattr(holder, name, wrapped)

    for name in ("claim", "take", "change", "forget", "note_hosts_written"):
        wrap(site.site.store, name)
    wrap(site.site.transport, "run")
    wrap(site.site.scheduler, "submit")
    return effects


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("refused", [False, True])
def test_a_crash_at_any_step_of_a_submission_leads_to_one_job_or_none(
    tmp_path: Path, when: str, refused: object
) -> None:
    step = 1
    while True:
        folder = tmp_path / str(step)
        folder.mkdir()
        site = Offline(folder)
        database = site.run(site.job())
        plain_submit = site.slurm.submit
        if refused:
            site.slurm.refuse_next("no")
        effects = crash_at(site, step, when)
        crashed = False
        try:
            site.job("key", resources=[peer("db", database)])
        except Crash:
            crashed = True
        except Refused:
            assert refused
        setattr(site.slurm, "submit", plain_submit)  # noqa: B010  # mypy knows that a method is not assigned
        site.site = site.open()
        for _ in range(12):
            site.sync(after=60)
        consumers = [record for record in site.site.store.all(9) if record.peers]
        where = f"{when} step {step}: {effects}"
        found = [row for row in site.slurm.queue(["alice"]).observations if row.slurm_id != 1]
        live = [record for record in consumers if record.stage is not Stage.ENDED]
        assert len(live) == len(found) <= 1, where
        assert site.views == {record.id for record in live}, where
        if live:
            assert (live[0].stage, live[0].slurm_id) == (Stage.SUBMITTED, found[0].slurm_id), where
            assert "192.0.2.1 db\n" in site.view(live[0].id).read_text(), where
        with suppress(Refused):  # the refusal, where the crash was before it
            site.job("key", resources=[peer("db", database)])
        again = site.job("key", resources=[peer("db", database)])
        made = [row for row in site.slurm.queue(["alice"]).observations if row.name == again.slurm_name]
        if again.stage is Stage.ENDED:
            assert (refused, made, again.status) == (True, [], "Slurm refused job 2: no"), where
        else:
            assert len(made) == 1, where
        if not crashed:
            break
        step += 1
    assert step > 8


def test_claim_that_waited_longer_than_its_lease_is_left_to_the_sync_that_leased_it(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway gathers claims while sbatch runs for others of the account. A sync may be faster."""
    facts = learn(offline.site)
    _, [record] = jobs.claim(offline.site, Owner(created_by="alice"), [offline.item()], facts, Caller())
    late = offline.open()
    submit_plainly = offline.slurm.submit
    commands: list[str] = []

    def submit(given: Sequence[Submission]) -> list[Outcome]:
        if not commands:
            commands.append("sbatch of the sync")
            monkeypatch.setattr(late.transport, "before", lambda command: commands.append(str(command.argv)))
            assert dispatch(late, [record]) == {}
        return submit_plainly(given)

    monkeypatch.setattr(offline.slurm, "submit", submit)
    assert offline.sync(after=LEASE_SECONDS).submitted == (record.id,)
    assert commands == ["sbatch of the sync"]
    assert len(offline.slurm_jobs(record)) == 1


def test_claim_that_a_sync_has_leased_is_not_removed(offline: Offline) -> None:
    """The sync makes its folder just now, which nothing would remove without the claim."""
    with offline.open() as other:

        def fail(command: Command) -> None:
            if ".ucloud-new." in "".join(command.argv):
                offline.slurm.now += LEASE_SECONDS
                assert other.store.lease(other.store.active(), offline.slurm.now + LEASE_SECONDS)
                raise ConnectionLost("too late")

        offline.transport.before = fail
        record = offline.job()
    offline.transport.before = lambda _: None
    assert record.stage is Stage.CLAIMED
    assert offline.sync(after=LEASE_SECONDS).submitted == (record.id,)


def test_a_pass_that_overtakes_a_submission_makes_no_second_job(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pass takes the claim while the submission has made the folder only; then the folder fails the submission.
    other = offline.open()
    inner = offline.transport.run

    def run(command: Command) -> Any:
        if ".ucloud-new." in "".join(command.argv):
            monkeypatch.setattr(offline.site.transport, "run", inner)
            kept, offline.site = offline.site, other
            offline.sync(after=LEASE_SECONDS)
            offline.site = kept
            raise ConnectionLost("too late")
        return inner(command)

    assert isinstance(offline.site.transport, Tripping)
    monkeypatch.setattr(offline.site.transport, "run", run)
    record = offline.job()  # Slurm has it: a refusal would have it handed in again, as another job
    assert offline.site.store.all(9) == [record]
    assert (record.stage, record.slurm_id) == (Stage.SUBMITTED, 1)
    assert Path(record.folder, "job.sbatch").exists(), "a job that Slurm has keeps its folder"


def test_an_account_for_jobs_is_never_root(tmp_path: Path) -> None:
    site = Offline(tmp_path, {"identity": {"users": {}, "pattern": "{user}"}})
    for user in (
        "root",
        "-x",
        "#0",
        "0",
        "123",
        "+0",
        "..",
        ".x",
        "../etc",
        "a/b",
        "a,b",
        "a:b",
        " a",
        "a ",
    ):
        with pytest.raises(InvalidInput):
            site.job(user=user)
    assert site.slurm.submissions == []


@pytest.mark.parametrize(
    "account",
    [
        "Alice.B",
        "a@ad.example.org",
        "DOM\\user",
        "2fast",
        "host$",
        "john doe",
        "o'neil",
        "per%cent",
        "$(x)`y`;z",
        "Ärger",
        "x" * 40,
    ],
)
def test_an_account_is_called_what_the_cluster_calls_it(tmp_path: Path, account: str) -> None:
    """Account names with capitals, `@`, a backslash, a first digit, dots, `$`, blanks: from submission to the end."""
    site = Offline(tmp_path, {"identity": {"users": {"alice": account}}, "peers": {"private": True}})
    (tmp_path / "home" / account).mkdir()
    stub = f"#!/bin/sh\ncase $* in -u) echo {os.geteuid()} ;; *munge) exit 1 ;; *) echo 7701 ;; esac\n"
    (tmp_path / "bin" / "id").write_text(stub)
    server = site.run(site.job())
    assert server.folder == f"{tmp_path}/home/{account}/{server.id}"
    consumer = site.job(resources=[peer("db", server)])
    assert "db" in (Path(consumer.folder) / "hosts").read_text()
    assert {command.user for command in site.transport.commands} <= {account, None}
    cancel.cancel(site.site, [consumer.id])
    site.record_exit(server, 0)
    site.slurm.finish(site.slurm_id(server))
    assert site.sync().problems == ()
    assert site.now(server).state.final
    assert (Path(server.folder) / "owner").readlink() == Path("closed")


def test_what_is_kept_of_a_specification_is_json(offline: Offline) -> None:
    record = offline.job(name="a name", labels={"Key": "value"})
    assert json.loads(record.specification)["name"] == "a name"
    assert json.loads(record.labels) == {"key": "value"}
    assert os.path.basename(record.folder) == record.id  # noqa: PTH119  # a path of the cluster's


@pytest.mark.scenario(88)
def test_a_full_file_system_ends_no_claim_that_waits(offline: Offline, tiny: Path) -> None:
    home = offline.folder / "home" / "alice"
    home.rmdir()
    home.symlink_to(tiny)
    offline.slurm.lose_next("later")
    database = offline.job()
    waits = offline.job(resources=[peer("db", database)])
    ballast = tiny / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    offline.slurm.arrive()
    report = offline.sync()
    assert report.problems == (), "one account's quota looks the same"
    assert "of job 2 could not be made as alice" in report.account_problems[0]
    assert offline.now(waits).stage is Stage.CLAIMED
    with pytest.raises(TryAgain, match="could not be made as alice"):
        offline.job()
    ballast.unlink()
    assert offline.sync().problems == ()
    assert offline.now(waits).stage is Stage.SUBMITTED
    assert {path.name for path in tiny.iterdir()} == {"1", "2"}


def test_many_jobs_take_no_more_commands_than_one(offline: Offline) -> None:
    """Over SSH each command is a round trip. Slurm's own are in bulk by the scheduler's port."""

    def commands(act: Callable[[], object]) -> int:
        before = len(offline.transport.commands)
        act()
        return len(offline.transport.commands) - before

    server = offline.run(offline.job())
    peers = [{"type": "peer", "hostname": "server", "jobId": server.id}]
    made: list[Record] = []
    counts = []
    for number in (1, 40):
        items = [offline.item(resources=peers) for _ in range(number)]
        submitted = commands(lambda items=items: made.extend(offline.submit(*items)))  # type: ignore[misc]  # mypy infers no lambda with a default
        ids = [record.id for record in made[-number:]]
        passed = commands(offline.sync)
        cancelled = commands(lambda ids=ids: cancel.cancel(offline.site, ids))  # type: ignore[misc]  # as above
        ended = commands(offline.sync)
        counts.append((submitted, passed, cancelled, ended))
    assert counts[0] == counts[1]


def test_a_job_takes_five_commands(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account's uid, whether Slurm answers and which folder is free, before the claim; then folder, and sbatch."""
    asked: list[str] = []

    def ask(name: str, inner: Callable[..., Any], *arguments: Any) -> Any:
        asked.append(name)
        return inner(*arguments)

    for name in ("submit", "nodes", "addresses", "queue", "history"):
        monkeypatch.setattr(offline.slurm, name, partial(ask, name, getattr(offline.slurm, name)))
    offline.transport.before = lambda _: asked.append("folder")
    offline.job()
    assert asked == ["folder", "nodes", "folder", "folder", "submit"]
    del asked[:]
    offline.job()
    assert asked == ["nodes", "folder", "folder", "submit"]  # the uid is known for a minute


def test_the_commands_of_a_large_bulk_do_not_grow_with_it(offline: Offline) -> None:
    offline.job()  # which asks for the account's uid
    counts = []
    for number in (MANY, 3 * MANY):
        before = len(offline.transport.commands)
        offline.submit(*(offline.item() for _ in range(number)))
        counts.append(len(offline.transport.commands) - before)
    assert counts[0] == counts[1] == 4


def test_folders_are_made_while_sbatch_runs_for_jobs_before(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sbatch for the first jobs waits here for the folders of the next ones."""
    make, submit = job_folders.make, offline.slurm.submit
    made_folders: Queue[int] = Queue()
    handed_in: list[int] = []

    def tell(transport: Transport, user: str, wanted: Sequence[job_folders.NewFolder]) -> list[str | None]:
        answers = make(transport, user, wanted)
        made_folders.put(len(wanted))
        return answers

    def wait_for_folders(submissions: Sequence[Submission]) -> list[Outcome]:
        handed_in.append(len(submissions))
        if len(handed_in) == 1:
            assert [made_folders.get(timeout=60) for _ in range(2)] == [10, 30]
        assert all(Path(each.folder).is_dir() for each in submissions)
        return submit(submissions)

    monkeypatch.setattr(job_folders, "make", tell)
    monkeypatch.setattr(offline.slurm, "submit", wait_for_folders)
    made = offline.submit(*(offline.item() for _ in range(MANY)))
    assert handed_in == [10, 30, 60]
    assert [record.slurm_id for record in made] == list(range(1, MANY + 1))


def test_a_controller_that_is_lost_within_a_bulk_is_not_asked_for_the_rest(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part would wait for it anew. The first jobs run, and the others are handed in by the next pass."""
    submit = offline.slurm.submit
    asked: list[int] = []

    def lose(submissions: Sequence[Submission]) -> list[Outcome]:
        asked.append(len(submissions))
        first = submit(submissions[:-1])
        offline.slurm.down = True
        return [*first, *submit(submissions[-1:])]

    monkeypatch.setattr(offline.slurm, "submit", lose)
    made = offline.submit(*(offline.item() for _ in range(MANY)))
    assert asked == [10]
    assert Counter(record.stage for record in made) == {Stage.SUBMITTED: 9, Stage.CLAIMED: MANY - 9}
    monkeypatch.undo()
    offline.slurm.down = False
    assert offline.sync().problems == ()
    assert {offline.now(record).stage for record in made} == {Stage.SUBMITTED}
    assert len(offline.slurm.submissions) == MANY


def test_one_accounts_trouble_does_not_hold_up_the_jobs_of_another(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims of both were left behind, and nothing of alice's can be handed in: bob's are, in the same pass."""
    submit = offline.slurm.submit

    def refuse_alice(submissions: Sequence[Submission]) -> list[Outcome]:
        return [NotStarted("no sudo") if each.user == "alice" else submit([each])[0] for each in submissions]

    monkeypatch.setattr(offline.slurm, "submit", refuse_alice)
    with monkeypatch.context() as away:
        away.setattr(offline.slurm, "nodes", dict)
        away.setattr(offline.site.store, "take", lambda *_: [])
        hers = offline.submit(*(offline.item() for _ in range(MANY // 2)))
        his = offline.submit(*(offline.item() for _ in range(MANY // 2)), user="bob")
    assert {record.stage for record in (*hers, *his)} == {Stage.CLAIMED}
    offline.sync(LEASE_SECONDS)
    assert {offline.now(record).stage for record in hers} == {Stage.CLAIMED}
    assert {offline.now(record).stage for record in his} == {Stage.SUBMITTED}
