"""Dispatches many jobs with one command, and reads the outcome of each from sbatch's words.

The command is xargs. It runs several shells at once, and passes a few pairs of index and folder to each. A shell starts
one sbatch after another, and no other program unless there is an error, because sbatch's time is what counts.

A shell prints a line before each sbatch and one after it. No other text is among these lines: sbatch's words are
encoded, and text around the whole command is dropped (`transports.frame`). A job without its first line was never
dispatched.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from slurm_adapter.cluster.schedulers import refusals
from slurm_adapter.cluster.schedulers.interface import Accepted, InDoubt, NotStarted, Outcome, Postponed, Rejected
from slurm_adapter.core.observation import DISPATCH_SECONDS, LARGEST_SLURM_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

START_SECONDS = 60
"""Seconds in which sbatch is started for one job after another. The remaining jobs are dispatched later.

The cluster's clock counts, because a delayed command may reach the cluster long after its caller has ended. So the
clocks of the two machines must agree; `check` compares them.
"""

SBATCH_SECONDS = 155
"""Seconds after the last possible start of an sbatch at which `timeout` on the cluster has ended all of them.

An sbatch itself retries for up to 120 seconds if the controller is busy.
"""

assert START_SECONDS + SBATCH_SECONDS + 30 < DISPATCH_SECONDS  # noqa: S101  # nosec B101 # the interface promises it

AT_ONCE = 8
_IN_A_ROW = 8
"""Maximum number of jobs for one shell. To start a shell costs a quarter of an sbatch."""

# $1 is the latest time to start an sbatch, $2 the script below, $3 the number of shells at once, $4 the number of jobs
# of a shell, $5 the pause after each job. KILL goes to all processes of xargs, so that none lives on. `cat` ends with
# the last of them: xargs itself does not wait for the others after a second one has ended with 255.
_ALL = f"""
left=$(($1 - $(date +%s)))
[ "$left" -le {START_SECONDS} ] || left={START_SECONDS} # the cluster's clock is behind
if [ "$left" -le 0 ]; then
    printf 'late %s\\n' "$left"
    exit 0
fi
read -r up _ </proc/uptime
exec timeout -s KILL "$((left + {SBATCH_SECONDS - 5}))" /bin/sh -c 'xargs "$@" | cat' xargs \\
    -0 -n "$((2 * $4))" -P "$3" sh -c "$2" sh "$((${{up%.*}} + left))" "$5"
"""

# Without --ignore-pbs sbatch obeys lines of #PBS and #BSUB anywhere in a script, even in an application's text.
# $1 is the uptime until which an sbatch may start, $2 the pause; then come an index and a folder for each job. The
# outcome of a job and the start of the next are one write, because each write wakes all processes that forward it. A
# write has fewer than 4096 bytes, so that a pipe takes it whole. 255 stops xargs: without the controller the other jobs
# would wait, too.
_SOME = """
until=$1 pause=$2
outcome=
end=0
shift 2
while [ $# -gt 1 ]; do
    read -r up _ </proc/uptime
    [ "${up%.*}" -lt "$until" ] || { end=255; break; }
    printf '%sjob %s begun\\n' "$outcome" "$1"
    said=$(sbatch --parsable --export=NONE --ignore-pbs "$2/job.sbatch" </dev/null 2>&1)
    status=$?
    case $said in
    '' | ??????????????* | *[!0-9]*) word=$(printf %s "$said" | tail -c 2400 | base64 | tr -d '\\n') ;;
    *) word="=$said" ;;
    esac
    outcome="job $1 $status $word
"
    shift 2
    [ -z "$pause" ] || { printf %s "$outcome"; outcome=; sleep "$pause"; }
    case $said in *'Unable to contact slurm controller'* | *'s_p_parse_file'*) end=255; break ;; esac
done
printf %s "$outcome"
exit $end
"""

USER_SCRIPTS = {"submit": _ALL, "submit_some": _SOME}
"""The scripts that run as the account of a user, by the names of `slurm_adapter.cli.sudo_helper`."""

_CONTACT = "Unable to contact slurm controller (connect failure)"

_ANSWER = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;\S*| on cluster \S+)?\s*$", re.ASCII | re.MULTILINE)

_UNCERTAIN = re.compile(
    r"""controller | communicat | message | socket | protocol | connect | timed\ out | timeout | transmitted | received
    | broken\ pipe | credential | authenticat | temporarily | in\ progress | would\ block | interrupted
    | shutting\ down | standby | handler | descriptor | no\ error | incompatible\ versions | find\ an\ address""",
    re.VERBOSE | re.IGNORECASE,
)
"""Words of slurm_errno.c and errno(3) for an answer that may have been lost."""

_RATE = "Rate limit exceeded"
"""Words of SLURMCTLD_COMMUNICATIONS_BACKOFF and _HARD_DROP: the controller has not processed the request."""

_LINE = re.compile(r"job (\d+) (?:(begun)|(\d+) (=?)([A-Za-z0-9+/=]*))\s*", re.ASCII)
"""sbatch's words are unchanged after `=`, else in base64."""

_LATE = re.compile(r"late (-?\d+)\s*", re.ASCII)

_OPTION = re.compile(
    r"""invalid | unrecognized | unknown\ option | ambiguous | requires\ an\ argument | only\ permitted | not\ valid
    | does\ not\ look\ like | empty | whitespace | too\ (?:large|big|long) | DOS\ line | NULL\ char | malformed
    | not\ allowed | can\ ?not\ be | illegal | mutually\ exclusive | must\ be""",
    re.VERBOSE | re.IGNORECASE,
)
"""sbatch's words for options and scripts that it refuses itself."""


def submit_argv(until: float, count: int, pause: float = 0) -> tuple[str, ...]:
    """Return the command to dispatch the `count` jobs on standard input (`submit_stdin`).

    No sbatch starts after `until`. With a `pause`, in seconds after each job, they are dispatched one after another.
    """
    at_once = 1 if pause else AT_ONCE
    row = min(_IN_A_ROW, 1 + count // (4 * at_once))
    waits = f"{pause:.3f}" if pause and count > 1 else ""
    return ("/bin/sh", "-c", _ALL, "sh", str(int(until)), _SOME, str(at_once), str(row), waits)


def find_pause(config: str) -> float:
    """Return the pause in seconds after each job at a site that limits requests (`rl_enable`, slurm.conf(5)).

    It leaves half of the requests of an account to the account's users.
    """
    if "rl_enable" not in config:
        return 0
    rate, period = (
        int(found[1]) if (found := re.search(rf"\brl_refill_{name}=(\d+)", config, re.ASCII)) else default
        for name, default in (("rate", 2), ("period", 1))
    )
    return min(2 * period / max(rate, 1), 10)


def submit_stdin(folders: Sequence[str]) -> bytes:
    """Return the jobs' folders as the standard input of `submit_argv`."""
    return b"".join(f"{index}\0{folder}\0".encode() for index, folder in enumerate(folders))


SUBMIT_TIMEOUT = DISPATCH_SECONDS + 30.0
"""Timeout of the whole command in seconds."""


def parse_submission(data: bytes, count: int, complaint: str = "") -> list[Outcome]:
    """Return the outcome of each of `count` jobs. `complaint` is the stderr of the whole command."""
    begun: set[int] = set()
    found: dict[int, Outcome] = {}
    *whole, rest = data.decode(errors="replace").split("\n")
    # An incomplete last line may have half an id. It proves only that sbatch was started.
    if cut := re.match(r"job (\d+) ", rest, re.ASCII):
        begun.add(int(cut[1]))
    for line in whole:
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        index = int(match[1])
        if match[2]:
            begun.add(index)
        elif index in found:
            found[index] = InDoubt("sbatch answered twice")
        else:
            said = match[5] if match[4] else base64.b64decode(match[5] + "===").decode(errors="replace")
            found[index] = judge_answer(int(match[3]), said)
    lost = InDoubt("the answer of sbatch was lost")
    # The whole command failed, Slurm was out of reach for a job before this one, or the time was up.
    slow = bool(found) and not any(isinstance(outcome, NotStarted | InDoubt) for outcome in found.values())
    why = "Slurm is slow: it has taken other jobs" if slow else "Slurm is out of reach: sbatch was not started"
    if not begun:
        why = _last_line(complaint) or "the command that starts sbatch ended before it did so, without a message"
    if late := next(filter(None, map(_LATE.fullmatch, whole)), None):
        why = (
            f"by the cluster's clock the command to dispatch it came {START_SECONDS - int(late[1])} seconds late; "
            "do the clocks of this machine and the cluster agree? `slurm-adapter check` compares them"
        )
    never = NotStarted(why, slow=slow)
    return [found.get(index, lost if index in begun else never) for index in range(count)]


def judge_answer(status: int, said: str) -> Outcome:
    """Return the outcome of a job by sbatch's exit code and words (stdout and stderr together).

    It is `InDoubt` unless they prove that Slurm has the job, or that it has not.
    """
    # With --parsable `17` or `17;cluster`; the sentence comes from a site's wrapper of sbatch.
    ids = set(re.findall(_ANSWER, said))
    # The account itself may forge its sbatch's answer.
    if status == 0 and len(ids) == 1 and 0 < int(*ids) <= LARGEST_SLURM_ID:
        return Accepted(int(*ids))
    if status in {126, 127}:
        return NotStarted(f"sbatch cannot be started: {_last_line(said)}; set clusters.NAME.path to its folder")
    words = _in_short(said) or f"sbatch ended with exit code {status} without a message"
    # 124 is from timeout(1), and more than 128 from a signal: sbatch did not end by itself.
    if ids or status in {0, 124} or 128 <= status < 255:
        return InDoubt(words)
    return _judge_refusal(said, words)


def _judge_refusal(said: str, words: str) -> Outcome:
    failed = re.search(r"\A(.*)^sbatch: error: Batch job submission failed: (.*)$", said, re.MULTILINE | re.DOTALL)
    if failed:
        before, answer = failed[1], failed[2].partition("\n")[0].strip()
        if _RATE in answer or (answer == _CONTACT and "retrying" not in said):
            # The request was not processed. ("retrying": an earlier attempt may have been.)
            return NotStarted(words)
        if refusals.passes(answer, before):
            return Postponed(words)
        if _UNCERTAIN.search(answer):
            return InDoubt(words)
        return Rejected(words, certain=refusals.is_slurms_own(answer))
    # sbatch gave up before it sent anything: because of the script, or of something that the site can fix.
    if re.search(r"^sbatch: fatal: .*: line \d+: ", said, re.MULTILINE):
        return Rejected(words)
    if re.search(r"^sbatch: (?:fatal: |error: Unable to open file)", said, re.MULTILINE):
        return NotStarted(words)
    # Otherwise a plugin of sbatch, or the site's own wrapper of sbatch, refused in words that nobody can know.
    certain = re.search(r"^sbatch: ", said, re.MULTILINE) and _OPTION.search(said) and not _UNCERTAIN.search(said)
    return Rejected(words, certain=bool(certain))


def _in_short(said: str) -> str:
    lines = [re.sub(r"^sbatch: (?:error: )?", "", line).strip() for line in said.splitlines()]
    return "; ".join(line for line in lines if line)[:1000]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
