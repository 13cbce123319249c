"""A process that dies in the midst of its work: `python -m tests.crash.child CONFIG AHEAD POINT ACTION ARGUMENT...`.

It does one ACTION of the real program at a real site, and kills itself with SIGKILL at a POINT: before or after one of
its effects, given by number (`7`) or by name (`after Store.take`). The effects are all commands on the cluster, all
calls of the scheduler, and all calls of the database but those that only read; they are wrapped from outside, so that
new ones are points by themselves. With the point `never` it lives, or is killed from outside.

    submit KEY FILE              hand in the specification, or the bulk, in a file; key `-` is none
    create ID CREATED_AT FILE    the same for one job of UCloud's
    cancel ID...
    sync               one pass, under its lock

What the process has started on the cluster outlives it: an sbatch that is under way hands its job in all the same. So
these are two processes. The one that works is killed; the other is its parent, and everything that the first leaves
behind falls to it (PR_SET_CHILD_SUBREAPER, prctl(2)). It ends when all of that has ended, with the exit code of the
first: after it nothing can reach Slurm any more. Only then may a test move the clock ahead (AHEAD, in seconds) past the
time after which an sbatch is taken for dead.

On stdout, a line each, written before anything else happens: `working PID`, `point NAME`, `answer ID...`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurm_adapter.adapter import Adapter
from slurm_adapter.cluster import job_folders, peer_files
from slurm_adapter.core.errors import AdapterError, TryAgain
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.jobs import cancel, submit
from slurm_adapter.jobs.item import Item
from slurm_adapter.jobs.sync import sync
from slurm_adapter.local.configuration_file import load_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.cluster.transports.interface import Command

_PR_SET_CHILD_SUBREAPER = 36
_ONLY_READ = {
    *("active", "active_jobs", "again", "all", "bundles", "cancel_requested", "close", "count_states", "due"),
    *("ended_before", "expected", "fact", "find", "find_keys", "forgettable", "get", "hosts_are_written"),
    *("hosts_version", "in_hosts", "last_updates", "of_application", "outbox", "owners_waiting_for_peers", "select"),
    *("token_of", "tokens", "troubled", "unclosed", "unknown_since", "updates", "with_slurm_names"),
}
"""Methods of the store that change nothing; all exist."""
_SCRIPTS = {
    value: name.strip("_").lower()
    for module in (job_folders, peer_files)
    for name, value in vars(module).items()
    if isinstance(value, str) and name.isupper()
}
"""What the adapter's own shell texts are called."""


def tell(line: str) -> None:
    """Say it at once: whoever is killed next has said it."""
    os.write(1, f"{line}\n".encode())


class Points:
    """Counts the points of a process, and ends it at one of them."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.count = 0

    def reach(self, name: str) -> None:
        """One more point."""
        self.count += 1
        tell(f"point {name}")
        if self.wanted in {str(self.count), name}:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, holder: Any, names: Sequence[str]) -> None:
        """Make the beginnings and ends of an object's methods points."""
        for name in names:
            self._wrap(holder, name)

    def _wrap(self, holder: Any, name: str) -> None:
        inner = getattr(holder, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            label = f"{type(holder).__name__}.{name}"
            if label.endswith("Transport.run"):
                label = f"Transport.run {_name_of(arguments[0])}"
            self.reach(f"before {label}")
            try:
                return inner(*arguments, **named)
            finally:
                self.reach(f"after {label}")

        setattr(holder, name, wrapped)


def methods(holder: object) -> list[str]:
    """What an object offers."""
    return [name for name in dir(type(holder)) if not name.startswith("_") and callable(getattr(holder, name))]


def _name_of(command: Command) -> str:
    scripts = [_SCRIPTS[word] for word in command.argv if word in _SCRIPTS]
    programs = {"xargs": "sbatch", "scontrol": "scontrol", "scancel": "scancel", "cat": "cat", "getent": "getent"}
    return next(iter([*scripts, *(programs[word] for word in command.argv if word in programs)]), "queue")


def act(site: Adapter, action: str, arguments: Sequence[str]) -> None:
    """What a user, or cron, has asked for."""
    if action == "submit":
        key, file = arguments
        specifications = parse_specifications(Path(file).read_bytes())
        keys = [None if key == "-" else f"{key}/{number}" for number in range(len(specifications))]
        items = [Item(each, own) for each, own in zip(specifications, keys, strict=True)]
        records = submit.submit(site, Owner(created_by="alice"), items)
        tell(f"answer {' '.join(record.id for record in records)}")
    elif action == "create":
        id_, created_at, file = arguments
        [specification] = parse_specifications(Path(file).read_bytes())
        item = Item(specification, id=id_, created_at=int(created_at))
        [record] = submit.submit(site, Owner(created_by="alice"), [item])
        tell(f"answer {record.slurm_name}")
    elif action == "cancel":
        cancel.cancel(site, arguments)
        tell("answer")
    elif action == "sync":
        with site.sync_lock() as ours:
            if not ours:
                raise TryAgain("another pass is under way")
            for problem in sync(site).problems:
                sys.stderr.write(f"{problem}\n")
        tell("answer")
    else:
        raise ValueError(f"{action} is no action")


def work(config: str, ahead: float, point: str, action: str, arguments: Sequence[str]) -> int:
    """Do it, and die on the way."""
    points = Points(point)
    with Adapter(load_config(Path(config)), clock=lambda: time.time() + ahead) as site:
        points.wrap(site.transport, ["run"])
        points.wrap(site.scheduler, methods(site.scheduler))
        offered = methods(site.store)
        if unknown := _ONLY_READ.difference(offered):
            raise ValueError(f"the store has no {', '.join(sorted(unknown))}")
        points.wrap(site.store, [name for name in offered if name not in _ONLY_READ])
        try:
            act(site, action, arguments)
        except AdapterError as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            return 75 if isinstance(error, TryAgain) else 1
    return 0


def main() -> int:
    """Start the one that works, and wait for it and for all that it leaves behind."""
    config, ahead, point, action, *arguments = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    worker = os.fork()
    if worker == 0:
        tell(f"working {os.getpid()}")
        os._exit(work(config, float(ahead), point, action, arguments))
    code = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return code
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    exit_code = main()
    sys.exit(exit_code if exit_code >= 0 else 128 - exit_code)
