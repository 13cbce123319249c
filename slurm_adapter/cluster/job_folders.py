"""Jobs' folders on the cluster, seen through a transport: made, looked into, closed and removed under the job's user.

Each operation is one command for all jobs of one account. What differs from job to job travels on standard input, so
that neither the number of jobs nor their names meet a limit of the command line.
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import dropwhile
from types import MappingProxyType
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import MEBIBYTE, Command
from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.core.evidence import ExitRecord, FolderContents, read_exit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_adapter.cluster.transports.interface import Result, Transport
    from slurm_adapter.translation.translate import File


_WAITS = 4
"""One part in so many of a command's time it waits for other accounts' commands: a late start is not its own delay."""


# $1 is the folder in which they are made, $2 an option of tar or nothing. One process unpacks them all beside their
# places and one puts them there, so that a thousand cost little more than one, and each is there whole or not at all.
# The files are of now (-m): sites clear away what is old.
_MAKE = r"""
umask 077
say() { printf '%s\t%s\n' "$1" "${2:-no reason given}" | head -n 1; }
refuse() { # WHY PARENT: what the system says, and how to fix it. What is not this account's may come back by itself.
    at=$(readlink -m -- "$2") && [ -n "$at" ] || at=$2
    whole=$at
    until [ -e "$at" ] || [ "$at" = / ]; do
        at=${at%/*}
        at=${at:-/}
    done
    case $1 in
        *'Permission denied'* | *'No such file'* | *'Not a directory'*)
            if [ ! -d "$at" ]; then
                set -- "$1; $at is no folder"
            elif [ -O "$at" ] && [ "$at" = "$whole" ]; then
                set -- "$1; its owner must be able to write there: chmod u+rwx $at"
            elif [ -O "$at" ]; then
                set -- "$1; make it as this account: mkdir -m 700 $2"
            elif [ "$at" != "$whole" ] || [ -z "$(ls -A -- "$at" 2>&1)" ]; then
                set -- "$1; is its file system mounted?"
            else
                set -- "$1; $at must belong to this account: see jobs.folder"
            fi
            ;;
    esac
    say all "$1"
    exit 0
}
cd -P -- "$1" 2>/dev/null || refuse "$(ls -d -- "$1/." 2>&1)" "$1"
for left in ./.ucloud-new.*; do
    # Those of makers that were killed.
    [ ! -d "$left" ] || find . -maxdepth 1 -name '.ucloud-new.*' -mmin +60 -exec rm -rf {} + 2>/dev/null
    break
done
new=$(mktemp -d ./.ucloud-new.XXXXXX 2>&1) || refuse "$new" "$1"
trap 'rm -rf "$new"' EXIT
if ! why=$(tar -x ${2:+"$2"} -m -p -f - -C "$new" 2>&1); then
    # GNU tar tells of a full disk as of a file that it "wrote only" a part of.
    say all "$(printf '%s\n' "$why" | head -n 1) ($(df -P -k . | awk 'END { print $4 }') KiB are free in $1)"
    exit 0
fi
mv -n -t . -- "$new/jobs/"* 2>/dev/null # what this leaves, whatever the reason, the loop sees to
while IFS='	' read -r number token name; do
    case $name in */*) continue ;; esac # the helper for sudo lets through no folder elsewhere
    one=$new/jobs/$name
    if [ -e "$one" ]; then
        if [ -L "./$name" ] || [ ! -O "./$name" ] || [ "$(readlink -- "./$name/.token")" != "$token" ]; then
            # One that is empty was made by an attempt that was cut short.
            [ -L "./$name" ] || [ ! -O "./$name" ] || rmdir -- "./$name" 2>/dev/null
            [ -e "./$name" ] || [ -L "./$name" ] || why=$(mv -n -T -- "$one" "./$name" 2>&1)
            [ ! -e "$one" ] || { say "$number" "${why:-File exists}"; continue; }
        elif ! why=$(cp -R -P -p --remove-destination -- "$one/." "./$name/" 2>&1); then
            say "$number" "$why"
            continue
        fi
    fi
    printf '%s\tmade\n' "$number"
done <"$new/list"
"""

# Prints as many free numbers as it is asked for, from $1 on. What comes after $2 are the parts of the folder's path
# between which the number stands.
_FREE = r"""
number=$1 wanted=$2 first=$3
shift 3
while [ "$wanted" -gt 0 ]; do
    folder=$first
    for part; do folder=$folder$number$part; done
    if [ ! -e "$folder" ] && [ ! -L "$folder" ]; then
        printf '%s\n' "$number"
        wanted=$((wanted - 1))
    fi
    number=$((number + 1))
done
printf 'end\n'
"""

# Each line is how many exit records a job may have left, and its folder; $1 is how many are read in all.
_LOOK = r"""
number=0
budget=$1
while IFS='	' read -r most folder; do
    if [ -d "$folder/" ] && cd -P -- "$folder" 2>/dev/null; then
        printf '%s folder\n' "$number"
        # Most have neither link nor file, and what a program's start costs is a thousand times that.
        if [ -L owner ]; then
            owner=$(find owner -maxdepth 0 -printf '%Ts %l')
            since=${owner%% *} owner=${owner#* }
            case $owner in *[!0-9a-z]*) owner='?' ;; esac
            sluid=
            [ ! -L .sluid ] || sluid=$(readlink .sluid)
            case $sluid in *[!0-9a-zA-Z]*) sluid= ;; esac
            printf '%s owner %s %s %s\n' "$number" "$owner" "$since" "$sluid"
        fi
        # Its user may have put anything there: pipes that nobody writes to, millions of files, endless files. So only
        # as many are opened as there are tasks, and of each the first line counts: a record is one.
        if [ "$most" -gt 0 ]; then
            [ "$most" -le "$budget" ] || most=$budget
            found=$(find . -maxdepth 1 -name 'exit-*.json' ! -name '*[!-.a-z0-9]*' -type f -printf '%f\n' |
                grep -a -x 'exit-[0-9]*\.json' | head -n "$((most + 1))")
        else
            found=
            [ ! -f exit.json ] || [ -L exit.json ] || found=exit.json most=1
        fi
        if [ -n "$found" ]; then
            told=$(printf '%s\n' "$found" | wc -l)
            [ "$told" -le "$most" ] || { told=$most; printf '%s more\n' "$number"; }
            budget=$((budget - told))
            printf '%s\n' "$found" | head -n "$told" | xargs head -v -c 1024 -- | awk -v number="$number" '
                /^==> exit[-0-9]*\.json <==$/ { name = $2; next }
                name != "" { print number, "exit", name, substr($0, 1, 1024); name = "" }
            '
        fi
        cd /
    elif [ -d "$folder/" ]; then
        printf '%s shut\n' "$number"
    elif [ -d "${folder%/*}" ]; then
        printf '%s missing\n' "$number"
    else
        printf '%s away\n' "$number"
    fi
    number=$((number + 1))
done
printf 'end\n'
"""

_FENCE = r"""
while IFS='	' read -r target folder; do
    # -T: where its user has put a folder there, no link in that.
    if ln -sT -- "$target" "$folder/owner" 2>/dev/null; then
        printf '%s\n' "$target"
    else
        printf '%s\n' "$(readlink -n -- "$folder/owner" | tr '\n' ' ')"
    fi
done
"""

_CLOSE = r"""
close_it() {
    [ -d "$1" ] || return 0
    [ ! -e "$1/.closed" ] && [ ! -L "$1/.closed" ] || rm -rf -- "$1/.closed"
    [ -L "$1/owner" ] || ! ln -sT closed "$1/owner" 2>/dev/null || return 0
    ln -sn closed "$1/.closed" && mv -fT -- "$1/.closed" "$1/owner"
}
number=0
while IFS= read -r folder; do
    why=$(close_it "$folder" 2>&1) || printf '%s\t%s\n' "$number" "$(printf '%s' "${why:-no reason given}" | head -n 1)"
    number=$((number + 1))
done
printf 'end\n'
"""

# Both print the numbers of those of which something is left, or of which it cannot be seen whether it is: the file
# system may be away, and leave its mount point, which is not the user's. A folder with another token is not the job's.
_LEFT = r"""
left() { # TOKEN FOLDER
    [ -O "${2%/*}" ] && [ -r "${2%/*}" ] || return 0
    [ ! -e "${2%/*}/.ucloud-gone.$1" ] || return 0
    [ -e "$2" ] || [ -L "$2" ] || return 1
    found=$(readlink -- "$2/.token") || return 0
    [ "$found" = "$1" ]
}
"""

# Renamed first: of a large folder the removal may be cut short, and what it leaves has perhaps no token any more.
_REMOVE = rf"""
{_LEFT}
number=0
while IFS='	' read -r token folder; do
    case $token in */*) continue ;; esac # it is a part of a path below
    if left "$token" "$folder"; then
        gone=${{folder%/*}}/.ucloud-gone.$token
        [ ! -e "$gone" ] || rm -rf -- "$gone"
        if [ "$(readlink -- "$folder/.token")" = "$token" ]; then
            mv -nT -- "$folder" "$gone" 2>/dev/null || gone=$folder
            rm -rf -- "$gone"
        fi
        ! left "$token" "$folder" || printf '%s\n' "$number"
    fi
    number=$((number + 1))
done
printf 'end\n'
"""

_REMOVE_LOGS = rf"""
{_LEFT}
number=0
while IFS='	' read -r token folder; do
    if [ "$(readlink -- "$folder/.token")" != "$token" ]; then
        ! left "$token" "$folder" || printf '%s\n' "$number"
    else
        # Other files that the job has named so are its own affair.
        find "$folder/" -maxdepth 1 -regextype posix-extended -regex '.*/std(out|err)(-[0-9]+)?\.txt' \
            ! -type d -delete || printf '%s\n' "$number"
    fi
    number=$((number + 1))
done
printf 'end\n'
"""

_VIEWS = r"""
umask 077
here=$(mktemp -d /tmp/ucloud.XXXXXX) || exit 1
trap 'rm -rf "$here"' EXIT
tar -x -f - -C "$here" || exit 1
while IFS='	' read -r number folder; do
    cp --remove-destination -- "$here/$number" "$folder/.hosts" && mv -fT -- "$folder/.hosts" "$folder/$1" &&
        printf '%s\n' "$number"
done <"$here/list"
true
"""


USER_SCRIPTS = {
    "make": _MAKE,
    "free": _FREE,
    "look": _LOOK,
    "fence": _FENCE,
    "close": _CLOSE,
    "remove": _REMOVE,
    "remove_logs": _REMOVE_LOGS,
    "views": _VIEWS,
}
"""What runs as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


@dataclass(frozen=True, slots=True)
class NewFolder:
    """A folder to make."""

    path: str
    token: str
    files: Mapping[str, File]


def find_free(transport: Transport, user: str, pattern: str, first: int, count: int) -> list[int]:
    """Return the first `count` numbers, from `first` on, for which there is no folder `pattern` yet.

    `{id}` stands for the number in the pattern. Raises `TryAgain` if that cannot be seen.
    """
    what = "look for a folder name that is free"
    try:
        text = _run(transport, user, _FREE, b"", what, str(first), str(count), *pattern.split("{id}")).text
    except Unknown as error:
        raise TryAgain(f"nothing was submitted: {error}") from error
    found = [int(line) for line in text.split("\n") if re.fullmatch(r"[0-9]{1,18}", line)]
    if not text.endswith("end\n") or len(found) != count:
        raise TryAgain(f"nothing was submitted: could not {what} as {user}: the answer is not whole: {text[:200]!r}")
    return found


def make(transport: Transport, user: str, folders: Sequence[NewFolder]) -> list[str | None]:
    """Make these folders, mode 700, with their files; for each why it could not be made, or None.

    A folder that exists is refused unless it is this very job's, from an attempt that was cut short: the link `.token`
    in it tells, which comes into being with what it says.
    """
    answers: list[str | None] = [None] * len(folders)
    parents: dict[str, list[int]] = defaultdict(list)
    for number, new in enumerate(folders):
        parents[new.path.rpartition("/")[0] or "/"].append(number)
    for parent, numbers in parents.items():
        told = _make_in(transport, user, parent, [folders[number] for number in numbers])
        for number, answer in zip(numbers, told, strict=True):
            answers[number] = answer
    return answers


def _make_in(transport: Transport, user: str, parent: str, folders: Sequence[NewFolder]) -> list[str | None]:
    answers = _make_from(transport, user, parent, folders, linked=True)
    if any(_NO_LINKS.search(answer or "") for answer in answers):
        answers = _make_from(transport, user, parent, folders, linked=False)
    return answers


_NO_LINKS = re.compile(r"Cannot hard link", re.IGNORECASE)
"""Of GNU tar, on a file system that has none, or none from one folder to another."""


def _make_from(
    transport: Transport, user: str, parent: str, folders: Sequence[NewFolder], *, linked: bool
) -> list[str | None]:
    named = [(new, new.path.rpartition("/")[2]) for new in folders]
    listed = "".join(f"{number}\t{new.token}\t{name}\n" for number, (new, name) in enumerate(named))
    data = archive({"list": (listed.encode(), 0o600)} | _entries(named, linked=linked))
    form = ""
    if len(data) > _LARGE:
        form, data = "-z", gzip.compress(data, compresslevel=1, mtime=0)
    result = _run(transport, user, _MAKE, data, f"make {len(folders)} job folders", parent, form)
    told = dict(line.split("\t", 1) for line in result.text.split("\n") if "\t" in line)
    answers = [told.get("all") or told.get(str(n)) or result.complaint or "no answer" for n in range(len(folders))]
    return [None if answer == "made" else answer for answer in answers]


@dataclass(frozen=True, slots=True)
class SameAs:
    """An entry of an archive that is one file with an earlier one, which it names."""

    name: str


Content = bytes | str | SameAs | None
"""Of an entry of an archive; a text is where a symbolic link points, and None a folder."""

_LARGE = 256 * 1024
"""An archive of more bytes is packed: of a thousand jobs, who differ in little, a fortieth is left in a few ms."""

_LINKS = 1000
"""So many names one file gets at most; ext4 allows 65000."""


def _entries(named: Sequence[tuple[NewFolder, str]], *, linked: bool) -> dict[str, tuple[Content, int]]:
    """What a tar archive holds of these folders, as `archive` wants it: the token first.

    Of a file that jobs share there is one, under many names, where it is `linked`: making a file is what costs.
    """
    found: dict[str, tuple[Content, int]] = {"jobs": (None, 0o700)}
    first: dict[tuple[bytes, int], tuple[str, int]] = {}
    for new, name in named:
        here = f"jobs/{name}"
        found[here] = (None, 0o700)
        found[f"{here}/.token"] = (new.token, 0o777)
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


_TOLD = re.compile(r"([0-9]{1,9}) (?:(folder|shut|missing|away)|(owner|exit|more)(?: (.*))?)", re.DOTALL)
_EXIT = re.compile(r"exit(?:-([0-9]{1,18}))?\.json (.*)", re.ASCII | re.DOTALL)

MOST_EXITS = 100_000
"""Exit records that one look reads; more are those of the account's next look."""


def look(
    transport: Transport,
    user: str,
    folders: Sequence[str],
    tasks: Mapping[str, int] = MappingProxyType({}),
    seconds: float = 60.0,
) -> list[FolderContents | None]:
    """Look into these folders. `tasks`: how many an array has, by its folder. Raise `Unknown` for half an answer.

    None for one whose parent is not there either: its file system is away, and nothing can be said of it. What one
    folder can make a look cost is bounded on the cluster, whatever is in it.
    """
    what = f"look into {len(folders)} job folders"
    stdin = "".join(f"{tasks.get(folder, 0)}\t{folder}\n" for folder in folders).encode()
    timeout = seconds + len(folders) / 50
    result = _run(
        transport, user, _LOOK, stdin, what, str(MOST_EXITS), timeout=timeout, limit=_LOOK_BYTES, waits=timeout / _WAITS
    )
    # Not `splitlines`, for which a user's text may hold more ends of lines than this one.
    lines = result.text.split("\n")
    if lines[-2:] != ["end", ""]:
        raise Unknown(f"looking into {len(folders)} job folders as {user} gave half an answer: {result.complaint}")
    found: dict[int, FolderContents | None] = {}
    exits: dict[int, list[ExitRecord]] = defaultdict(list)
    # What stands before the first line is a banner.
    for line in dropwhile(lambda line: not _TOLD.fullmatch(line), lines[:-2]):
        match = _TOLD.fullmatch(line)
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
            raise Unknown(f"looking into job folders as {user} gave the line {line[:200]!r}")
    for number, records in exits.items():
        if (looked := found[number]) is not None:
            found[number] = replace(looked, exits=tuple(records))
    if set(found) != set(range(len(folders))):
        raise Unknown(f"looking into {len(folders)} job folders as {user} told of {len(found)}")
    return [found[number] for number in range(len(folders))]


_LOOK_BYTES = 64 * MEBIBYTE


def _read_exit_line(text: str) -> Iterator[ExitRecord]:
    """Read a file's name and its first line. Each record speaks of its own task only."""
    if (match := _EXIT.fullmatch(text)) is not None:
        record = read_exit(match[2])
        if record is not None and record.task == match[1]:
            yield record


def fence(transport: Transport, user: str, targets: Mapping[str, str], seconds: float = 60.0) -> list[str]:
    """Make `owner` name a target in each of these folders, where it names nothing yet; what it names then.

    Empty where it could be neither made nor read.
    """
    stdin = "".join(f"{target}\t{folder}\n" for folder, target in targets.items()).encode()
    what = f"fence {len(targets)} jobs"
    timeout = seconds + len(targets) / 50
    result = _run(transport, user, _FENCE, stdin, what, timeout=timeout, waits=timeout / _WAITS)
    lines = result.text.split("\n")[:-1]
    if len(lines) != len(targets):
        raise Unknown(f"fencing {len(targets)} jobs as {user} gave {len(lines)} answers")
    return lines


def close(transport: Transport, user: str, folders: Sequence[str], seconds: float = 60.0) -> dict[str, str]:
    """Make `owner` name `closed`, whatever it named: these jobs are final. Return why not, for those that stay open."""
    what = f"close {len(folders)} job folders"
    timeout = seconds + len(folders) / 50
    result = _run(transport, user, _CLOSE, _lines(folders), what, timeout=timeout, waits=timeout / _WAITS)
    lines = result.text.split("\n")
    if lines[-2:] != ["end", ""]:
        raise Unknown(f"could not {what} as {user}: the answer breaks off")
    told = dict(line.split("\t", 1) for line in lines[:-2] if "\t" in line)
    return {folder: told[str(number)] for number, folder in enumerate(folders) if str(number) in told}


def remove(transport: Transport, user: str, folders: Mapping[str, str]) -> frozenset[str]:
    """Remove these folders, given with their tokens; one that is another job's stays. Those that could not be."""
    return _remove(transport, user, _REMOVE, folders, f"remove {len(folders)} job folders")


def remove_logs(transport: Transport, user: str, folders: Mapping[str, str]) -> frozenset[str]:
    """Likewise, only the logs in them."""
    return _remove(transport, user, _REMOVE_LOGS, folders, f"remove the logs in {len(folders)} job folders")


def _remove(transport: Transport, user: str, script: str, folders: Mapping[str, str], what: str) -> frozenset[str]:
    stdin = "".join(f"{token}\t{folder}\n" for folder, token in folders.items()).encode()
    lines = _run(transport, user, script, stdin, what, timeout=300.0).text.split("\n")
    if lines[-2:] != ["end", ""]:
        raise Unknown(f"could not {what} as {user}: the answer breaks off")
    ordered = list(folders)
    numbers = {int(line) for line in lines[:-2] if re.fullmatch(r"[0-9]{1,9}", line)}
    return frozenset(folder for number, folder in enumerate(ordered) if number in numbers)


def write_views(
    transport: Transport, user: str, views: Mapping[str, str], name: str = "hosts", seconds: float = 60.0
) -> set[str]:
    """Write a hosts file into each of these folders, mode 0600, by rename; those folders where it now stands.

    It cannot stand in a folder that is not made yet. `name`: that of another small file.
    """
    listed = "".join(f"{number}\t{folder}\n" for number, folder in enumerate(views))
    files = {"list": (listed.encode(), 0o600)}
    files |= {str(number): (text.encode(), 0o600) for number, text in enumerate(views.values())}
    what, timeout = f"write {len(views)} files {name}", seconds + len(views) / 50
    result = _run(transport, user, _VIEWS, archive(files), what, name, timeout=timeout, waits=timeout / _WAITS)
    told = set(result.text.split("\n"))
    return {folder for number, folder in enumerate(views) if str(number) in told}


def archive(entries: Mapping[str, tuple[Content, int]]) -> bytes:
    """A tar archive of files, given by name with content and mode; the same entries give the same bytes."""
    blocks = []
    for name, (content, mode) in entries.items():
        if isinstance(content, bytes):
            blocks += [_head(name, tarfile.REGTYPE, mode, len(content), ""), content, b"\0" * (-len(content) % _BLOCK)]
        elif isinstance(content, str):
            blocks.append(_head(name, tarfile.SYMTYPE, mode, 0, content))
        elif content is None:
            blocks.append(_head(name, tarfile.DIRTYPE, mode, 0, ""))
        else:
            blocks.append(_head(name, tarfile.LNKTYPE, mode, 0, content.name))
    return b"".join([*blocks, b"\0" * (2 * _BLOCK)])


_BLOCK = tarfile.BLOCKSIZE


def _head(name: str, kind: bytes, mode: int, size: int, link: str) -> bytes:
    """The head of an entry. Python's library takes as long for each as it takes to make the file."""
    own, other = name.encode(errors="surrogateescape"), link.encode(errors="surrogateescape")
    if kind == tarfile.DIRTYPE:
        own += b"/"
    if max(len(own), len(other)) > 100:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.linkname = kind, mode, size, link
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8")
    # Name, mode and so on, checksum, type, other name, the rest: tar(5). The sum counts its own field as blanks.
    middle, rest, total = _nameless(kind, mode, size)
    checksum = b"%06o\0 " % (total + sum(own) + sum(other))
    return b"".join((own.ljust(100, b"\0"), middle, checksum, kind, other.ljust(100, b"\0"), rest))


@lru_cache(maxsize=1024)
def _nameless(kind: bytes, mode: int, size: int) -> tuple[bytes, bytes, int]:
    """What the heads of such entries have alike, before and behind what differs, and its part of the checksum."""
    info = tarfile.TarInfo()
    info.type, info.mode, info.size = kind, mode, size
    head = info.tobuf(tarfile.GNU_FORMAT)
    return head[100:148], head[257:], int(head[148:154], 8) - sum(head[:100])


def _lines(folders: Sequence[str]) -> bytes:
    return "".join(f"{folder}\n" for folder in folders).encode()


def _run(
    transport: Transport,
    user: str,
    script: str,
    stdin: bytes,
    what: str,
    *arguments: str,
    timeout: float = 60.0,
    limit: int = 16 * MEBIBYTE,
    waits: float | None = None,
) -> Result:
    argv = ("/bin/sh", "-c", script, "sh", *arguments)
    command = Command(argv, stdin=stdin, user=user, timeout=timeout, waits=waits, output_limit=limit)
    result = transport.run(command)
    if result.status != 0:
        raise Unknown(f"could not {what} as {user}: exit {result.status}: {result.complaint or 'no reason given'}")
    return result
