"""Handing many jobs in with one command, and telling from sbatch's words what became of each.

The command is xargs, which gives a few pairs of index and folder at a time to a shell, and keeps several of these
shells at work; each starts one sbatch after another and, where all goes well, no other program: it is sbatch's time
that counts. It prints a line before each and one after it. No other text is among them: what sbatch says is encoded,
and text around the whole command is dropped (`transports.frame`). Without its first line a job was never submitted.
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
"""For so long sbatch is started for one job after another; then the rest is left for another time.

Counted by the cluster's clock, for a command that the network held up may reach the cluster long after its caller has
gone. So the clocks of the two machines must agree; `check` compares them.
"""

SBATCH_SECONDS = 155
"""So long after the last sbatch may be started all are dead: `timeout` on the machine where they run sees to it.

An sbatch tries for up to 120 seconds by itself when the controller is busy.
"""

assert START_SECONDS + SBATCH_SECONDS + 30 < DISPATCH_SECONDS  # noqa: S101  # nosec B101 # what the port promises

AT_ONCE = 8
_IN_A_ROW = 8
"""How many jobs one shell hands in, at most: its own start costs as much as a quarter of an sbatch."""

# $1 is when the last sbatch may be started, $2 the script below, $3 how many at once, $4 how many for one shell, $5 the
# pause after each job. KILL, for nothing may outlive it, and it goes to all that xargs has started. `cat`
# ends when the last of them has: xargs itself waits for none of them any more after a second one has ended with 255.
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

# Without --ignore-pbs sbatch obeys lines of #PBS and #BSUB anywhere in a script, so in an application's text, too.
# $1 is the uptime until which one may begin, $2 the pause; then an index and a folder, and so on. What
# became of a job and that the next one begins is said at once: every write wakes all that pass it on. It is shorter
# than 4096 bytes: written whole to a pipe, whoever else writes to it. 255 makes xargs start no more: where the
# controller is not there, the rest would only wait, too.
_SOME = """
until=$1 pause=$2
told=
end=0
shift 2
while [ $# -gt 1 ]; do
    read -r up _ </proc/uptime
    [ "${up%.*}" -lt "$until" ] || { end=255; break; }
    printf '%sjob %s begun\\n' "$told" "$1"
    said=$(sbatch --parsable --export=NONE --ignore-pbs "$2/job.sbatch" </dev/null 2>&1)
    status=$?
    case $said in
    '' | ??????????????* | *[!0-9]*) word=$(printf %s "$said" | tail -c 2400 | base64 | tr -d '\\n') ;;
    *) word="=$said" ;;
    esac
    told="job $1 $status $word
"
    shift 2
    [ -z "$pause" ] || { printf %s "$told"; told=; sleep "$pause"; }
    case $said in *'Unable to contact slurm controller'* | *'s_p_parse_file'*) end=255; break ;; esac
done
printf %s "$told"
exit $end
"""

USER_SCRIPTS = {"submit": _ALL, "submit_some": _SOME}
"""What runs as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""

_CONTACT = "Unable to contact slurm controller (connect failure)"

_ANSWER = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;\S*| on cluster \S+)?\s*$", re.ASCII | re.MULTILINE)

_UNCERTAIN = re.compile(
    r"""controller | communicat | message | socket | protocol | connect | timed\ out | timeout | transmitted | received
    | broken\ pipe | credential | authenticat | temporarily | in\ progress | would\ block | interrupted
    | shutting\ down | standby | handler | descriptor | no\ error | incompatible\ versions | find\ an\ address""",
    re.VERBOSE | re.IGNORECASE,
)
"""Words of slurm_errno.c and errno(3) for an answer that was lost on its way, rather than given."""

_RATE = "Rate limit exceeded"
"""Of SLURMCTLD_COMMUNICATIONS_BACKOFF and _HARD_DROP: the controller has not looked at the request."""

_LINE = re.compile(r"job (\d+) (?:(begun)|(\d+) (=?)([A-Za-z0-9+/=]*))\s*", re.ASCII)
"""After `=` sbatch's words stand as they are, else in base64."""

_LATE = re.compile(r"late (-?\d+)\s*", re.ASCII)

_OPTION = re.compile(
    r"""invalid | unrecognized | unknown\ option | ambiguous | requires\ an\ argument | only\ permitted | not\ valid
    | does\ not\ look\ like | empty | whitespace | too\ (?:large|big|long) | DOS\ line | NULL\ char | malformed
    | not\ allowed | can\ ?not\ be | illegal | mutually\ exclusive | must\ be""",
    re.VERBOSE | re.IGNORECASE,
)
"""sbatch's own words for options and scripts that it does not send."""


def submit_argv(until: float, count: int, pause: float = 0) -> tuple[str, ...]:
    """Hand in the `count` jobs named on standard input (`submit_stdin`); no sbatch is started after `until`.

    With a `pause`, in seconds after each job, they go one after another.
    """
    at_once = 1 if pause else AT_ONCE
    row = min(_IN_A_ROW, 1 + count // (4 * at_once))
    waits = f"{pause:.3f}" if pause and count > 1 else ""
    return ("/bin/sh", "-c", _ALL, "sh", str(int(until)), _SOME, str(at_once), str(row), waits)


def find_pause(config: str) -> float:
    """Return how long to wait after each job at a site that limits requests (`rl_enable`, slurm.conf(5)), in seconds.

    Half of the requests that an account may make are left for its users' questions.
    """
    if "rl_enable" not in config:
        return 0
    rate, period = (
        int(found[1]) if (found := re.search(rf"\brl_refill_{name}=(\d+)", config, re.ASCII)) else default
        for name, default in (("rate", 2), ("period", 1))
    )
    return min(2 * period / max(rate, 1), 10)


def submit_stdin(folders: Sequence[str]) -> bytes:
    """The jobs' folders, as `submit_argv` wants them."""
    return b"".join(f"{index}\0{folder}\0".encode() for index, folder in enumerate(folders))


SUBMIT_TIMEOUT = DISPATCH_SECONDS + 30.0
"""How long it may take, in seconds."""


def parse_submission(data: bytes, count: int, complaint: str = "") -> list[Outcome]:
    """What became of each of `count` jobs; `complaint` is what the whole command said on stderr."""
    begun: set[int] = set()
    told: dict[int, Outcome] = {}
    *whole, rest = data.decode(errors="replace").split("\n")
    # An answer that breaks off may end in half an id: it tells that sbatch was started, and no more.
    if cut := re.match(r"job (\d+) ", rest, re.ASCII):
        begun.add(int(cut[1]))
    for line in whole:
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        index = int(match[1])
        if match[2]:
            begun.add(index)
        elif index in told:
            told[index] = InDoubt("sbatch answered twice")
        else:
            said = match[5] if match[4] else base64.b64decode(match[5] + "===").decode(errors="replace")
            told[index] = judge_answer(int(match[3]), said)
    lost = InDoubt("the answer of sbatch was lost")
    # Either the whole command failed, or a job before this one found that Slurm is not there, or the time was up.
    slow = bool(told) and not any(isinstance(outcome, NotStarted | InDoubt) for outcome in told.values())
    why = "Slurm is slow: it has taken others" if slow else "Slurm is out of reach: sbatch was not started any more"
    if not begun:
        why = _last_line(complaint) or "the command that starts sbatch ended before it did so, and said nothing"
    if late := next(filter(None, map(_LATE.fullmatch, whole)), None):
        why = (
            f"by the cluster's clock the command to hand it in came {START_SECONDS - int(late[1])} seconds late; "
            "do the clocks of this machine and the cluster agree? `slurm-adapter check` compares them"
        )
    never = NotStarted(why, slow=slow)
    return [told.get(index, lost if index in begun else never) for index in range(count)]


def judge_answer(status: int, said: str) -> Outcome:
    """What sbatch's exit status and words (stdout and stderr together) say of the job.

    `InDoubt` unless they say for certain that there is one, or that there is none.
    """
    # With --parsable `17` or `17;cluster`; the sentence is of an sbatch that a site has wrapped.
    ids = set(re.findall(_ANSWER, said))
    # The account itself may shape its sbatch's answer.
    if status == 0 and len(ids) == 1 and 0 < int(*ids) <= LARGEST_SLURM_ID:
        return Accepted(int(*ids))
    if status in {126, 127}:
        return NotStarted(f"sbatch cannot be started: {_last_line(said)}; clusters.NAME.path must name its folder")
    words = _in_short(said) or f"sbatch ended with exit code {status} and said nothing"
    # 124 is of timeout(1), and more than 128 of a signal: sbatch did not end by itself.
    if ids or status in {0, 124} or 128 <= status < 255:
        return InDoubt(words)
    return _judge_refusal(said, words)


def _judge_refusal(said: str, words: str) -> Outcome:
    failed = re.search(r"\A(.*)^sbatch: error: Batch job submission failed: (.*)$", said, re.MULTILINE | re.DOTALL)
    if failed:
        before, answer = failed[1], failed[2].partition("\n")[0].strip()
        if _RATE in answer or (answer == _CONTACT and "retrying" not in said):
            # The request was not looked at. (After an attempt that came further this would say nothing of that one.)
            return NotStarted(words)
        if refusals.passes(answer, before):
            return Postponed(words)
        if _UNCERTAIN.search(answer):
            return InDoubt(words)
        return Rejected(words, certain=refusals.is_slurms_own(answer))
    # sbatch gave up before it sent anything: over the script, or over what may be mended.
    if re.search(r"^sbatch: fatal: .*: line \d+: ", said, re.MULTILINE):
        return Rejected(words)
    if re.search(r"^sbatch: (?:fatal: |error: Unable to open file)", said, re.MULTILINE):
        return NotStarted(words)
    # Else a plugin of sbatch, or a script of the site's own in its place, refused in words that nobody can know.
    certain = re.search(r"^sbatch: ", said, re.MULTILINE) and _OPTION.search(said) and not _UNCERTAIN.search(said)
    return Rejected(words, certain=bool(certain))


def _in_short(said: str) -> str:
    lines = [re.sub(r"^sbatch: (?:error: )?", "", line).strip() for line in said.splitlines()]
    return "; ".join(line for line in lines if line)[:1000]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
