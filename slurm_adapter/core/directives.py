"""sbatch's directives as data: building them, printing them in Slurm's own quoting, and looking at a finished script.

`#SBATCH` lines are not shell: white space separates, double quotes group, `#` begins a comment, and a backslash
escapes even inside quotes (so the shell's quoting would corrupt a value with a backslash). A newline or NUL cannot be
written at all.

An application of the site may set any directive of `sbatch` by its long name, except these, which are refused with the
reason. (What other text may set is in `slurm_adapter.core.allowance`.)

* `account`, `partition`, `qos`: what the job is charged to and may use comes from the site's machine table; so do
  `constraint` and `exclusive` where the table sets them.
* `nodes`, `time` (and `time-min`): the job's replicas and time allocation, which the machine table limits.
* `job-name`, `comment`: how the adapter knows its own jobs.
* `chdir`, `output`, `error`, `input`, `open-mode`: the job's folder and logs.
* `export`, `export-file`, `get-user-env`: the job's environment is written into the script.
* `uid`, `gid`, `clusters`, `cluster-constraint`, `wrap`, `dependency`, `nodefile`, `bbf`, `container` and whatever
  changes what sbatch itself does or prints (`parsable`, `wait`, `test-only`, ...).

Names are taken whole: sbatch itself also takes unambiguous beginnings, and `--accoun=x` would pass any list.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.allowance import check_allowed, check_product
from slurm_adapter.core.arrays import read_tasks
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.specification import for_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.core.config import Machine
    from slurm_adapter.core.specification import SimpleDuration

PROTECTED = {
    **dict.fromkeys(("account", "partition", "qos"), "comes from the site's machine table"),
    "nodes": "comes from the job's replicas",
    **dict.fromkeys(("time", "time-min"), "comes from the job's time allocation"),
    **dict.fromkeys(("job-name", "comment"), "is how the adapter knows its jobs"),
    **dict.fromkeys(("chdir", "output", "error", "input", "open-mode"), "is the job's folder"),
    **dict.fromkeys(("export", "export-file", "get-user-env"), "is the job's environment"),
    **dict.fromkeys(("uid", "gid"), "is the job's owner"),
    **dict.fromkeys(("clusters", "cluster-constraint"), "is the site's cluster"),
    "dependency": "comes from the job's peers",
    **dict.fromkeys(("nodefile", "bbf"), "would read a file of the submitting machine"),
    **dict.fromkeys(("container", "container-id"), "would replace the job's root"),
    **dict.fromkeys(
        ("wrap", "parsable", "quiet", "verbose", "wait", "test-only", "help", "usage", "version", "ignore-pbs"),
        "changes what sbatch itself does",
    ),
}
"""Directives that no application sets, and why."""

FREE = frozenset(
    [
        "acctg-freq",
        "array",
        "batch",
        "bb",
        "begin",
        "constraint",
        "contiguous",
        "core-spec",
        "cores-per-socket",
        "cpu-freq",
        "cpus-per-gpu",
        "cpus-per-task",
        "deadline",
        "delay-boot",
        "distribution",
        "exclude",
        "exclusive",
        "extra",
        "extra-node-info",
        "gpu-bind",
        "gpu-freq",
        "gpus",
        "gpus-per-node",
        "gpus-per-socket",
        "gpus-per-task",
        "gres",
        "gres-flags",
        "hint",
        "hold",
        "kill-on-invalid-dep",
        "licenses",
        "mail-type",
        "mail-user",
        "mcs-label",
        "mem",
        "mem-bind",
        "mem-per-cpu",
        "mem-per-gpu",
        "mincpus",
        "network",
        "nice",
        "no-kill",
        "no-requeue",
        "nodelist",
        "ntasks",
        "ntasks-per-core",
        "ntasks-per-gpu",
        "ntasks-per-node",
        "ntasks-per-socket",
        "oom-kill-step",
        "overcommit",
        "oversubscribe",
        "power",
        "prefer",
        "priority",
        "profile",
        "propagate",
        "reboot",
        "requeue",
        "reservation",
        "resv-ports",
        "segment",
        "signal",
        "sockets-per-node",
        "spread-job",
        "stepmgr",
        "switches",
        "thread-spec",
        "threads-per-core",
        "tmp",
        "tres-bind",
        "tres-per-task",
        "use-min-nodes",
        "wait-all-nodes",
        "wckey",
    ]
)
"""Directives that an application may set, of Slurm 22.05 to 25.11."""

VALUE_LIMIT = 4096
"""The most bytes of one value."""

_BARE = re.compile(r"[A-Za-z0-9_./:@%+=,\[\]-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Directive:
    """One option of sbatch: its long name, and its value; None for one that takes none."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        """As it stands after `#SBATCH`."""
        return f"--{self.name}" if self.value is None else f"--{self.name}={quote(self.value)}"


def quote(value: str) -> str:
    """A value in Slurm's own quoting. Raises `InvalidInput` for what cannot be written."""
    if _BARE.fullmatch(value):
        return value
    if re.search(r"[\n\r\0]", value):
        raise InvalidInput(f"{for_message(value)} cannot stand in a directive: it holds a line break or NUL")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def time_limit(allocation: SimpleDuration | None, machine: Machine, default: int) -> int:
    """The job's time limit in seconds: whole minutes, rounded up, for Slurm counts in minutes.

    No allocation means the configured default, at most the machine's limit. Raises `InvalidInput` for one that is not
    positive (to Slurm zero and -1 are no limit at all) or beyond the machine's.
    """
    seconds = min(default, machine.max_time) if allocation is None else allocation.in_seconds
    if seconds <= 0:
        raise InvalidInput("timeAllocation: Time allocated for job is too short; it must be more than 0 seconds")
    if seconds > machine.max_time:
        raise InvalidInput(
            f"timeAllocation: {for_message(seconds)} seconds: this machine allows at most {_time(machine.max_time)}"
        )
    return -(-seconds // 60) * 60


def _time(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day}-{hour:02}:{minute:02}:{second:02}"


def check_replicas(replicas: int, machine: Machine, *, multi_node: bool | None) -> None:
    """Raises `InvalidInput` where there are too few or too many nodes, or several for an application made for one."""
    if replicas < 1:
        raise InvalidInput(f"replicas: {for_message(replicas)}: You must request at least 1 node")
    if replicas > machine.max_nodes:
        raise InvalidInput(f"replicas: {for_message(replicas)}: this machine allows at most {machine.max_nodes}")
    if replicas > 1 and multi_node is False:
        raise InvalidInput(f"replicas: {for_message(replicas)}: this application runs on one node only")


def build_directives(
    machine: Machine,
    *,
    token: str,
    folder: str,
    replicas: int,
    seconds: int,
    after: Sequence[int] = (),
    extra: Iterable[Directive] = (),
    foreign: Sequence[Directive] = (),
) -> tuple[Directive, ...]:
    """Return all directives of a job, in their fixed order.

    `token` names the job to the adapter, `after` are the Slurm ids of peers that should start first. `extra`, of the
    site's text, replace ours of the same name, and `foreign`, of other text, replace both. Raise `InvalidInput` for
    those that may not be set; see `slurm_adapter.core.allowance` for `foreign`.
    """
    gpus = [f"gpu:{machine.gpu_type}:{machine.gpus}" if machine.gpu_type else f"gpu:{machine.gpus}"]
    # sbatch replaces %j and its kin in these two. After a backslash, as in DOMAIN\\user, it replaces nothing.
    logs = folder.replace("\\", r"\\") if "\\" in folder else folder.replace("%", "%%")
    found = {
        "job-name": token,
        "comment": token,
        "partition": machine.partition,
        "qos": machine.qos,
        "account": machine.account,
        "constraint": machine.constraint,
        "nodes": str(replicas),
        "cpus-per-task": str(machine.cpus),
        "mem": f"{machine.memory}G",
        "gres": gpus[0] if machine.gpus else None,
        "exclusive": "" if machine.exclusive else None,
        "time": _time(seconds),
        "chdir": folder,
        "output": f"{logs}/stdout.txt",
        "error": f"{logs}/stderr.txt",
        "open-mode": "append",
        "export": "NONE",
        "propagate": "NONE",  # the limits of the account on the node, not of the process that runs sbatch
        "dependency": "after:" + ":".join(map(str, after)) if after else None,
    }
    directives = {
        name: Directive(name, None if name == "exclusive" else value)
        for name, value in found.items()
        if value is not None
    }
    for directive in extra:
        check_override(directive, machine)
        directives[directive.name] = directive
    for directive in foreign:
        if directive.name in FREE:
            check_allowed(directive.name, directive.value)
        check_override(directive, machine)
        directives[directive.name] = directive
    check_product(
        frozenset(directive.name for directive in foreign),
        {directive.name: directive.value for directive in directives.values()},
        machine,
        replicas,
    )
    return tuple(directives.values())


def check_override(directive: Directive, machine: Machine) -> None:
    """Raises `InvalidInput` for a directive that an application may not set, or whose value cannot be written."""
    name = directive.name
    said = f"the application sets the directive {for_message(name)}"
    if reason := PROTECTED.get(name):
        raise InvalidInput(f"{said}, which {reason}")
    if name not in FREE:
        raise InvalidInput(f"{said}, which is no long name of sbatch")
    if (name == "constraint" and machine.constraint) or (name == "exclusive" and machine.exclusive):
        raise InvalidInput(f"{said}, which the site's machine table sets")
    if directive.value is not None:
        if len(directive.value.encode(errors="replace")) > VALUE_LIMIT:
            raise InvalidInput(f"{said} to more than {VALUE_LIMIT} bytes")
        try:
            quote(directive.value)
        except InvalidInput as error:
            raise InvalidInput(f"{said}: {error}") from error
    if name == "array":
        try:
            read_tasks(directive.value or "")
        except ValueError as error:
            raise InvalidInput(f"{said}: {error}") from error


def count_tasks(directives: Iterable[Directive]) -> int:
    """How many tasks a job has as an array; 0 for one that is none."""
    return sum(len(read_tasks(each.value or "")) for each in directives if each.name == "array")


def read_value(name: str, value: object) -> Directive | None:
    """What `sbatch(name, value)` in a template sets; None where it sets nothing.

    True is a directive without a value; False, none and a `gpus-per-task` of zero or less set nothing.
    """
    if value is None or value is False:
        return None
    if value is True:
        return Directive(name)
    if name == "gpus-per-task" and isinstance(value, int | float) and value <= 0:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return Directive(name, str(value) or None)


_DOCUMENT = re.compile(r"(?<!<)<<(?!<)-?\s*[\"'\\]?(\w+)")
_SBATCH = re.compile(r"#SBATCH --([a-z-]+)(?:=(.*))?", re.ASCII)
_VALUE = re.compile(r'[A-Za-z0-9_./:@%+=,\[\]-]+|"(?:[^"\\]|\\.)*"', re.ASCII)


def lint_script(text: str) -> None:
    """Look at a whole script as sbatch will. Raises `InvalidInput` with the line of what it would refuse or ignore.

    sbatch refuses a blank first line, CRLF and unquoted white space, and silently ignores an indented directive and
    one that comes after the first command. Behind that, the lines of a here-document may be another script's own.
    """
    if not text.startswith("#!/"):
        raise InvalidInput("line 1 of the script is not #!/ and an interpreter")
    if "\0" in text:
        raise InvalidInput("the script holds a NUL character")
    if "\r\n" in text:
        number = text[: text.index("\r\n")].count("\n") + 1
        raise InvalidInput(f"line {number} of the script ends in CRLF; write LF")
    if not text.endswith("\n"):
        raise InvalidInput("the script's last line does not end")
    seen: set[str] = set()
    lines = iter(enumerate(text.split("\n"), start=1))
    for number, line in lines:
        if line and not line.startswith("#"):
            if text.count("\n#SBATCH") > len(seen) or "SBATCH" in line:
                _refuse_late([(number, line), *lines])
            return
        if line.startswith("#SBATCH"):
            name = _name_of(line, number)
            if name in seen:
                raise InvalidInput(f"line {number} of the script: the directive {name} stands twice")
            seen.add(name)


def _refuse_late(lines: Iterable[tuple[int, str]]) -> None:
    """Refuse directives among the script's commands, but for those in here-documents."""
    documents: deque[str] = deque()
    first = True
    for number, line in lines:
        if first and re.match(r"\s+#\s*SBATCH", line):
            raise InvalidInput(f"line {number} of the script: an indented #SBATCH, which sbatch ignores")
        first = False
        if documents:
            if line.lstrip("\t") == documents[0]:
                documents.popleft()
        elif line.startswith("#SBATCH"):
            raise InvalidInput(
                f"line {number} of the script: {for_message(line)} is after the first command, so sbatch ignores it; "
                "an application sets directives by `sbatch`, and the text of another script goes into a here-document"
            )
        elif not line.startswith("#"):
            documents.extend(_DOCUMENT.findall(line))


def _name_of(line: str, number: int) -> str:
    match = _SBATCH.fullmatch(line)
    if match is None or (match[2] is not None and not _VALUE.fullmatch(match[2])):
        raise InvalidInput(f"line {number} of the script: {for_message(line)} is not #SBATCH --name=value, quoted")
    return match[1]
