"""Handing many jobs in with one command, and telling from sbatch's words what became of each.

The command is xargs, which starts sbatch for one pair of index and folder after another. Each prints a line when it
begins and one when it is done, and these lines bear a mark drawn at random, so that no banner and no message of a
site's plugin is taken for one. A job whose first line is missing was never handed in.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from slurm_adapter.schedulers.interface import Accepted, InDoubt, NotStarted, Outcome, Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

SBATCH_SECONDS = 155
"""After this time an sbatch is dead: `timeout -k 5 150` on the machine where it runs sees to it.

It tries for up to 120 seconds by itself when the controller is busy.
"""

_AT_ONCE = 4

# $0 is the mark, $1 the index, $2 the folder. Both lines are shorter than 4096 bytes: written whole to a pipe, whoever
# else writes to it. 255 makes xargs start no more: where the controller is not there, the rest would only wait, too.
_ONE = """
printf '%s %s begun\\n' "$0" "$1"
said=$(timeout -k 5 150 sbatch --parsable --export=NONE "$2/job.sbatch" </dev/null 2>&1)
status=$?
printf '%s %s %s %s\\n' "$0" "$1" "$status" "$(printf %s "$said" | tail -c 2400 | base64 | tr -d '\\n')"
case $status,$said in
124,* | 137,* | *'Unable to contact slurm controller'* | *'s_p_parse_file'*) exit 255 ;;
esac
"""

_CONTACT = "Unable to contact slurm controller (connect failure)"

_UNCERTAIN = re.compile(
    r"""controller | communicat | message | socket | protocol | connect | timed\ out | timeout | transmitted | received
    | broken\ pipe | credential | authenticat | unspecified | temporarily | in\ progress | would\ block | interrupted
    | shutting\ down | standby | handler | descriptor | no\ error""",
    re.VERBOSE | re.IGNORECASE,
)
"""Words of slurm_errno.c and errno(3) for an answer that was lost on its way, rather than given."""

_BUSY = re.compile(r"try again|MaxJobCount|queue full|Rate limit|disabled|Requested nodes are busy", re.IGNORECASE)
"""Words of the controller for a refusal that passes."""

_OPTION = re.compile(
    r"""invalid | unrecognized | unknown\ option | ambiguous | requires\ an\ argument | only\ permitted | not\ valid
    | does\ not\ look\ like | empty | whitespace | too\ (?:large|big|long) | DOS\ line | NULL\ char | malformed
    | not\ allowed | can\ ?not\ be | illegal | mutually\ exclusive | must\ be""",
    re.VERBOSE | re.IGNORECASE,
)
"""sbatch's own words for options and scripts that it does not send."""


def submit_argv(mark: str) -> tuple[str, ...]:
    """Hand in the jobs that are named on standard input (`submit_stdin`)."""
    return ("xargs", "-0", "-n", "2", "-P", str(_AT_ONCE), "sh", "-c", _ONE, mark)


def submit_stdin(folders: Sequence[str]) -> bytes:
    """The jobs' folders, as `submit_argv` wants them."""
    return b"".join(f"{index}\0{folder}\0".encode() for index, folder in enumerate(folders))


def submit_timeout(count: int) -> float:
    """How long it may take, in seconds. The first sbatch that is stopped by the clock stops the rest."""
    return SBATCH_SECONDS + 30 + count


def parse_submission(data: bytes, mark: str, count: int, complaint: str = "") -> list[Outcome]:
    """What became of each of `count` jobs; `complaint` is what the whole command said on stderr."""
    begun: set[int] = set()
    told: dict[int, Outcome] = {}
    line = re.compile(rf"^{re.escape(mark)} (\d+) (?:(begun)|(\d+) ([A-Za-z0-9+/=]*))\s*$", re.ASCII | re.MULTILINE)
    for match in line.finditer(data.decode(errors="replace")):
        index = int(match[1])
        if match[2]:
            begun.add(index)
        elif index in told:
            told[index] = InDoubt("sbatch answered twice")
        else:
            said = base64.b64decode(match[4] + "===").decode(errors="replace")
            told[index] = judge_answer(int(match[3]), said)
    lost = InDoubt("the answer of sbatch was lost")
    # Either the whole command failed, or a job before this one found that Slurm is not there.
    never = NotStarted("Slurm is out of reach: sbatch was not started any more" if begun else _last_line(complaint))
    return [told.get(index, lost if index in begun else never) for index in range(count)]


def judge_answer(status: int, said: str) -> Outcome:
    """What sbatch's exit status and words (stdout and stderr together) say of the job.

    `InDoubt` unless they say for certain that there is one, or that there is none.
    """
    ids = set(re.findall(r"^(\d+)(?:;\S*)?\s*$", said, re.ASCII | re.MULTILINE))
    if status == 0 and len(ids) == 1:
        return Accepted(int(ids.pop()))
    if status in {126, 127}:
        return NotStarted(f"sbatch cannot be started: {_last_line(said)}; cluster.path must name its folder")
    if ids or status not in {1, 255} or not said.strip():
        return InDoubt(_in_short(said) or f"sbatch ended with exit code {status} and said nothing")
    return _judge_refusal(said)


def _judge_refusal(said: str) -> Outcome:
    words = _in_short(said)
    failed = re.findall(r"^sbatch: error: Batch job submission failed: (.*)$", said, re.MULTILINE)
    if failed:
        if _BUSY.search(failed[-1]):
            return NotStarted(words)
        if failed[-1].strip() == _CONTACT and "retrying" not in said:
            # No connection was made. (After an attempt that came further this would say nothing of that one.)
            return NotStarted(words)
        return InDoubt(words) if _UNCERTAIN.search(failed[-1]) else Rejected(words)
    # sbatch gave up before it sent anything: over the script, or over what may be mended.
    if re.search(r"^sbatch: fatal: .*: line \d+: ", said, re.MULTILINE):
        return Rejected(words)
    if re.search(r"^sbatch: (?:fatal: |error: Unable to open file)", said, re.MULTILINE):
        return NotStarted(words)
    if re.search(r"^sbatch: ", said, re.MULTILINE) and _OPTION.search(said) and not _UNCERTAIN.search(said):
        return Rejected(words)
    return InDoubt(words)


def _in_short(said: str) -> str:
    lines = [re.sub(r"^sbatch: (?:error: )?", "", line).strip() for line in said.splitlines()]
    return "; ".join(line for line in lines if line)[:1000]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
