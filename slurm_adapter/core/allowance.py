"""Limit the directives that untrusted text may set: at most the product, and nothing that affects other users.

Trusted text is the site's folder of applications and the packaged applications. Workflows of users, and applications
that UCloud sends with a job, are not trusted. Their directives:

| directive | allowed |
|---|---|
| `ntasks`, `ntasks-per-node`, `cpus-per-task` | tasks times processors: at most the product's, per node and in all |
| `mem` | at most the product's, and more than 0, which means the whole node |
| `gpus-per-node`, `gpus-per-task` | at most the product's GPUs |
| `signal` | `[B:]SIGNAL[@SECONDS]`; not `R:`, which is for reservations |
| `distribution` | of tasks over nodes and processors; not `arbitrary`, which reads a file |
| `no-requeue` | without a value |

All other directives are refused. They cost more than the product (`exclusive`, `array`, `hint`), reserve what other
users wait for (`nodelist`, `reservation`, `licenses`), run a job again or later (`requeue`, `begin`), or send mail
(`mail-user`). As in sbatch, the last directive of a name counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from slurm_adapter.core.config_tables import Machine

ALLOWED = {
    "cpus-per-task": "a whole number",
    "distribution": "block, cyclic or plane=N, such as block:cyclic",
    "gpus-per-node": "a whole number",
    "gpus-per-task": "a whole number",
    "mem": "a whole number of M, G or T, such as 500M",
    "no-requeue": "nothing",
    "ntasks": "a whole number",
    "ntasks-per-node": "a whole number",
    "signal": "[B:]SIGNAL[@SECONDS], such as B:USR1@60",
}
"""Allowed directives, and the form of their values."""

_NUMBER = re.compile(r"[1-9][0-9]{0,6}")
_MEMORY = re.compile(r"([1-9][0-9]{0,11})([MGT]?)")
_MEBIBYTES = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}
_FORMS = {
    "distribution": re.compile(
        r"(?:block|cyclic|plane=[1-9][0-9]{0,3})(?::(?:block|cyclic|fcyclic)){0,2}(?:,(?:No)?Pack)?"
    ),
    "mem": _MEMORY,
    "no-requeue": re.compile(""),
    "signal": re.compile(r"(?:B:)?[A-Z0-9]{1,8}(?:@[0-9]{1,5})?"),
}


def check_allowed(name: str, value: str | None) -> None:
    """Raise `InvalidInput` for a directive that only trusted text may set, or for a value of another form."""
    subject = f"the job's text sets the directive {for_message(name)}"
    if name not in ALLOWED:
        raise InvalidInput(f"{subject}; text that the site did not write may set {', '.join(ALLOWED)}")
    if not _FORMS.get(name, _NUMBER).fullmatch(value or ""):
        raise InvalidInput(f"{subject} to {for_message(value or '')}: must be {ALLOWED[name]}")


def check_product(names: AbstractSet[str], values: Mapping[str, str | None], machine: Machine, replicas: int) -> None:
    """Raise `InvalidInput` if directives request more than the product has.

    `names` are the directives that untrusted text sets. `values` has all directives of the job.
    """
    tasks = names & {"ntasks", "ntasks-per-node", "cpus-per-task"}
    if tasks:
        each = _number(values, "cpus-per-task", machine.cpus)
        _check(tasks, _number(values, "ntasks-per-node", 1) * each, machine.cpus, "processors a node")
        _check(tasks, _tasks(values, replicas) * each, machine.cpus * replicas, "processors")
    if "mem" in names:
        memory = _MEMORY.fullmatch(values["mem"] or "")
        if memory is None or int(memory[1]) * _MEBIBYTES[memory[2]] > machine.memory * 1024:
            raise InvalidInput(
                f"the job's text sets the directive 'mem' to {values['mem']}: this product has {machine.memory}G a node"
            )
    if "gpus-per-node" in names:
        _check({"gpus-per-node"}, _number(values, "gpus-per-node", 0), machine.gpus, "GPUs a node")
    if names & {"gpus-per-task", "ntasks", "ntasks-per-node"}:
        count = _number(values, "gpus-per-task", 0) * _tasks(values, replicas)
        _check(names & {"gpus-per-task", *tasks}, count, machine.gpus * replicas, "GPUs")


def _tasks(values: Mapping[str, str | None], replicas: int) -> int:
    return _number(values, "ntasks", _number(values, "ntasks-per-node", 1) * replicas)


def _number(values: Mapping[str, str | None], name: str, default: int) -> int:
    value = values.get(name)
    if value is None:
        return default
    if not _NUMBER.fullmatch(value):
        raise InvalidInput(
            f"the application sets the directive {for_message(name)} to {for_message(value)}; must be a whole number"
        )
    return int(value)


def _check(names: AbstractSet[str], asked: int, most: int, what: str) -> None:
    if asked > most:
        raise InvalidInput(
            f"the job's text requests {asked} {what} with {', '.join(sorted(names))}: this product has {most}; the "
            "number of tasks is multiplied by what each task gets"
        )
