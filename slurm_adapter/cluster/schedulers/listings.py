"""The listings of squeue and sacct: each command with its parser.

Users choose the names of their jobs, and every user can read the arguments of every process. So a name may contain any
separator, line breaks, or another job's whole row, and no separator can end a user's text. Such text is printed in
columns of a fixed number of bytes, and its end is found by counting. The rest of a row are numbers and words of Slurm,
which contain neither `|` nor a line break.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from slurm_adapter.cluster.schedulers.hostlist import expand
from slurm_adapter.core.errors import Unknown
from slurm_adapter.core.observation import Observation
from slurm_adapter.core.states import ENDED, WAITING, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_SQUEUE = (
    "JobArrayID",
    "State",
    "NodeList",
    "UserID",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "TimeLimit",
    "exit_code",
    "RestartCnt",
)
"""The columns after the two of fixed width, which are a job's name and reason."""

NAME_BYTES = 160
"""Longer than any Slurm name of the adapter, so that only other names are cut off. Both commands count bytes."""

_REASON_BYTES = 96
"""A plugin may put a user's words into a reason (burst_buffer.conf(5))."""

_SQUEUE_HEAD = b"%b|%b|" % (b"NAME".rjust(NAME_BYTES), b"REASON".rjust(_REASON_BYTES))

_SACCT = (
    "JobID",
    "State",
    "ExitCode",
    "NodeList",
    "User",
    "UID",
    "Submit",
    "Start",
    "End",
    "TimelimitRaw",
    "DBIndex",
)
_SACCT_SLUID = (*_SACCT, "SLUID", "Restarts")
"""See `has_sluids`; an older sacct refuses the whole request."""

_INDEX_BYTES = 20
_SACCT_HEAD = b"%b %b \n" % (b"-" * NAME_BYTES, b"-" * _INDEX_BYTES)
_SACCT_ROW = len(_SACCT_HEAD)

_ID = re.compile(r"(\d+)(?:_(?:(\d+)|\[([^\]]*)\]?)|\+(\d+))?", re.ASCII)
"""`17`, `17_3`, `17_[4-9%2]`, a long list that squeue cut off before `]`, and `17+1`."""

_NO_TIME = frozenset({"", "N/A", "NONE", "None", "Unknown", "NOT_SET"})
_NO_LIMIT = frozenset({"", "0", "-1", "UNLIMITED", "Partition_Limit", "NOT_SET", "INVALID", "N/A"})


def squeue_argv(users: Sequence[str]) -> tuple[str, ...]:
    """Return the command that lists all jobs of these accounts, with ended jobs and those of hidden partitions.

    Arrays have as few rows as Slurm makes of them. squeue prints its header after it has the list: without the header
    there is no answer.
    """
    # Aligned to the right: to the left squeue fills a column blank by blank, which takes as long as all the rest.
    form = f"Name:.{NAME_BYTES}|,Reason:.{_REASON_BYTES}|," + ":0|,".join(_SQUEUE) + ":0"
    return ("squeue", "--all", "--local", "-t", "all", "-u", ",".join(users), "-O", form)


_SACCT_ARGV = ("sacct", "-X", "-a", "-D", "--local", "-S", "1970-01-01")
"""Without `-S` sacct would begin at midnight. Every requeue has its own row."""


def sacct_argv(slurm_ids: Sequence[int], *, sluids: bool = False) -> tuple[str, ...]:
    """Return the command that lists all runs of these jobs, without their names.

    `sluids` is true if this sacct knows SLUIDs, Slurm's own unique ids.
    """
    form = ",".join(_SACCT_SLUID if sluids else _SACCT)
    return (*_SACCT_ARGV, "-P", "--noheader", "-o", form, "-j", ",".join(map(str, slurm_ids)))


def sacct_names_argv(slurm_ids: Sequence[int]) -> tuple[str, ...]:
    """Return the command that lists the names of all runs of these jobs.

    It is a second command, because sacct prints either all columns in a fixed width or none.
    """
    form = f"JobName%-{NAME_BYTES},DBIndex%-{_INDEX_BYTES}"
    return (*_SACCT_ARGV, "-o", form, "-j", ",".join(map(str, slurm_ids)))


def parse_queue(data: bytes, names: Mapping[str, str]) -> tuple[Observation, ...]:
    """Return the jobs in an answer of squeue. `names` has accounts by uid; an unknown uid remains a number.

    Raises `Unknown` if a row cannot be read, or if two rows are about the same job or task.
    """
    nodes_of = cache(expand)  # many jobs are on the same nodes
    observations = tuple(_read_squeue(row, nodes_of, names) for row in _squeue_rows(data))
    things = [(seen.slurm_id, seen.task) for seen in observations]
    if len(set(things)) < len(things):
        twice = min(slurm_id for (slurm_id, _), count in Counter(things).items() if count > 1)
        raise Unknown(f"squeue lists job {twice} twice; nothing of its answer can be trusted")
    return observations


def _squeue_rows(data: bytes) -> Iterator[list[str]]:
    """Yield name, reason and the other fields of each row. Text before the header (a banner) is skipped."""
    # No user's text is before the first header.
    start = _after_line(data, _SQUEUE_HEAD, "squeue")
    start = (data.find(b"\n", start) + 1) or len(data)
    text = data.decode("latin-1")  # a character is a byte
    find, whole, columns = text.find, len(text), len(_SQUEUE)
    while start < whole:
        name, reason = start + NAME_BYTES, start + len(_SQUEUE_HEAD) - 1
        end = find("\n", reason)
        fields = text[reason + 1 : end].split("|") if end >= 0 else ()
        # A row without `|` at these places was not counted in bytes.
        if len(fields) != columns or text[name] != "|" or text[reason] != "|":
            raise Unknown(f"squeue's list breaks off or has foreign text: {_shown(_text(data[start : start + 400]))}")
        yield [_recode(text[start:name]), _recode(text[name + 1 : reason]), *fields]
        start = end + 1


def _recode(column: str) -> str:
    """Return the text in a column of bytes."""
    text = column.strip(" ")
    return text if text.isascii() else _text(text.encode("latin-1"))


def _after_line(data: bytes, head: bytes, command: str) -> int:
    """Return the position after the first header at the start of a line. Raise `Unknown` if there is none."""
    if data.startswith(head):
        return len(head)
    at = data.find(b"\n" + head)
    if at < 0:
        raise Unknown(f"{command}'s answer does not begin with the header of its list: {_shown(_text(data[:400]))}")
    return at + 1 + len(head)


def _text(column: bytes) -> str:
    return column.decode(errors="replace").strip(" ")


def parse_history(
    data: bytes, name_list: bytes, names: Mapping[str, str], *, sluids: bool = False
) -> tuple[Observation, ...]:
    """Return the last run of each job or task in an answer of sacct, with the number of runs before it.

    `name_list` is its answer to `sacct_names_argv`. `names` has accounts by uid; other accounts have sacct's name. All
    jobs that had the same id are there, the oldest first. See `sacct_argv` for `sluids`.

    Raises `Unknown` if a row cannot be read or has no name.
    """
    fields = _SACCT_SLUID if sluids else _SACCT
    rows = [dict(zip(fields, row, strict=True)) for row in _sacct_rows(data, len(fields))]
    job_names = _read_job_names(name_list) if rows else {}
    runs: dict[tuple[int, str | None], list[Observation]] = {}
    for row in rows:
        if (name := job_names.get(row["DBIndex"])) is None:
            raise Unknown(f"sacct gives no name for its row {_shown(str(row))}")
        seen = _read_sacct(row, name, names)
        runs.setdefault((seen.slurm_id, seen.task), []).append(seen)
    return tuple(seen for of_one in runs.values() for seen in _last_runs(of_one))


def _sacct_rows(data: bytes, columns: int) -> Iterator[list[str]]:
    """Yield the rows of an answer without names. Text before the first row (a banner) is skipped."""
    lines = data.decode(errors="replace").split("\n")
    if lines[-1]:
        raise Unknown(f"sacct's list breaks off: it ends in {_shown(lines[-1])}")
    rows = [line.split("|") for line in lines[:-1]]
    first = next((number for number, row in enumerate(rows) if len(row) == columns), None)
    if first is None:
        if data.strip():
            raise Unknown(f"sacct's answer is not a list of jobs: {_shown(data.decode(errors='replace'))}")
        return
    for row in rows[first:]:
        if len(row) != columns:
            raise Unknown(f"sacct's list has a foreign line: {_shown('|'.join(row))}")
        yield row


def _read_job_names(data: bytes) -> dict[str, str]:
    """Return the names of jobs by accounting's own index of each run."""
    rows = data[_after_line(data, _SACCT_HEAD, "sacct") :]
    if len(rows) % _SACCT_ROW:
        raise Unknown("sacct's list of names breaks off or has foreign text")
    found: dict[str, str] = {}
    for start in range(0, len(rows), _SACCT_ROW):
        row = rows[start : start + _SACCT_ROW]
        index, end = row[NAME_BYTES + 1 : -2], row[NAME_BYTES : NAME_BYTES + 1] + row[-2:]
        if end != b"  \n" or not index.strip().isdigit():
            raise Unknown(f"sacct's list of names has the row {_shown(_text(row))}")
        found[_text(index)] = _text(row[:NAME_BYTES])
    return found


def _last_runs(rows: Iterable[Observation]) -> Iterator[Observation]:
    """Yield the last run of each job among runs with the same id and task.

    Each run has its own SLUID. With SLUIDs come the numbers of the runs, which distinguish a job's next run from
    another job. (A resized job has a new row with the same submit time.) Without SLUIDs the name distinguishes jobs.
    """
    jobs: list[list[Observation]] = []
    for seen in sorted(rows, key=lambda row: (row.submitted or 0, row.restarts)):
        for job in jobs[-1:] if seen.sluids else jobs:
            last = job[-1]
            if seen.sluids:
                same = seen.user == last.user and (seen.restarts > last.restarts or seen.submitted == last.submitted)
            else:
                same = (seen.name, seen.user) == (last.name, last.user)
            if same:
                job.append(seen)
                break
        else:
            jobs.append([seen])
    for job in jobs:
        last = job[-1]
        sluids = tuple(sluid for seen in job for sluid in seen.sluids)
        yield last._replace(restarts=last.restarts if last.sluids else len(job) - 1, sluids=sluids)


def _read_squeue(row: list[str], nodes_of: Callable[[str], tuple[str, ...]], names: Mapping[str, str]) -> Observation:
    name, reason, id_, word, nodes, uid, submitted, started, ended, limit, status, restarts = row
    try:
        slurm_id, task = _read_id(id_)
        state, _ = _read_state(word)
        waits = state in WAITING
        # Positional arguments are faster, and an ordinary answer has ten thousand rows.
        return Observation(
            slurm_id,
            task,
            name,
            names.get(uid, uid),
            state,
            _read_reason(reason),
            # For a completing job squeue shows only the nodes that are not free yet, which are not its ranks.
            () if waits or state == "COMPLETING" else nodes_of(nodes),
            int(restarts),
            *(_read_exit_code(status) if state in ENDED else (None, None)),
            _read_time(submitted),
            None if waits else _read_time(started),  # a forecast if the job is pending
            _read_time(ended),
            _read_limit(limit),
        )
    except (ValueError, Unknown) as error:
        shown = _shown(str(dict(zip(("Name", "Reason", *_SQUEUE), row, strict=True))))
        raise Unknown(f"squeue's row {shown} cannot be read: {error}") from error


def _read_sacct(row: dict[str, str], name: str, names: Mapping[str, str]) -> Observation:
    try:
        row["User"] = names.get(row["UID"], row["User"])
        slurm_id, task = _read_id(row["JobID"])
        state, by = _read_state(row["State"])
        code, signal = _read_pair(row["ExitCode"]) if state in ENDED else (None, None)
        return Observation(
            slurm_id=slurm_id,
            task=task,
            name=name,
            user=row["User"],
            state=state,
            nodes=expand(row["NodeList"]),
            exit_code=code,
            signal=signal,
            submitted=_read_time(row["Submit"]),
            started=None if state in WAITING else _read_time(row["Start"]),
            ended=_read_time(row["End"]),
            time_limit=None if row["TimelimitRaw"] in _NO_LIMIT else 60 * int(row["TimelimitRaw"]),
            cancelled_by=_read_canceller(by, row),
            restarts=int(row.get("Restarts") or 0),
            sluids=(sluid,) if (sluid := row.get("SLUID", "")).strip("s0") else (),
        )
    except (ValueError, Unknown) as error:
        raise Unknown(f"sacct's row {_shown(str(row))} of {_shown(name)} cannot be read: {error}") from error


def _read_canceller(by: str | None, row: dict[str, str]) -> str | None:
    """Return the account or uid that cancelled a job.

    slurmdbd may receive a job's end before all of its start. Until then it shows the user's uid as 0, and `by` cannot
    be compared with the user.
    """
    if row["UID"] == "0" and row["User"] != "root":
        return by if by == "0" else None
    return row["User"] if by is not None and by == row["UID"] and row["User"] else by


def _read_id(text: str) -> tuple[int, str | None]:
    if text.isascii() and text.isdigit():
        return int(text), None
    match = _ID.fullmatch(text)
    if match is None:
        raise ValueError(f"{_shown(text)} is not a job's id")
    one, several, component = match[2], match[3], match[4]
    if component is not None:
        return int(match[1]), f"+{component}"
    return int(match[1]), several.partition("%")[0] if several is not None else one


@lru_cache(maxsize=1024)
def _read_state(text: str) -> tuple[str, str | None]:
    """Return the state, in Slurm's long form if that is known, and the uid that cancelled."""
    by = re.search(r" by (\d+)$", text)
    return canonical(text) or text.strip().upper(), by[1] if by else None


@lru_cache(maxsize=1024)
def _read_reason(text: str) -> str:
    return "" if text in {"None", "(null)"} else " ".join(text.split())


def _read_exit_code(text: str) -> tuple[int | None, int | None]:
    """Return exit code and signal of squeue's `exit_code`; None for both if Slurm has none.

    Up to 22.05 it is a status of wait(2), and Slurm's NO_VAL if there is none. From 23.02 on it is `7:0` or `0:11`, as
    in sacct, and empty if there is none.
    """
    if not text or ":" in text:
        return _read_pair(text)
    status = int(text)
    if status > 0xFFFF:
        return None, None
    signal = status & 0x7F
    return (None, signal) if signal else (status >> 8, None)


def _read_pair(text: str) -> tuple[int | None, int | None]:
    """Return exit code and signal of `7:0` or `0:11`.

    sacct subtracts 128 from an exit code above 128 (137 is `9:0`). The rest is never zero, so a failure remains one.
    """
    if not text:
        return None, None
    code, _, signal = text.partition(":")
    if int(signal or 0):
        return None, int(signal)
    return int(code), None


def _read_time(text: str) -> int | None:
    return None if text in _NO_TIME else int(text)


@lru_cache(maxsize=1024)
def _read_limit(text: str) -> int | None:
    """Return the seconds of any of Slurm's forms: `90`, `90:00`, `1:30:00`, and `1-3`, `1-3:5`, `1-03:05:06`."""
    if text in _NO_LIMIT:
        return None
    if not re.fullmatch(r"\d+(?:-\d+)?(?::\d+){0,2}", text, re.ASCII):
        raise ValueError(f"{_shown(text)} is not a time limit")
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    # Days are followed by hours. Without them one number is minutes, two are minutes and seconds.
    hours, minutes, seconds = ([*parts, 0, 0] if dash or len(parts) == 3 else [0, *parts, 0])[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _shown(text: str) -> str:
    return repr(text if len(text) <= 400 else text[:400] + "...")
