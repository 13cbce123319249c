"""Programs and options that the shell text of this program may use on a cluster, with their first versions.

`FLOOR` is the oldest version that must do: the lowest of RHEL 8, SLES 15 and Ubuntu 20.04. A program or option without
a version is of POSIX, or older than each of its releases that is listed here. Versions are from the NEWS files of the
GNU packages, and from the release notes of util-linux (Documentation/releases) and bubblewrap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Version = tuple[int, ...]

FLOOR: dict[str, Version] = {
    "bash": (4, 4),
    "bubblewrap": (0, 4, 0),  # Ubuntu 20.04, RHEL 8; SLES 15 has it in a module
    "coreutils": (8, 29),  # SLES 15; RHEL 8 and Ubuntu 20.04: 8.30
    "diffutils": (3, 6),
    "findutils": (4, 6, 0),  # RHEL 8, SLES 15
    "awk": (1, 3, 4),  # mawk of Ubuntu 20.04; the others have gawk 4.2
    "glibc": (2, 26),  # getent; SLES 15
    "grep": (3, 1),
    "gzip": (1, 9),
    "sed": (4, 4),  # SLES 15
    "slurm": (22, 5),
    "sudo": (1, 8),
    "tar": (1, 30),
    "util-linux": (2, 31),  # SLES 15; RHEL 8: 2.32, Ubuntu 20.04: 2.34
    "cc": (0,),  # the demo's; `check` looks for it
}


@dataclass(frozen=True)
class Tool:
    """A program, and the options of it that may be used."""

    package: str
    options: str = ""
    """Separated by spaces. A letter followed by `:` takes a value."""
    newer: dict[str, Version] = field(default_factory=dict)
    """The first version of those options that are not in POSIX, as far as it is known."""
    first: Version = (0,)
    """The first version of the package that has the program."""


TOOLS: dict[str, Tool] = {
    "awk": Tool("awk", "-v:"),
    "base64": Tool("coreutils", "-w:", first=(6, 0)),
    "bwrap": Tool(
        "bubblewrap",
        "--die-with-parent --unshare-user --uid: --gid: --cap-add: --dev-bind::",
        {"--die-with-parent": (0, 1, 8), "--cap-add": (0, 2, 0)},
    ),
    "cat": Tool("coreutils"),
    "cc": Tool("cc", "-static -O2 -w -x -o"),
    "chmod": Tool("coreutils"),
    "cmp": Tool("diffutils", "-s"),
    "cp": Tool("coreutils", "-R -P -p -f --remove-destination", {"--remove-destination": (4, 1)}),
    "cut": Tool("coreutils", "-c: -d: -f:"),
    "date": Tool("coreutils", "-r", {"-r": (4, 0)}),
    "df": Tool("coreutils", "-P -k"),
    "dirname": Tool("coreutils"),
    "env": Tool("coreutils", "-i"),
    "find": Tool(
        "findutils",
        "-lname -maxdepth -mindepth -name -mmin -type -exec -print0 -printf -size -newer -delete -regex -regextype",
    ),
    "getent": Tool("glibc"),
    "grep": Tool("grep", "-q -a -F -E -H -l -c -o -x -h -s -e:"),
    "gzip": Tool("gzip", "-d -c"),
    "head": Tool("coreutils", "-n: -c: -v"),
    "id": Tool("coreutils", "-u -g -n -G"),
    "ln": Tool("coreutils", "-s -f -n -T", {"-T": (5, 0)}),
    "ls": Tool("coreutils", "-d -l -n -A"),
    "mkdir": Tool("coreutils", "-p -m:"),
    "mkfifo": Tool("coreutils", "-m:"),
    "mktemp": Tool("coreutils", "-d", first=(7, 0)),
    "mount": Tool(
        "util-linux",
        "-n -c -t: -o: --bind --rbind --move",
        {"-c": (2, 17)},
    ),
    "mv": Tool("coreutils", "-f -n -t: -T", {"-n": (7, 1), "-t": (5, 3), "-T": (5, 0)}),
    "nsenter": Tool(
        "util-linux",
        "-t: -U -m --user --preserve-credentials",
        {"--preserve-credentials": (2, 26)},
        first=(2, 23),
    ),
    "od": Tool("coreutils", "-A: -N: -t: -v"),
    "realpath": Tool("coreutils", "-e -m -z", first=(8, 15)),
    "readlink": Tool("coreutils", "-n -m", {"-n": (5, 0), "-m": (5, 3)}),
    "rm": Tool("coreutils", "-r -f"),
    "rmdir": Tool("coreutils"),
    "sed": Tool("sed", "-n -e: -E"),
    "setsid": Tool("util-linux"),
    "sh": Tool("bash", "-c"),
    "sha256sum": Tool("coreutils", first=(6, 0)),
    "sleep": Tool("coreutils"),
    "sort": Tool("coreutils", "-u -n -V -k: -t:", {"-V": (7, 0)}),
    "stat": Tool("coreutils", "-c: -L", {"-c": (5, 0)}, first=(5, 0)),
    "sync": Tool("coreutils"),
    "tail": Tool("coreutils", "-n: -c:"),
    "tar": Tool("tar", "-x -m -p -f: -C: -z -c"),
    "tee": Tool("coreutils", "-a"),
    "timeout": Tool("coreutils", "-s: -k:", {"-k": (8, 5)}, first=(7, 0)),
    "touch": Tool("coreutils", "-d:"),
    "tr": Tool("coreutils", "-d -s -c"),
    "umount": Tool("util-linux", "-n -c -l", {"-c": (2, 17)}),
    "uname": Tool("coreutils", "-n"),
    "unshare": Tool("util-linux", "-U -r -m", {"-U": (2, 23), "-r": (2, 25)}, first=(2, 17)),
    "wc": Tool("coreutils", "-l -c"),
    "xargs": Tool("findutils", "-0 -r -n: -P:"),
    "bash": Tool("bash", "-p -c --login -i"),
    "flock": Tool("util-linux", "-w: -x -s -n"),
    "sacct": Tool("slurm"),
    "sbatch": Tool("slurm"),
    "scancel": Tool("slurm"),
    "scontrol": Tool("slurm"),
    "sinfo": Tool("slurm"),
    "squeue": Tool("slurm"),
    "srun": Tool("slurm"),
    "sudo": Tool("sudo", "-n -u:"),
}
