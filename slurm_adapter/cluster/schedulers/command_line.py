"""Slurm through its commands: sbatch, squeue, sacct, scontrol, scancel. `Scheduler` explains the methods.

Every command gets its own environment, so that no SBATCH_*, SQUEUE_* or SLURM_* variable changes its work or output.
Times are seconds since the epoch.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from contextlib import nullcontext
from typing import TYPE_CHECKING

from slurm_adapter.cluster.schedulers import listings, load, nodes, partitions, parts, sbatch
from slurm_adapter.cluster.schedulers.accounts import Accounts, guarded, read_uids
from slurm_adapter.cluster.schedulers.complaints import GONE, Complaints
from slurm_adapter.cluster.schedulers.interface import PING_SECONDS, InDoubt, Listing, NotStarted
from slurm_adapter.cluster.schedulers.versions import (
    CLIENT_ARGV,
    Versions,
    has_sluids,
    read_client,
    read_controller,
    require_supported,
)
from slurm_adapter.cluster.transports.interface import Command, CommandTimeout, Result
from slurm_adapter.core.durations import parse_duration
from slurm_adapter.core.errors import AdapterError, TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from slurm_adapter.cluster.schedulers.interface import Load, Outcome, Partition, Submission
    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.core.observation import Observation

_IDS_AT_ONCE = 5000
"""Maximum number of ids in one argument of sacct, which holds 128 KiB, and of arguments of one scancel."""

_QUERY_SECONDS = 120.0
"""Timeout of a command. Slurm's commands themselves retry a busy controller, for several times MessageTimeout."""

_LOOK_SECONDS = 30.0

_CONFIG_SECONDS = 60.0
"""Seconds for which an answer about Slurm's configuration is used. It takes two requests; some sites limit requests."""

# One line for each account: coreutils before 8.31 take one name only.
_UIDS = 'for name; do id -u -- "$name" 2>/dev/null || echo; done'

_NO_USER = re.compile(r"^squeue: error: Invalid user: (.*)$", re.MULTILINE)

# A ping over the controller's rate limit is shown as DOWN. Other commands report the limit, and retry by themselves.
_PING = """
said=$(timeout 3 scontrol ping 2>&1)
case $said in *' is UP'*) exit 0 ;; esac
case $(timeout 1.5 scontrol -v show config 2>&1) in *'rate limited'* | *SlurmctldHost*) exit 0 ;; esac
printf '%s\\n' "$said"
exit 1
"""


class CommandLineScheduler:
    """A Slurm cluster that is reached through a transport.

    `path` is the PATH of Slurm's commands, `slurm_conf` is SLURM_CONF if the site needs it, and `operator` is the
    prefix of commands that only an operator of Slurm may run.
    """

    def __init__(
        self,
        transport: Transport,
        path: str = "/usr/local/bin:/usr/bin:/bin",
        slurm_conf: str | None = None,
        clock: Callable[[], float] = time.time,
        operator: Sequence[str] = (),
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._operator = tuple(operator)
        self._complaints = Complaints()
        self._uids: dict[str, str] = {}
        """Uids of all accounts of former calls of `queue`: another thread may ask for others before `history`."""
        self._reading_config = threading.Lock()
        self._rate_limit = threading.Lock()
        """Held by the running command at a site that limits requests."""
        self._config = ("", 0.0)
        """The version of sacct with Slurm's configuration, and the time when they were read."""
        self._environment = (f"PATH={path}", "LC_ALL=C.UTF-8", *([f"SLURM_CONF={slurm_conf}"] if slurm_conf else []))
        self._operators = (f"PATH={path}:/usr/local/bin:/usr/bin:/bin", *self._environment[1:])  # so that it has sudo

    def submit(self, submissions: Sequence[Submission], until: float | None = None) -> list[Outcome]:
        """See `Scheduler.submit`. One command for each account; no sbatch starts after `until`.

        The account with the fewest jobs is first, because a bulk may take all the time.
        """
        outcomes: list[Outcome] = [InDoubt("")] * len(submissions)
        until = self._clock() + sbatch.START_SECONDS if until is None else until
        for user, indices in sorted(_grouped([each.user for each in submissions]).items(), key=lambda one: len(one[1])):
            own = self._submit_as(user, [submissions[index].folder for index in indices], until)
            for index, outcome in zip(indices, own, strict=True):
                outcomes[index] = outcome
        return outcomes

    def _submit_as(self, user: str, folders: list[str], until: float) -> list[Outcome]:
        if self._clock() >= until:
            return [NotStarted("Slurm is slow: there was no time left to start sbatch")] * len(folders)
        pause = sbatch.find_pause(self._config[0])
        try:
            result = self._run(
                sbatch.submit_argv(until, len(folders), pause),
                user=user,
                stdin=sbatch.submit_stdin(folders),
                timeout=sbatch.SUBMIT_TIMEOUT,
                at_once=True,
            )
        except TryAgain as error:
            return [NotStarted(str(error))] * len(folders)
        except AdapterError as error:
            return [InDoubt(str(error))] * len(folders)
        return sbatch.parse_submission(result.stdout, len(folders), result.complaint)

    def cancel(self, jobs: Mapping[int, str]) -> None:
        """See `Scheduler.cancel`. One command for each account. Tries all accounts before it raises the first error."""
        failures: list[AdapterError] = []
        for user, ids in _grouped(list(jobs.values())).items():
            ordered = list(jobs)
            for some in _chunks([ordered[index] for index in ids]):
                try:
                    self._complaints.check_cancel(self._run(("scancel", *(str(int(id_)) for id_ in some)), user=user))
                except AdapterError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    def queue(self, users: Sequence[str]) -> Listing:
        """See `Scheduler.queue`. One command, one more each minute, and one for accounts under a second name."""
        config = self._settings()
        asked: list[tuple[str, ...]] = [("id", "-un"), ("id", "-u")]
        asked += [("names", *guarded(users)), listings.squeue_argv(users)] if users else []
        answers, complaint = self._ask_parts(asked, _NO_USER)
        identity, uid = (answer.decode().strip() for answer in answers[:2])
        if not users:
            return Listing((), self._sees_others(config, identity, uid, {}))
        uids = read_uids(answers[2], users)
        if missing := [user for user in users if user not in uids]:
            result = self._run(("/bin/sh", "-c", _UIDS, "sh", *missing))
            self._complaints.check(result, "id")
            lines = result.text.split("\n")[:-1]
            if len(lines) != len(missing):
                raise Unknown(f"`id -u` answered for {len(lines)} accounts instead of {len(missing)}")
            uids |= {user: uid for user, uid in zip(missing, lines, strict=True) if uid.isdecimal()}
        self._uids = self._uids | uids
        accounts = Accounts(uids)
        observations = accounts.with_aliases(listings.parse_queue(answers[-1], accounts.names))
        # An account that the cluster does not know has no rows. That proves nothing about its jobs.
        refused = set(_NO_USER.findall(complaint))
        unnamed = [user for user in users if user not in uids or user in refused or not refused <= set(users)]
        return Listing(observations, self._sees_others(config, identity, uid, uids), frozenset(unnamed))

    def _settings(self) -> str:
        """Return Slurm's configuration as scontrol shows it. Raises `InvalidConfig` if Slurm is too old."""
        with self._reading_config:
            config, when = self._config
            if not config or not when <= self._clock() < when + _CONFIG_SECONDS:
                (answer,), _ = self._ask_parts([parts.CONFIG])
                config = answer.decode(errors="replace")
                require_supported(read_controller(config))
                self._config = config, self._clock()
        return config

    def _sees_others(self, config: str, identity: str, uid: str, uids: Mapping[str, str]) -> bool:
        values = dict(re.findall(r"^(\w+) *= (.*?) *$", config, re.MULTILINE))
        hidden = "jobs" in re.split(r"[ ,]+", values.get("PrivateData", "jobs"))
        hidden |= "privatedata" in values.get("MCSParameters", "")
        slurm_user = re.search(r"\((\d+)\)$", values.get("SlurmUser", ""), re.ASCII)
        if not hidden or uid in {"0", slurm_user and slurm_user[1]} or (uids and set(uids.values()) <= {uid}):
            return True
        level = self._run(("sacctmgr", "-n", "-P", "show", "user", identity, "format=AdminLevel"), listing=True)
        return level.status == 0 and level.text.strip() in {"Operator", "Administrator"}

    def _ask_parts(
        self, commands: Sequence[tuple[str, ...]], harmless: re.Pattern[str] | None = None
    ) -> tuple[list[bytes], str]:
        """Run commands one after the other in one shell, up to the first that fails.

        Return the output of each, and their common stderr, which counts as that of the failed command.
        """
        mark = parts.draw_mark()
        script = ("/bin/sh", "-c", parts.make_script(commands))
        result = self._run(script, stdin=f"{mark}\n".encode(), listing=True)
        done = [Result(status, output, result.stderr) for output, status in parts.split(result.stdout, mark.encode())]
        if not done or (len(done) < len(commands) and done[-1].status == 0):
            asked = ", ".join(map(parts.name, commands))
            raise Unknown(f"Slurm's answer breaks off ({asked})\n{result.complaint}".rstrip())
        self._complaints.check(done[-1], parts.name(commands[len(done) - 1]), harmless)
        return [part.stdout for part in done], result.complaint

    def history(self, slurm_ids: Sequence[int]) -> tuple[Observation, ...] | None:
        """See `Scheduler.history`. Two commands for 5000 jobs."""
        found: list[Observation] = []
        sluids = has_sluids(self._settings())
        accounts = Accounts(self._uids)
        for ids in _chunks(list(slurm_ids)):
            rows = self._run(listings.sacct_argv(ids, sluids=sluids), listing=True)
            if rows.status != 0 and "accounting storage is disabled" in rows.complaint:
                return None
            self._complaints.check(rows, "sacct")
            if not rows.stdout.strip():
                continue
            # Second: a run that reaches accounting in between has a name without a row, and no row lacks a name.
            job_names = self._run(listings.sacct_names_argv(ids), listing=True)
            self._complaints.check(job_names, "sacct")
            found += listings.parse_history(rows.stdout, job_names.stdout, accounts.names, sluids=sluids)
        return accounts.with_aliases(found)

    def longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        """See `Scheduler.longest`. Two commands."""
        if not slurm_ids:
            return {}
        asked = ("squeue", "-h", "-a", "-j", ",".join(str(int(id_)) for id_ in slurm_ids), "-o", "%F %P")
        result = self._run(asked, listing=True)
        if result.status != 0 and GONE.search(result.complaint):
            return {}
        self._complaints.check(result, "squeue")
        shown = self._run(("scontrol", "-a", "-o", "show", "partition"), listing=True)
        self._complaints.check(shown, "scontrol show partition")
        limits = dict(re.findall(r"^PartitionName=(\S+) .*? MaxTime=(\S+)", shown.text, re.MULTILINE))
        found: dict[int, int | None] = {}
        for line in result.text.splitlines():
            slurm_id, _, partitions = line.strip().partition(" ")
            of_each = [_read_longest(limits.get(name), name) for name in partitions.split(",")]
            known = [limit for limit in (found.get(int(slurm_id)), *of_each) if limit is not None]
            found[int(slurm_id)] = min(known, default=None)
        return found

    def load(self, partitions: Sequence[str]) -> Load:
        """See `Scheduler.load`. Two commands with a timeout of 30 s each, because the caller does not wait longer."""
        shown = self._run(load.NODES_ARGV, listing=True, timeout=_LOOK_SECONDS)
        self._complaints.check(shown, "scontrol show node")
        listed = self._run(load.jobs_argv(partitions), listing=True, timeout=_LOOK_SECONDS)
        self._complaints.check(listed, "squeue")
        return load.parse_load(shown.stdout, listed.stdout, partitions)

    def set_time_limits(self, limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        """See `Scheduler.set_time_limits`. One command for each limit."""
        by_minutes: dict[int, list[int]] = defaultdict(list)
        for slurm_id, seconds in limits.items():
            by_minutes[-(-seconds // 60)].append(slurm_id)
        failures: dict[int, AdapterError] = {}
        for minutes, slurm_ids in by_minutes.items():
            failures |= self._operate(f"update jobid={{}} timelimit={minutes}", slurm_ids)
        return failures

    def suspend(self, slurm_ids: Sequence[int]) -> None:
        """See `Scheduler.suspend`. One command."""
        for failure in self._operate("suspend {}", slurm_ids).values():
            raise failure

    def resume(self, slurm_ids: Sequence[int]) -> None:
        """See `Scheduler.resume`. One command."""
        for failure in self._operate("resume {}", slurm_ids).values():
            raise failure

    def _operate(self, words: str, slurm_ids: Sequence[int]) -> dict[int, AdapterError]:
        """Run an operator's command for many jobs. Return an error for each job that it may not have changed.

        If scontrol fails for one job in a list, it continues with the others. It names each job with an error, and it
        answers for each task of an array (measured with 22.05).
        """
        failures: dict[int, AdapterError] = {}
        for some in _chunks(list(slurm_ids)):
            try:
                listed = words.format(",".join(str(int(id_)) for id_ in some))
                argv = (*self._operator, "scontrol", *listed.split())
                result = self._transport.run(Command(argv, timeout=_QUERY_SECONDS, environment=self._operators))
            except AdapterError as error:
                failures |= dict.fromkeys(some, error)
                continue
            failures |= self._complaints.judge_operation(f"scontrol {words}", result, some)
        return failures

    def nodes(self) -> Mapping[str, str]:
        """See `Scheduler.nodes`. One command, and one more each minute."""
        self._settings()
        (partitions_, shown), _ = self._ask_parts([nodes.PARTITIONS_ARGV, nodes.NODES_ARGV])
        return nodes.parse_nodes(shown, partitions_)

    def versions(self) -> Versions:
        """See `Scheduler.versions`. One command."""
        answers, _ = self._ask_parts([CLIENT_ARGV, parts.CONFIG])
        client, config = (answer.decode(errors="replace") for answer in answers)
        return Versions(read_client(client), read_controller(config))

    def binding_version(self) -> None:
        """See `Scheduler.binding_version`."""

    def own_uids(self) -> Mapping[str, int]:
        """See `Scheduler.own_uids`. One command that takes no turn: commands of users may wait for its answer."""
        command = Command(("scontrol", "show", "config"), timeout=_QUERY_SECONDS, environment=tuple(self._environment))
        result = self._transport.run(command)
        # A value in slurm.conf cannot change the text before the `=`, and there must be exactly one line of each key.
        found = re.findall(r"^(Slurmd?User) += \S*\((\d{1,10})\) *$", result.text, re.MULTILINE | re.ASCII)
        if len(found) != 2 or {key for key, _ in found} != {"SlurmUser", "SlurmdUser"}:
            # Only now: a ping over the controller's rate limit makes the command fail after a good answer.
            self._complaints.check(result, "scontrol show config")
            raise Unknown("scontrol show config does not show the uids of SlurmUser and SlurmdUser")
        return {key: int(uid) for key, uid in found}

    def ping(self) -> None:
        """See `Scheduler.ping`. One command."""
        try:
            ping = Command(
                ("/bin/sh", "-c", _PING), environment=self._environment, timeout=PING_SECONDS + 1, first=True
            )
            result = self._transport.run(ping)
        except CommandTimeout as error:
            raise TryAgain(f"scontrol ping on the cluster gave no answer within {PING_SECONDS:.0f} s") from error
        if result.status != 0:
            said = "; ".join(filter(None, map(str.strip, f"{result.text}\n{result.complaint}".splitlines())))
            raise TryAgain(f"Slurm's controller does not answer: scontrol ping: {said or 'no answer in time'}")

    def partitions(self) -> Mapping[str, Partition]:
        """See `Scheduler.partitions`. One command."""
        (limits, shapes), _ = self._ask_parts([partitions.PARTITIONS_ARGV, partitions.NODES_ARGV])
        return partitions.parse_partitions(limits, shapes)

    def addresses(self, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """See `Scheduler.addresses`. Leaves out loopback and link-local addresses, which no other node reaches."""
        if not names:
            return {}
        # A name that no server answers for takes 20 seconds; sixteen names are looked up at once.
        seconds = 30.0 + 20 * (len(names) / 16)
        result = self._run(nodes.addresses_argv(), stdin=nodes.addresses_stdin(names), timeout=seconds)
        self._complaints.check(result, "getent")
        return nodes.parse_addresses(result.stdout, names)

    def _run(
        self,
        argv: tuple[str, ...],
        *,
        user: str | None = None,
        stdin: bytes = b"",
        timeout: float = _QUERY_SECONDS,
        listing: bool = False,
        at_once: bool = False,
    ) -> Result:
        """Run a command. At a site that limits requests, run one at a time, unless `at_once`.

        Several commands over the limit back off for longer and longer, so that the last ones starve.
        """
        # TZ only for commands that print times: `--begin=16:00` of a job means the site's own zone.
        form = ("TZ=UTC", "SLURM_TIME_FORMAT=%s", "SLURM_BITSTR_LEN=0") if listing else ()
        with self._rate_limit if self._limited and not at_once else nullcontext():
            return self._transport.run(Command(argv, stdin, user, (*self._environment, *form), timeout))

    @property
    def _limited(self) -> bool:
        """Return whether slurmctld limits each account's requests (SlurmctldParameters in slurm.conf(5))."""
        return "rl_enable" in self._config[0]


def _read_longest(text: str | None, partition: str) -> int | None:
    if text in {"UNLIMITED", "INFINITE"}:
        return None
    if text is None:
        raise Unknown(f"scontrol does not show the MaxTime of partition {partition}")
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Unknown(f"the MaxTime of partition {partition} cannot be read: {error}") from error


def _grouped(users: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of each account in the sequence."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, user in enumerate(users):
        found[user].append(index)
    return found


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[start : start + _IDS_AT_ONCE]
