"""An application starts once, however many Slurm jobs were made for its job: on a real Slurm.

Counted is what started, not what Slurm has: each run of the application adds a line to a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import cancel
from slurm_adapter.sandbox.processes import run_on
from tests.adapter import UNTIL_TOLD
from tests.faults import COUNT, SHORT_TIMEOUT, Faulty, faulty, is_sbatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.cluster.transports.interface import Command
    from slurm_adapter.core.records import Record
    from tests.sandbox_cluster import Cluster

__all__ = ["faulty"]

pytestmark = pytest.mark.sandbox

ARRAY = """
application: v2
name: counted-array
version: "1"
software: {type: Native, load: []}
features: {}
parameters:
  code: {type: TextArea, optional: false}
sbatch: {array: 0-2}
invocation: bash -c {{ code }}
"""


@pytest.fixture
def resumed(cluster: Cluster) -> Iterator[None]:
    """Whatever happens: the controller goes on afterwards."""
    yield
    cluster.slurmctld.resume()


def stall_at_sbatch(faulty: Faulty) -> None:
    """Let the controller stall when sbatch is about to be started, and the clock end sbatch soon."""

    def before(command: Command) -> None:
        if is_sbatch(command):
            faulty.cluster.slurmctld.pause()

    faulty.tripping.before = before
    faulty.put(timeout=SHORT_TIMEOUT)


def go_on(faulty: Faulty) -> None:
    """Let the controller go on, and everything be as it should."""
    faulty.tripping.before = lambda _: None
    faulty.cluster.slurmctld.resume()
    faulty.heal()


NO_ROWS = """
printf '%160s|%96s|%s\\n' NAME REASON \
    'JOBID|STATE|NODELIST|UID|SUBMIT_TIME|START_TIME|END_TIME|TIME_LIMIT|EXIT_CODE|RESTART_COUNT'
"""
"""A squeue that has asked nobody, and prints the header of what it was asked for."""


def deafen(faulty: Faulty) -> None:
    """Let a look-up answer, in good health, that there is nothing: as a controller does that has stalled."""
    shown = faulty.cluster.ask("scontrol", "show", "config", user="ucloud")
    nodes = faulty.cluster.ask("scontrol", "-o", "show", "node", user="ucloud")
    cases = f"config) cat <<'END'\n{shown}\nEND\n;;\n*) cat <<'END'\n{nodes}\nEND\n;;"
    faulty.put(squeue=NO_ROWS, scontrol=f'case "$*" in\n*{cases}\nesac')


def lost_submission(faulty: Faulty, code: str = COUNT, begin: str = "") -> Record:
    """A job whose sbatch was killed while the controller was stalled; it is stalled still."""
    stall_at_sbatch(faulty)
    record = faulty.hand_in(faulty.shell(code, begin=begin))
    assert (record.stage, record.state) == (Stage.SUBMITTING, JobState.IN_QUEUE)
    return record


def start(faulty: Faulty, slurm_id: int | None) -> None:
    """Let a Slurm job that was held back begin."""
    faulty.cluster.ask("scontrol", "update", f"JobId={slurm_id}", "StartTime=now")


def requeue(faulty: Faulty, record: Record) -> None:
    """Let the job's own user put it back into the queue. When it starts again is left to Slurm.

    Told to start at once, it may start before its former run's credential has lapsed, and a node refuses that.
    """
    faulty.cluster.ask("scontrol", "requeue", str(record.slurm_id))
    faulty.cluster.wait_state(str(record.slurm_id), "PENDING")


def ended_once(faulty: Faulty, record: Record) -> Record:
    """Make passes until the job is final, and see that it ran once, and well."""
    [record] = faulty.until_ended(record)
    assert (record.state, record.exit_code) == (JobState.SUCCESS, 0), record
    faulty.until_slurm_is_done(record)
    assert faulty.starts(record) == 1
    assert faulty.owner(record) == "closed"
    return record


@pytest.mark.edge_case(1)
@pytest.mark.usefixtures("resumed")
def test_two_submissions_to_a_controller_that_stalls_start_one_application(faulty: Faulty) -> None:
    """Both were killed before they had an answer, and both arrive. Between them a look-up found nothing."""
    deafen(faulty)
    record = lost_submission(faulty)
    faulty.pass_until_handed_in_again()
    assert faulty.now(record).stage is Stage.SUBMITTING
    assert sum(map(is_sbatch, faulty.tripping.commands)) == 2
    go_on(faulty)
    faulty.until_slurm_has(record, 2)
    # No pass cancels one of them in time: both come to their ends.
    assert sorted(faulty.until_slurm_is_done(record).values()) == ["COMPLETED", "FAILED"]
    assert ended_once(faulty, record).slurm_id in faulty.slurm_jobs(record)
    assert sum(map(is_sbatch, faulty.tripping.commands)) == 2


@pytest.mark.edge_case(1)
@pytest.mark.usefixtures("resumed")
def test_what_has_started_is_not_handed_in_again_where_the_look_up_is_silent(faulty: Faulty) -> None:
    """The fence in its folder names it."""
    record = lost_submission(faulty, f"{COUNT}; {UNTIL_TOLD}")
    go_on(faulty)
    [first] = faulty.until_slurm_has(record, 1)
    faulty.cluster.wait_for(lambda: faulty.starts(record))
    deafen(faulty)
    faulty.pass_until_handed_in_again()
    assert (faulty.now(record).stage, faulty.now(record).slurm_id) == (Stage.SUBMITTED, first)
    assert sum(map(is_sbatch, faulty.tripping.commands)) == 1
    faulty.heal()
    faulty.tell(record)
    ended_once(faulty, record)


@pytest.mark.edge_case(1)
@pytest.mark.usefixtures("resumed")
def test_of_two_slurm_jobs_that_wait_one_is_cancelled(faulty: Faulty) -> None:
    record = lost_submission(faulty, begin="now+1hour")
    go_on(faulty)
    [first] = faulty.until_slurm_has(record, 1)
    deafen(faulty)
    faulty.pass_until_handed_in_again()
    faulty.heal()
    second = faulty.now(record).slurm_id
    assert set(faulty.until_slurm_has(record, 2)) == {first, second}
    assert faulty.pass_after().cancelled == ((record.id, first),)
    assert faulty.owner(record) == str(second)
    start(faulty, second)
    assert ended_once(faulty, record).slurm_id == second
    assert faulty.slurm_jobs(record)[first] == "CANCELLED"


def test_slurm_jobs_that_start_together_start_one_application(faulty: Faulty) -> None:
    """Six trials at once, each of a job that waits and of two copies of it that start at the same moment."""
    records = faulty.submit(*[faulty.shell(f"{COUNT}; {UNTIL_TOLD}", begin="now+1hour") for _ in range(6)])
    begin = "--begin=now+2seconds"
    copies = {record.id: {faulty.sbatch_again(record, begin), faulty.sbatch_again(record, begin)} for record in records}
    faulty.cluster.wait_for(lambda: all(map(faulty.starts, records)))
    for record in faulty.until_running(*records):
        assert record.slurm_id in copies[record.id]
        assert faulty.owner(record) == str(record.slurm_id)
        [loser] = copies[record.id] - {record.slurm_id}
        assert faulty.cluster.wait_end(str(loser)) in {"FAILED", "CANCELLED"}
        faulty.tell(record)
    for record in records:
        assert ended_once(faulty, record).slurm_id in copies[record.id]
        assert faulty.slurm_jobs(record)[record.slurm_id or 0] == "CANCELLED", "the one that waited was surplus"


def test_the_end_of_a_slurm_job_that_ran_nothing_says_nothing(faulty: Faulty) -> None:
    """The one that is remembered is the loser, and it ends first. The owner fails later."""
    [record] = faulty.submit(faulty.shell(f"{COUNT}; {UNTIL_TOLD}; exit 7", begin="now+1hour"))
    owner = faulty.sbatch_again(record, "--begin=now")
    faulty.cluster.wait_for(lambda: faulty.starts(record))
    start(faulty, record.slurm_id)
    assert faulty.cluster.wait_end(str(record.slurm_id)) == "FAILED"
    assert f"Slurm job {record.slurm_id} runs nothing" in faulty.errors(record)
    [running] = faulty.until_running(record)
    assert running.slurm_id == owner
    faulty.tell(record)
    [ended] = faulty.until_ended(record)
    assert (ended.state, ended.exit_code, ended.slurm_id) == (JobState.FAILURE, 7, owner)
    assert faulty.starts(record) == 1


@pytest.mark.usefixtures("resumed")
def test_a_job_that_is_cancelled_while_its_submission_is_in_doubt_never_runs(faulty: Faulty) -> None:
    record = lost_submission(faulty)
    [cancelled] = cancel.cancel(faulty.site, [record.id])
    assert (cancelled.stage, cancelled.state, cancelled.status) == (
        Stage.ENDED, JobState.SUCCESS, "Your job was cancelled"
    )  # fmt: skip
    assert faulty.owner(record) == "cancelled"
    go_on(faulty)
    [late] = faulty.until_slurm_has(record, 1)
    assert faulty.until_slurm_is_done(record)[late] in {"FAILED", "CANCELLED"}
    assert faulty.starts(record) == 0
    assert faulty.now(record) == cancelled


def test_all_tasks_of_an_array_run_and_none_of_a_second_one(faulty: Faulty) -> None:
    (faulty.config_file.parent / "applications" / "counted-array.yaml").write_text(ARRAY)
    code = {"code": {"type": "text", "value": COUNT}}
    [record] = faulty.submit(faulty.specification("counted-array", parameters=code))
    assert record.array
    second = faulty.sbatch_again(record)
    assert set(faulty.until_slurm_is_done(record)) == {record.slurm_id, second}
    assert faulty.starts(record) == 3
    [ended] = faulty.until_ended(record)
    assert (ended.state, ended.exit_code) == (JobState.SUCCESS, 0)
    assert faulty.owner(record) == "closed"


def test_a_finished_job_that_its_owner_requeues_runs_nothing(faulty: Faulty) -> None:
    [record, other] = faulty.submit(faulty.shell(COUNT), faulty.shell(UNTIL_TOLD))
    record = ended_once(faulty, record)
    # Its own script holds it back, also where there is no pass.
    requeue(faulty, record)
    faulty.cluster.wait_for(lambda: "closed holds this job's folder" in faulty.errors(record))
    assert faulty.until_slurm_is_done(record) == {record.slurm_id: "FAILED"}
    requeue(faulty, record)
    report = faulty.pass_after()
    assert (report.cancelled, report.problems) == (((record.id, record.slurm_id),), ())
    assert faulty.until_slurm_is_done(record) == {record.slurm_id: "CANCELLED"}
    faulty.pass_after()
    assert faulty.now(record) == record
    assert faulty.starts(record) == 1
    faulty.tell(other)


def test_a_requeue_while_it_runs_is_the_same_job(faulty: Faulty) -> None:
    [record] = faulty.start(faulty.shell(f"{COUNT}; {UNTIL_TOLD}"))
    faulty.cluster.wait_for(lambda: faulty.starts(record))
    requeue(faulty, record)
    faulty.sync_until(lambda: faulty.now(record).state is JobState.IN_QUEUE)
    [again] = faulty.until_running(record)
    assert (again.slurm_id, again.restarts) == (record.slurm_id, 1)
    faulty.cluster.wait_for(lambda: faulty.starts(record) == 2)
    faulty.tell(record)
    [ended] = faulty.until_ended(record)
    assert (ended.state, ended.slurm_id, faulty.starts(record)) == (JobState.SUCCESS, record.slurm_id, 2)
    assert len(faulty.slurm_jobs(record)) == 1


# Fails closed


def release(faulty: Faulty, record: Record) -> Record:
    """Let a job that was held back start, and see it fail without running anything."""
    start(faulty, record.slurm_id)
    faulty.cluster.wait_end(str(record.slurm_id))
    faulty.pass_after()
    ended = faulty.now(record)
    assert ended.state is JobState.FAILURE, ended
    assert faulty.starts(record) == 0
    return ended


def test_nothing_runs_without_the_folder(faulty: Faulty) -> None:
    [record] = faulty.submit(faulty.shell(COUNT, begin="now+1hour"))
    faulty.cluster.ask("rm", "-rf", record.folder)
    assert "folder" in release(faulty, record).status


def test_nothing_runs_where_the_fence_cannot_be_made(faulty: Faulty) -> None:
    [record] = faulty.submit(faulty.shell(COUNT, begin="now+1hour"))
    faulty.cluster.ask("touch", f"{record.folder}/stdout.txt", f"{record.folder}/stderr.txt")
    faulty.cluster.ask("chmod", "500", record.folder)
    assert release(faulty, record).exit_code == 1
    assert "owner can be neither made nor read; nothing was run" in faulty.errors(record)
    faulty.cluster.ask("chmod", "700", record.folder)


def test_nothing_runs_where_the_disk_is_full(faulty: Faulty) -> None:
    """Room for the job's output, and not for one file more."""
    [record] = faulty.submit(faulty.shell(COUNT, begin="now+1hour", node="node001"))
    [node] = [node for node in faulty.cluster.nodes if node.name == "node001"]
    # The folder itself, the script's folder and file, and two files: five inodes.
    run_on(node, ["mount", "-t", "tmpfs", "-o", "nr_inodes=5,mode=700,uid=7701,gid=7701", "tmpfs", record.folder])
    try:
        touch = 'cd "$1" && mkdir node && touch node/batch.sh stdout.txt stderr.txt && ! touch more 2>&1'
        refused = faulty.cluster.ask("sh", "-c", touch, "sh", record.folder, node=node.name)
        assert "No space left on device" in refused
        assert release(faulty, record).exit_code == 1
        told = faulty.cluster.ask("cat", f"{record.folder}/stderr.txt", node=node.name)
        assert "nothing was run" in told
    finally:
        run_on(node, ["umount", record.folder])
