"""Build the directives of sbatch, write them in Slurm's quoting, and check finished scripts.

`#SBATCH` lines are not shell. White space separates, double quotes group, `#` begins a comment, and a backslash escapes
even inside quotes, so that the shell's quoting would corrupt a value with a backslash. Newlines and NUL cannot be
written. See docs/design.md#directives-are-data.

An application of the site may set any directive of `sbatch` by its long name, except these, which are refused with the
reason. `slurm_adapter.core.allowance` has the directives of other text.

* `account`, `partition`, `qos`: the machine table sets them, and perhaps `constraint` and `exclusive`.
* `nodes`, `time` and `time-min`: the job's replicas and time allocation, which the machine table limits.
* `job-name`, `comment`: the adapter finds its jobs by them.
* `chdir`, `output`, `error`, `input`, `open-mode`: the job's folder and logs.
* `export`, `export-file`, `get-user-env`: the script sets the job's environment.
* `uid`, `gid`, `clusters`, `cluster-constraint`, `wrap`, `dependency`, `nodefile`, `bbf`, `container`, and options that
  change what sbatch does or prints (`parsable`, `wait`, `test-only`, ...).

Names must be complete. sbatch also accepts unambiguous prefixes: `--accoun=x` would pass any list of forbidden names.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.allowance import check_allowed, check_product
from slurm_adapter.core.arrays import read_tasks
from slurm_adapter.core.durations import whole_minutes
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.core.config_tables import Machine
    from slurm_adapter.core.specification import SimpleDuration

PROTECTED = {
    **dict.fromkeys(("account", "partition", "qos"), "comes from the site's machine table"),
    "nodes": "comes from the job's replicas",
    **dict.fromkeys(("time", "time-min"), "comes from the job's time allocation"),
    **dict.fromkeys(("job-name", "comment"), "identifies the job for the adapter"),
    **dict.fromkeys(("chdir", "output", "error", "input", "open-mode"), "is the job's folder"),
    **dict.fromkeys(("export", "export-file", "get-user-env"), "is the job's environment"),
    **dict.fromkeys(("uid", "gid"), "is the job's owner"),
    **dict.fromkeys(("clusters", "cluster-constraint"), "is the site's cluster"),
    "dependency": "comes from the job's peers",
    **dict.fromkeys(("nodefile", "bbf"), "would read a file of the machine that runs sbatch"),
    **dict.fromkeys(("container", "container-id"), "would replace the job's root folder"),
    **dict.fromkeys(
        ("wrap", "parsable", "quiet", "verbose", "wait", "test-only", "help", "usage", "version", "ignore-pbs"),
        "changes what sbatch does",
    ),
}
"""Directives that no application may set, with the reason."""

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
"""Directives that an application may set, from Slurm 22.05 to 25.11."""

VALUE_LIMIT = 4096
"""Most bytes of one value."""

_BARE = re.compile(r"[A-Za-z0-9_./:@%+=,\[\]-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Directive:
    """One option of sbatch: its long name and its value; None for an option without value."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        """Return the text after `#SBATCH`."""
        return f"--{self.name}" if self.value is None else f"--{self.name}={quote(self.value)}"


def quote(value: str) -> str:
    """Return a value in Slurm's quoting. Raise `InvalidInput` if it cannot be written."""
    if _BARE.fullmatch(value):
        return value
    if re.search(r"[\n\r\0]", value):
        raise InvalidInput(f"{for_message(value)} cannot be the value of a directive: it has a line break or NUL")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def time_limit(allocation: SimpleDuration | None, machine: Machine, default: int) -> int:
    """Return the job's time limit in seconds, rounded up to whole minutes.

    Without an allocation, return the configured default, but at most the machine's limit. Raise `InvalidInput` for an
    allocation that is not positive (for Slurm, 0 and -1 mean no limit) or longer than the machine's limit.
    """
    seconds = min(default, machine.max_time) if allocation is None else allocation.in_seconds
    if seconds <= 0:
        raise InvalidInput("timeAllocation: Time allocated for job is too short; it must be more than 0 seconds")
    if seconds > machine.max_time:
        raise InvalidInput(
            f"timeAllocation: {for_message(seconds)} seconds: this machine allows at most {_time(machine.max_time)}"
        )
    return whole_minutes(seconds)


def _time(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day}-{hour:02}:{minute:02}:{second:02}"


def check_replicas(replicas: int, machine: Machine, *, multi_node: bool | None) -> None:
    """Raise `InvalidInput` for too few or too many nodes, and for several if the application supports only one."""
    if replicas < 1:
        raise InvalidInput(f"replicas: {for_message(replicas)}: You must request at least 1 node")
    if replicas > machine.max_nodes:
        raise InvalidInput(f"replicas: {for_message(replicas)}: this machine allows at most {machine.max_nodes}")
    if replicas > 1 and multi_node is False:
        raise InvalidInput(f"replicas: {for_message(replicas)}: this application runs on one node only")


def build_directives(
    machine: Machine,
    *,
    slurm_name: str,
    folder: str,
    replicas: int,
    seconds: int,
    after: Sequence[int] = (),
    trusted: Iterable[Directive] = (),
    untrusted: Sequence[Directive] = (),
) -> tuple[Directive, ...]:
    """Return all directives of a job, in a fixed order.

    `after` has the Slurm ids of peers that must start first. `trusted`, from trusted text, replace the adapter's of the
    same name. `untrusted`, from other text, replace both. Raise `InvalidInput` for directives that may not be set; see
    `slurm_adapter.core.allowance` for `untrusted`.
    """
    gpus = f"gpu:{machine.gpu_type}:{machine.gpus}" if machine.gpu_type else f"gpu:{machine.gpus}"
    # sbatch replaces patterns such as %j in both paths, except if a backslash is in them, as in DOMAIN\\user.
    logs = folder.replace("\\", r"\\") if "\\" in folder else folder.replace("%", "%%")
    found = {
        "job-name": slurm_name,
        "comment": slurm_name,
        "partition": machine.partition,
        "qos": machine.qos,
        "account": machine.account,
        "constraint": machine.constraint,
        "nodes": str(replicas),
        "cpus-per-task": str(machine.cpus),
        "mem": f"{machine.memory}G",
        "gres": gpus if machine.gpus else None,
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
    for directive in trusted:
        check_override(directive, machine)
        directives[directive.name] = directive
    for directive in untrusted:
        if directive.name in FREE:
            check_allowed(directive.name, directive.value)
        check_override(directive, machine)
        directives[directive.name] = directive
    names = frozenset(directive.name for directive in untrusted)
    check_product(names, {name: directive.value for name, directive in directives.items()}, machine, replicas)
    return tuple(directives.values())


def check_override(directive: Directive, machine: Machine) -> None:
    """Raise `InvalidInput` if an application may not set a directive, or if its value cannot be written."""
    name = directive.name
    subject = f"the application sets the directive {for_message(name)}"
    if reason := PROTECTED.get(name):
        raise InvalidInput(f"{subject}, which {reason}")
    if name not in FREE:
        raise InvalidInput(f"{subject}, which is not a long name of sbatch")
    if (name == "constraint" and machine.constraint) or (name == "exclusive" and machine.exclusive):
        raise InvalidInput(f"{subject}, which the site's machine table sets")
    if directive.value is not None:
        if len(directive.value.encode(errors="replace")) > VALUE_LIMIT:
            raise InvalidInput(f"{subject} to more than {VALUE_LIMIT} bytes")
        try:
            quote(directive.value)
        except InvalidInput as error:
            raise InvalidInput(f"{subject}: {error}") from error
    if name == "array":
        try:
            read_tasks(directive.value or "")
        except ValueError as error:
            raise InvalidInput(f"{subject}: {error}") from error


def count_tasks(directives: Iterable[Directive]) -> int:
    """Return the number of tasks of an array; 0 for a job without `array`."""
    return sum(len(read_tasks(each.value or "")) for each in directives if each.name == "array")


def read_value(name: str, value: object) -> Directive | None:
    """Return the directive of `sbatch(name, value)` in a template, or None.

    True gives a directive without a value. False, None, and a `gpus-per-task` of 0 or less give nothing.
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
    """Raise `InvalidInput` for lines of a script that sbatch would refuse or ignore.

    sbatch refuses an empty first line, CRLF and unquoted white space. It silently ignores indented directives, and
    those after the first command. There, the lines of a here-document are allowed: they may be another script.
    """
    if not text.startswith("#!/"):
        raise InvalidInput("line 1 of the script is not #!/ and an interpreter")
    if "\0" in text:
        raise InvalidInput("the script has a NUL character")
    if "\r\n" in text:
        number = text[: text.index("\r\n")].count("\n") + 1
        raise InvalidInput(f"line {number} of the script ends in CRLF; write LF")
    if not text.endswith("\n"):
        raise InvalidInput("the script's last line does not end with a newline")
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
    """Raise `InvalidInput` for directives after the first command, except in here-documents."""
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
                "set directives with `sbatch`, and put the text of another script into a here-document"
            )
        elif not line.startswith("#"):
            documents.extend(_DOCUMENT.findall(line))


def _name_of(line: str, number: int) -> str:
    match = _SBATCH.fullmatch(line)
    if match is None or (match[2] is not None and not _VALUE.fullmatch(match[2])):
        raise InvalidInput(f"line {number} of the script: {for_message(line)} must be #SBATCH --NAME=VALUE, quoted")
    return match[1]
