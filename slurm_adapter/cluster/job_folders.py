"""Job folders on the cluster: make, read, close and remove them through a transport, as the account of the job's user.

Each operation is one command for all jobs of one account. The data of each job goes to standard input, so that neither
the number of jobs nor their names reach a limit of the command line.
"""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import dropwhile
from types import MappingProxyType
from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folder_scripts as scripts
from slurm_adapter.cluster.archive import SameAs, archive
from slurm_adapter.cluster.transports.interface import MEBIBYTE, Command
from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.core.evidence import ExitRecord, FolderContents, read_exit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_adapter.cluster.archive import Content
    from slurm_adapter.cluster.transports.interface import Result, Transport
    from slurm_adapter.translation.translate import File


MOST_EXITS = 100_000
"""Maximum number of exit records in one call of `look`. The account's next call reads the others."""

_LARGE = 256 * 1024
"""Archives of more bytes are compressed: the jobs of one bulk differ little, so that 1/40 is left after a few ms."""

_LINKS = 1000
"""Maximum number of links to one file; ext4 allows 65000."""

_LOOK_BYTES = 64 * MEBIBYTE

_NO_LINKS = re.compile(r"Cannot hard link", re.IGNORECASE)
"""GNU tar's error on a file system without hard links, or without those from one folder to another."""

_FOUND = re.compile(r"([0-9]{1,9}) (?:(folder|shut|missing|away)|(owner|exit|more)(?: (.*))?)", re.DOTALL)
"""A line of `scripts.LOOK`."""

_EXIT = re.compile(r"exit(?:-([0-9]{1,18}))?\.json (.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class NewFolder:
    """A folder to make."""

    path: str
    slurm_name: str
    files: Mapping[str, File]


def find_free(transport: Transport, user: str, pattern: str, first: int, count: int) -> list[int]:
    """Return the first `count` numbers, from `first` on, for which no folder `pattern` exists.

    `{id}` stands for the number in the pattern. Raises `TryAgain` if the folders cannot be read.
    """
    what = "look for free folder names"
    arguments = (str(first), str(count), *pattern.split("{id}"))
    try:
        text = _run(transport, user, scripts.FREE, b"", what, *arguments).text
    except Unknown as error:
        raise TryAgain(f"nothing was submitted: {error}") from error
    found = [int(line) for line in text.split("\n") if re.fullmatch(r"[0-9]{1,18}", line)]
    if not text.endswith("end\n") or len(found) != count:
        raise TryAgain(f"nothing was submitted: could not {what} as {user}: the answer breaks off: {text[:200]!r}")
    return found


def make(transport: Transport, user: str, folders: Sequence[NewFolder]) -> list[str | None]:
    """Make these folders, mode 700, with their files. Return for each the reason why it could not be made, or None.

    An existing folder is refused unless an interrupted attempt made it for the same job. The link `.token` in it shows
    the job's Slurm name; a link is made together with its target.
    """
    answers: list[str | None] = [None] * len(folders)
    parents: dict[str, list[int]] = defaultdict(list)
    for number, new in enumerate(folders):
        parents[new.path.rpartition("/")[0] or "/"].append(number)
    for parent, numbers in parents.items():
        made = _make_in(transport, user, parent, [folders[number] for number in numbers])
        for number, answer in zip(numbers, made, strict=True):
            answers[number] = answer
    return answers


def _make_in(transport: Transport, user: str, parent: str, folders: Sequence[NewFolder]) -> list[str | None]:
    answers = _make_from(transport, user, parent, folders, linked=True)
    if any(_NO_LINKS.search(answer or "") for answer in answers):
        answers = _make_from(transport, user, parent, folders, linked=False)
    return answers


def _make_from(
    transport: Transport, user: str, parent: str, folders: Sequence[NewFolder], *, linked: bool
) -> list[str | None]:
    named = [(new, new.path.rpartition("/")[2]) for new in folders]
    listed = "".join(f"{number}\t{new.slurm_name}\t{name}\n" for number, (new, name) in enumerate(named))
    data = archive({"list": (listed.encode(), 0o600)} | _entries(named, linked=linked))
    form = ""
    if len(data) > _LARGE:
        form, data = "-z", gzip.compress(data, compresslevel=1, mtime=0)
    result = _run(transport, user, scripts.MAKE, data, f"make {len(folders)} job folders", parent, form)
    said = dict(line.split("\t", 1) for line in result.text.split("\n") if "\t" in line)
    answers = [said.get("all") or said.get(str(n)) or result.complaint or "no answer" for n in range(len(folders))]
    return [None if answer == "made" else answer for answer in answers]


def _entries(named: Sequence[tuple[NewFolder, str]], *, linked: bool) -> dict[str, tuple[Content, int]]:
    """Return the entries of these folders in an archive, each with its Slurm name first.

    If `linked`, a file that jobs share is there once, under many names: to make a file costs more than to link it.
    """
    found: dict[str, tuple[Content, int]] = {"jobs": (None, 0o700)}
    first: dict[tuple[bytes, int], tuple[str, int]] = {}
    for new, name in named:
        here = f"jobs/{name}"
        found[here] = (None, 0o700)
        found[f"{here}/.token"] = (new.slurm_name, 0o777)
        for folder in sorted({path.rpartition("/")[0] for path in new.files} - {""}):
            found[f"{here}/{folder}"] = (None, 0o700)
        for path, file in new.files.items():
            content: Content = file.content
            if file.shared and linked:
                known, count = first.get((file.content, file.mode), ("", _LINKS))
                if count < _LINKS:
                    content = SameAs(known)
                else:
                    known, count = f"{here}/{path}", 0
                first[file.content, file.mode] = known, count + 1
            found[f"{here}/{path}"] = (content, file.mode)
    return found


def look(
    transport: Transport,
    user: str,
    folders: Sequence[str],
    tasks: Mapping[str, int] = MappingProxyType({}),
    seconds: float = 60.0,
) -> list[FolderContents | None]:
    """Read the contents of these folders. `tasks` has the number of tasks of arrays, by folder.

    Returns None for a folder that is missing with its parent: the file system is not mounted, and the folder may exist.
    The cost of each folder is bounded on the cluster, whatever the folder contains. Raises `Unknown` if the answer is
    incomplete.
    """
    stdin = "".join(f"{tasks.get(folder, 0)}\t{folder}\n" for folder in folders).encode()
    what = f"look into {len(folders)} job folders"
    timeout = _timeout(seconds, folders)
    result = _run(
        transport, user, scripts.LOOK, stdin, what, str(MOST_EXITS), timeout=timeout, limit=_LOOK_BYTES, waits=True
    )
    # Not `splitlines`: the users' text may contain other ends of lines than "\n".
    lines = result.text.split("\n")
    if lines[-2:] != ["end", ""]:
        raise Unknown(f"could not {what} as {user}: the answer breaks off: {result.complaint}")
    # A banner may precede the first line.
    found = _parse_look(dropwhile(lambda line: not _FOUND.fullmatch(line), lines[:-2]), user)
    if set(found) != set(range(len(folders))):
        raise Unknown(f"could not {what} as {user}: the answer is about {len(found)} folders")
    return [found[number] for number in range(len(folders))]


def _parse_look(lines: Iterator[str], user: str) -> dict[int, FolderContents | None]:
    found: dict[int, FolderContents | None] = {}
    exits: dict[int, list[ExitRecord]] = defaultdict(list)
    for line in lines:
        match = _FOUND.fullmatch(line)
        number = int(match[1]) if match else -1
        known = found.get(number)
        if match and match[2]:
            trouble = "its account may not open it" if match[2] == "shut" else ""
            found[number] = None if match[2] == "away" else FolderContents(exists=match[2] == "folder", trouble=trouble)
        elif match and known is not None and match[3] == "owner":
            owner, since, sluid = [*(match[4] or "").split(" "), "", ""][:3]
            found[number] = replace(known, owner=owner, since=int(since) if since.isdecimal() else None, sluid=sluid)
        elif match and known is not None and match[3] == "more":
            found[number] = replace(known, more=True)
        elif match and known is not None:
            exits[number] += _read_exit_line(match[4] or "")
        else:
            raise Unknown(f"could not look into job folders as {user}: the answer has the line {line[:200]!r}")
    for number, records in exits.items():
        if (looked := found[number]) is not None:
            found[number] = replace(looked, exits=tuple(records))
    return found


def _read_exit_line(text: str) -> Iterator[ExitRecord]:
    """Read a file's name and its first line. A record that names another task than its file is ignored."""
    if (match := _EXIT.fullmatch(text)) is not None:
        record = read_exit(match[2])
        if record is not None and record.task == match[1]:
            yield record


def fence(transport: Transport, user: str, targets: Mapping[str, str], seconds: float = 60.0) -> list[str]:
    """Make the link `owner` in each of these folders, unless there is one. Return the links' targets.

    A target is empty if its link could be neither made nor read.
    """
    stdin = "".join(f"{target}\t{folder}\n" for folder, target in targets.items()).encode()
    what = f"fence {len(targets)} jobs"
    result = _run(transport, user, scripts.FENCE, stdin, what, timeout=_timeout(seconds, targets), waits=True)
    lines = result.text.split("\n")[:-1]
    if len(lines) != len(targets):
        raise Unknown(f"could not {what} as {user}: the answer has {len(lines)} lines")
    return lines


def close(transport: Transport, user: str, folders: Sequence[str], seconds: float = 60.0) -> dict[str, str]:
    """Make `owner` link to `closed` in the folders of these final jobs. Return the reasons of those that stay open."""
    what = f"close {len(folders)} job folders"
    stdin = "".join(f"{folder}\n" for folder in folders).encode()
    result = _run(transport, user, scripts.CLOSE, stdin, what, timeout=_timeout(seconds, folders), waits=True)
    lines = result.text.split("\n")
    if lines[-2:] != ["end", ""]:
        raise Unknown(f"could not {what} as {user}: the answer breaks off")
    reasons = dict(line.split("\t", 1) for line in lines[:-2] if "\t" in line)
    return {folder: reasons[str(number)] for number, folder in enumerate(folders) if str(number) in reasons}


def remove(transport: Transport, user: str, folders: Mapping[str, str]) -> frozenset[str]:
    """Remove folders, given with their Slurm names, but not those of other jobs. Return the folders that remain."""
    return _remove(transport, user, scripts.REMOVE, folders, f"remove {len(folders)} job folders")


def remove_logs(transport: Transport, user: str, folders: Mapping[str, str]) -> frozenset[str]:
    """Remove the logs in folders, given with their Slurm names. Return the folders in which logs remain."""
    return _remove(transport, user, scripts.REMOVE_LOGS, folders, f"remove the logs in {len(folders)} job folders")


def _remove(transport: Transport, user: str, script: str, folders: Mapping[str, str], what: str) -> frozenset[str]:
    stdin = "".join(f"{slurm_name}\t{folder}\n" for folder, slurm_name in folders.items()).encode()
    lines = _run(transport, user, script, stdin, what, timeout=300.0).text.split("\n")
    if lines[-2:] != ["end", ""]:
        raise Unknown(f"could not {what} as {user}: the answer breaks off")
    numbers = {int(line) for line in lines[:-2] if re.fullmatch(r"[0-9]{1,9}", line)}
    return frozenset(folder for number, folder in enumerate(folders) if number in numbers)


def write_views(
    transport: Transport, user: str, views: Mapping[str, str], name: str = "hosts", seconds: float = 60.0
) -> set[str]:
    """Write a hosts view into each of these folders, mode 0600, by rename. Return the folders that have it now.

    A folder that does not exist is not made. `name` is the file's name, if it is another small file.
    """
    listed = "".join(f"{number}\t{folder}\n" for number, folder in enumerate(views))
    files = {"list": (listed.encode(), 0o600)}
    files |= {str(number): (text.encode(), 0o600) for number, text in enumerate(views.values())}
    what, timeout = f"write {len(views)} files {name}", _timeout(seconds, views)
    result = _run(transport, user, scripts.VIEWS, archive(files), what, name, timeout=timeout, waits=True)
    written = set(result.text.split("\n"))
    return {folder for number, folder in enumerate(views) if str(number) in written}


def _timeout(seconds: float, folders: Sequence[str] | Mapping[str, str]) -> float:
    return seconds + len(folders) / 50


def _run(
    transport: Transport,
    user: str,
    script: str,
    stdin: bytes,
    what: str,
    *arguments: str,
    timeout: float = 60.0,
    limit: int = 16 * MEBIBYTE,
    waits: bool = False,
) -> Result:
    """Run a script.

    With `waits` it waits for commands of other accounts for at most a quarter of its timeout, so that a late start is
    not reported as a timeout of its own account.
    """
    argv = ("/bin/sh", "-c", script, "sh", *arguments)
    longest = timeout / 4 if waits else None
    result = transport.run(Command(argv, stdin=stdin, user=user, timeout=timeout, waits=longest, output_limit=limit))
    if result.status != 0:
        raise Unknown(f"could not {what} as {user}: exit {result.status}: {result.complaint or 'no reason given'}")
    return result
