"""Commands of Slurm that fail, hang, lie or are cut off: the application starts once, and no state is made up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from slurm_adapter.cli import main as module
from slurm_adapter.core.errors import Refused, TryAgain
from slurm_adapter.core.observation import DISPATCH_SECONDS
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from tests.adapter import UNTIL_TOLD
from tests.faults import COUNT, SHORT_TIMEOUT, Faulty, faulty, is_sbatch
from tests.offline import Offline, offline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.cluster.transports.interface import Command
    from slurm_adapter.core.records import Record
    from tests.sandbox_cluster import Cluster

__all__ = ["faulty", "offline"]

TIMED_OUT = "Socket timed out on send/recv operation"
DOWN = "Unable to contact slurm controller (connect failure)"
ACCEPT = 'said=$(/usr/bin/sbatch "$@")'
"""Slurm takes the job; `$said` is its id."""


def run_once(site: Faulty, record: Record) -> None:
    """With all stand-ins gone the job comes to its end; its application has started once."""
    [ended] = site.until_ended(record)
    assert (ended.state, ended.exit_code) == (JobState.SUCCESS, 0), ended
    site.until_slurm_is_done(record)
    assert site.starts(record) == 1


# sbatch

LATER, KNOWN = Stage.SUBMITTING, Stage.SUBMITTED
SBATCH = {
    "says that it timed out": (
        LATER, {"sbatch": f"{ACCEPT}; echo 'sbatch: error: Batch job submission failed: {TIMED_OUT}' >&2; exit 1"},
    ),
    "hangs when Slurm has the job": (LATER, {"sbatch": f"{ACCEPT}; exec sleep 60", "timeout": SHORT_TIMEOUT}),
    "is killed when Slurm has the job": (LATER, {"sbatch": f"{ACCEPT}; kill -9 $$"}),
    "says nothing": (LATER, {"sbatch": ACCEPT}),
    "tells its id and fails": (LATER, {"sbatch": f'{ACCEPT}; echo "$said"; exit 1'}),
    "tells two ids": (LATER, {"sbatch": f'{ACCEPT}; echo "$said"; echo 1'}),
    "answers late": (KNOWN, {"sbatch": f'{ACCEPT}; sleep 2; echo "$said"'}),
    "tells half of its id": (KNOWN, {"sbatch": f"{ACCEPT}; printf %s $said | head -c 1"}),
    "tells its id twice": (KNOWN, {"sbatch": f'{ACCEPT}; echo "$said"; echo "$said"'}),
    "names its cluster": (KNOWN, {"sbatch": f'{ACCEPT}; echo "$said;sandbox"'}),
    "is surrounded by words": (
        KNOWN, {"sbatch": f"echo 'Welcome to 2026'; echo 'a word of the site' >&2; {ACCEPT}; echo $said; echo Bye 4"},
    ),
    "loses its shell": (
        LATER, {"sbatch": f'{ACCEPT}; sleep 2; echo "$said"', "sh": '/bin/sh "$@" & sleep 1; kill -9 $!'},
    ),
    "loses xargs": (
        KNOWN,
        {
            "sbatch": f'{ACCEPT}; sleep 2; echo "$said"',
            "xargs": 'exec 3<&0; /usr/bin/xargs "$@" <&3 & sleep 1; kill -9 $!',
        },
    ),
}  # fmt: skip
"""What sbatch does, how far the job has come then, and the stand-ins that do it."""
BY_ITS_WORDS = {"tells its id and fails", "tells two ids", "tells its id twice"}
"""Those that differ from others in sbatch's words only, whose judgement has a quick test of its own."""


@pytest.mark.sandbox
@pytest.mark.scenario(26)
@pytest.mark.edge_case(1, 4)
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.long) if what in BY_ITS_WORDS else what for what in SBATCH]
)
def test_sbatch_misbehaves(faulty: Faulty, what: str) -> None:
    stage, stand_ins = SBATCH[what]
    faulty.put(**stand_ins)
    specification = faulty.shell(COUNT)
    record = faulty.hand_in(specification, "key")
    assert (record.stage, record.state) == (stage, JobState.IN_QUEUE)
    assert faulty.hand_in(specification, "key").id == record.id
    faulty.heal()
    [slurm_id] = faulty.until_slurm_has(record, 1)
    assert faulty.pass_after().problems == ()
    assert faulty.now(record).slurm_id == slurm_id
    faulty.pass_until_handed_in_again()
    run_once(faulty, record)
    assert len(faulty.slurm_jobs(record)) == 1


@pytest.mark.sandbox
@pytest.mark.edge_case(1, 4)
def test_sbatch_that_fails_is_believed_and_what_it_submitted_all_the_same_runs_nothing(faulty: Faulty) -> None:
    faulty.put(sbatch=f"{ACCEPT}; echo 'sbatch: error: a new one' >&2; exit 1")
    with pytest.raises(Refused, match="a new one"):
        faulty.hand_in(faulty.shell(COUNT))
    faulty.heal()
    [record] = faulty.site.store.all(9)
    assert (record.stage, record.state) == (Stage.ENDED, JobState.FAILURE)
    faulty.pass_after()
    assert set(faulty.until_slurm_is_done(record).values()) <= {"FAILED", "CANCELLED"}
    assert faulty.starts(record) == 0


@pytest.mark.sandbox
@pytest.mark.scenario(26)
@pytest.mark.edge_case(1)
def test_sbatch_hangs_and_hands_nothing_over(faulty: Faulty) -> None:
    """The job is accepted and waits; it is handed in again once sbatch is dead and healthy silence has lasted."""
    faulty.put(sbatch="exec sleep 60", timeout=SHORT_TIMEOUT)
    record = faulty.hand_in(faulty.shell(COUNT))
    assert (record.stage, record.state) == (Stage.SUBMITTING, JobState.IN_QUEUE)
    faulty.heal()
    faulty.pass_after(DISPATCH_SECONDS - 5)
    faulty.pass_after(6)
    faulty.pass_after(135)
    assert (faulty.now(record).stage, faulty.slurm_jobs(record)) == (Stage.SUBMITTING, {})
    report = faulty.pass_after(10)
    assert (report.submitted, report.problems) == ((record.id,), ())
    run_once(faulty, record)


@pytest.mark.sandbox
@pytest.mark.scenario(26)
@pytest.mark.edge_case(21)
def test_the_adapter_does_not_wait_for_ever(faulty: Faulty) -> None:
    """The command on the cluster ends later than anybody waits for it, and Slurm has the job."""
    faulty.put(sbatch=f"{ACCEPT}; exec sleep 20")
    faulty.hurried.seconds = 2
    record = faulty.hand_in(faulty.shell(COUNT))
    assert record.stage is Stage.SUBMITTING
    faulty.hurried.seconds = 600
    faulty.heal()
    run_once(faulty, record)
    assert len(faulty.slurm_jobs(record)) == 1


# A controller that is not there


@pytest.fixture
def restarted(cluster: Cluster) -> Iterator[None]:
    """Whatever happens: the controller runs afterwards."""
    yield
    restart(cluster)


def restart(cluster: Cluster) -> None:
    if not cluster.slurmctld.pids:
        cluster.slurmctld.start()
    cluster.wait_for(lambda: cluster.run("sinfo", "-h").returncode == 0)


@pytest.mark.sandbox
@pytest.mark.long
@pytest.mark.scenario(27)
@pytest.mark.usefixtures("restarted")
def test_a_controller_that_is_down_leaves_no_claim(faulty: Faulty) -> None:
    """Known before sbatch, and found out by sbatch itself; the same submission works once it is back."""
    specification = faulty.shell(COUNT)
    faulty.cluster.slurmctld.stop()
    result = faulty.invoke("submit", "-", "--key", "k", stdin=specification)
    assert (result.exit_code, result.stdout) == (75, "")
    assert DOWN in result.stderr
    assert faulty.site.store.all(9) == []
    restart(faulty.cluster)

    def before(command: Command) -> None:
        if is_sbatch(command):
            faulty.cluster.slurmctld.stop()

    faulty.tripping.before = before
    with pytest.raises(TryAgain, match="could not be given to Slurm"):
        faulty.hand_in(specification, "k")
    faulty.tripping.before = lambda _: None
    restart(faulty.cluster)
    assert faulty.traces == ([], [], [])
    record = faulty.hand_in(specification, "k")
    run_once(faulty, record)


# Questions

SQUEUE = {
    "answers half": ('/usr/bin/squeue "$@" | head -c 450', "breaks off"),
    "adds words": ('/usr/bin/squeue "$@"; echo "that was all"', "that was all"),
    "answers something else": ("echo '  JOBID PARTITION NAME'", "JOBID PARTITION"),
    "answers twice": ('/usr/bin/squeue "$@"; /usr/bin/squeue "$@"', "is not a job's id"),
    "complains with exit code 0": (f"echo 'slurm_load_jobs error: {TIMED_OUT}' >&2", TIMED_OUT),
    "complains under a header": (f"echo 'CLUSTER: sandbox'; echo 'slurm_load_jobs error: {TIMED_OUT}' >&2", TIMED_OUT),
    "answers and complains": (f"/usr/bin/squeue \"$@\"; echo 'slurm_load_jobs error: {TIMED_OUT}' >&2", TIMED_OUT),
    "fails": ("exit 1", "squeue failed"),
    "is not there": ("exit 127", "clusters.NAME.path"),
    "finds no controller": (f"echo 'slurm_load_jobs error: {DOWN}' >&2; exit 1", DOWN),
    "does not know an id": ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "Invalid job id"),
    "is killed": ('/usr/bin/squeue "$@"; kill -9 $$', "squeue failed"),
    "hangs": ("exec sleep 60", "did not end within"),
}
SCONTROL = {
    "fails": ("exit 1", "scontrol show config failed"),
    "complains with exit code 0": (f"echo 'slurm_load_ctl_conf error: {TIMED_OUT}' >&2", TIMED_OUT),
    "is killed": ("kill -9 $$", "scontrol show config failed"),
    "hangs": ("exec sleep 60", "did not end within"),
}
SACCT = {
    "answers half": ("printf '17|'", "breaks off"),
    "answers something else": ("echo hello", "not a list of jobs"),
    "complains with exit code 0": ("echo 'sacct: error: slurm_persist_conn_open: Connection refused' >&2", "refused"),
    "fails": ("exit 1", "sacct failed"),
    "is killed": ("kill -9 $$", "sacct failed"),
    "hangs": ("exec sleep 60", "did not end within"),
}
"""What each does, and words of the pass's problem."""


@pytest.mark.sandbox
@pytest.mark.edge_case(5, 6)
def test_questions_that_are_answered_badly_change_nothing(faulty: Faulty) -> None:
    """Of two jobs, that ran when last heard of, one has ended meanwhile; good answers alone tell it."""
    running, ended = faulty.start(*[faulty.shell(f"{COUNT}; {UNTIL_TOLD}")] * 2)
    faulty.tell(ended)
    faulty.cluster.wait_end(str(ended.slurm_id))

    def ask_badly(program: str, what: str, script: str, words: str) -> None:
        faulty.put(**{program: script})
        faulty.open()  # a site that is open asks scontrol once a minute only
        faulty.hurried.seconds = 2
        report = faulty.pass_after(130)  # longer than a controller that answers badly is spared
        assert report.changed == (), f"{program} {what}"
        assert any(words in problem for problem in report.problems), f"{program} {what}: {report.problems}"
        faulty.hurried.seconds = 600

    for program, cases in (("squeue", SQUEUE), ("scontrol", SCONTROL)):
        for what, (script, words) in cases.items():
            ask_badly(program, what, script, words)
        faulty.heal()
    # The queue seems to have forgotten both, with a header and no rows, and accounting answers badly.
    faulty.put(squeue='/usr/bin/squeue "$@" | head -n 1')
    for what, (script, words) in SACCT.items():
        ask_badly("sacct", what, script, words)
    assert [faulty.now(record).state for record in (running, ended)] == [JobState.RUNNING] * 2
    faulty.heal()
    assert faulty.pass_after(130).problems == ()
    assert faulty.now(ended).state is JobState.SUCCESS
    assert faulty.now(running).state is JobState.RUNNING
    faulty.tell(running)
    for record in (running, ended):
        run_once(faulty, record)


@pytest.mark.sandbox
@pytest.mark.edge_case(6)
def test_a_queue_that_says_nothing_ends_no_job(faulty: Faulty) -> None:
    """Healthy silence, for less than `jobs.lost_after`: the job that wrote no exit record stays what it was."""
    [record] = faulty.start(faulty.shell(f"{COUNT}; {UNTIL_TOLD}"))
    for squeue in ("exit 0", "echo; exit 0"):
        faulty.put(squeue=squeue)
        for _ in range(3):
            faulty.pass_after(500)
            assert faulty.now(record).state is JobState.RUNNING
    faulty.heal()
    # No header: squeue did not answer. A controller that answers badly is spared for two minutes.
    assert faulty.pass_after(130).problems == ()
    assert faulty.now(record).missing_since is None
    faulty.tell(record)
    run_once(faulty, record)


@pytest.mark.sandbox
def test_nodes_that_are_half_listed_give_nobody_an_address(faulty: Faulty) -> None:
    """Cut within an address, which is then the beginning of one: another machine's."""
    whole = faulty.cluster.ask("scontrol", "-o", "show", "node", user="ucloud")
    cut = whole.rindex("NodeAddr=") + len(f"NodeAddr={faulty.cluster.nodes[-1].address[:-1]}")
    [record] = faulty.submit(faulty.shell(f"{COUNT}; {UNTIL_TOLD}", node="node003"))
    faulty.cluster.wait_for(lambda: faulty.starts(record))
    faulty.put(
        scontrol=f'case "$*" in *node*) /usr/bin/scontrol "$@" | head -c {cut} ;; *) /usr/bin/scontrol "$@" ;; esac'
    )
    assert faulty.pass_after().problems != ()
    assert faulty.now(record).addresses == ()
    faulty.heal()
    assert faulty.pass_after().problems == ()
    [node] = faulty.nodes_of(record)
    assert node.address in faulty.now(record).addresses[0]
    faulty.tell(record)
    run_once(faulty, record)


# Cancels


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 1", "scancel failed"),
        (f"echo 'scancel: error: Kill job error on job id 17: {TIMED_OUT}' >&2", TIMED_OUT),
        (f"echo 'scancel: error: {DOWN}' >&2; exit 8", DOWN),
    ],
)
def test_scancel_fails(faulty: Faulty, script: str, words: str) -> None:
    """Whoever asked is told, and may ask again. A pass that cancels a surplus Slurm job does so by itself."""
    [running, waiting] = faulty.submit(faulty.shell(f"{COUNT}; {UNTIL_TOLD}"), faulty.shell(COUNT, begin="now+1hour"))
    [running] = faulty.until_running(running)
    surplus = faulty.sbatch_again(waiting)
    faulty.put(scancel=script)
    result = faulty.invoke("cancel", running.id)
    assert result.exit_code in {1, 75}
    assert words in result.stderr
    report = faulty.pass_after()
    everything = (*report.problems, *report.account_problems)
    assert [problem for problem in everything if "cancel Slurm jobs" in problem and words in problem], report
    assert faulty.now(running).state is JobState.RUNNING
    faulty.heal()
    report = faulty.pass_after()
    assert (report.cancelled, report.problems) == (((waiting.id, surplus),), ())
    assert faulty.invoke("cancel", running.id).exit_code == 0
    [ended] = faulty.until_ended(running)
    assert (ended.state, ended.status) == (JobState.SUCCESS, "Your job was cancelled")


@pytest.mark.sandbox
@pytest.mark.scenario(71)
def test_only_a_jobs_own_slurm_job_is_cancelled(faulty: Faulty) -> None:
    """Whatever id is remembered, and whatever the jobs of others are called."""
    theirs = faulty.cluster.submit("sleep 60", user="bob")
    private = faulty.cluster.submit("sleep 60", "--job-name=private")
    records = faulty.submit(*[faulty.shell("sleep 60")] * 2)
    own = [record.slurm_id for record in records]
    same_name = faulty.cluster.submit("sleep 60", f"--job-name={records[0].slurm_name}", user="bob")
    for record, wrong in zip(records, (theirs, private), strict=True):
        faulty.site.store.change([(record, {"slurm_id": int(wrong)})], time.time())
    faulty.cancel(*records)
    for slurm_id in own:
        assert faulty.cluster.wait_end(str(slurm_id)) == "CANCELLED"
    for job, user in ((theirs, "bob"), (private, "alice"), (same_name, "bob")):
        assert faulty.cluster.show(job)["JobState"] in {"PENDING", "RUNNING"}
        faulty.cluster.ask("scancel", job, user=user)
    for record in faulty.until_ended(*records):
        assert (record.state, record.slurm_id in own) == (JobState.SUCCESS, True)


@pytest.mark.sandbox
@pytest.mark.scenario(71)
def test_a_job_that_its_user_renamed_is_not_cancelled_and_that_is_said(faulty: Faulty) -> None:
    renamed, other = faulty.start(*[faulty.shell("sleep 60")] * 2)
    faulty.cluster.ask("scontrol", "update", f"JobId={renamed.slurm_id}", "JobName=mine")
    result = faulty.invoke("cancel", renamed.id, other.id)
    assert result.exit_code == 1
    assert f"JobName={renamed.slurm_name}" in result.stderr
    assert faulty.cluster.wait_end(str(other.slurm_id)) == "CANCELLED"
    assert faulty.cluster.show(str(renamed.slurm_id))["JobState"] == "RUNNING"
    assert faulty.now(renamed).cancel_sent is None
    faulty.cluster.ask("scontrol", "update", f"JobId={renamed.slurm_id}", f"JobName={renamed.slurm_name}")
    assert faulty.invoke("cancel", renamed.id).exit_code == 0
    [ended, _] = faulty.until_ended(renamed, other)
    assert (ended.state, ended.status) == (JobState.SUCCESS, "Your job was cancelled")


GARBAGE = ("a/b", "'; rm -rf /", "", "$(id)", "../1", "1 OR 1=1", "-1", "1\n", "\udcff")


@pytest.mark.scenario(72)
@pytest.mark.parametrize("command", ["cancel", "show", "logs", "hosts"])
def test_what_is_no_id_is_unknown_and_reaches_no_shell(
    offline: Offline, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    record = offline.job()
    before = offline.transport.commands.copy()
    monkeypatch.setattr("slurm_adapter.local.configuration_file.find_config", lambda _: "here")
    monkeypatch.setattr("slurm_adapter.local.configuration_file.load_config", lambda _: offline.config)
    monkeypatch.setattr("slurm_adapter.adapter.Adapter", lambda _: offline.site)
    monkeypatch.setattr(offline.site, "close", lambda: None)
    for garbage in GARBAGE:
        result = CliRunner().invoke(module.cli, [command, "--", garbage])
        assert (result.exit_code, result.stdout) in {(1, ""), (65, "")}, garbage
        assert result.stderr.startswith("error: ")
        assert "mistake in slurm-adapter" not in result.stderr
    assert offline.transport.commands == before
    assert offline.now(record) == record
