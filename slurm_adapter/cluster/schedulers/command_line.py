"""Slurm through its commands: sbatch, squeue, sacct, scontrol, scancel. See `Scheduler` for what each method means.

Every command gets a whole environment of its own, so that no SBATCH_*, SQUEUE_* or SLURM_* variable of anybody changes
what it does or prints. Times are seconds since the epoch, whatever the zone.
"""

from __future__ import annotations

import logging
import re
import secrets
import shlex
import string
import threading
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from slurm_adapter.cluster.schedulers import listings, load, nodes, partitions, sbatch
from slurm_adapter.cluster.schedulers.accounts import Accounts, guarded, read_uids
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
from slurm_adapter.core.errors import AdapterError, Refused, TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from slurm_adapter.cluster.schedulers.interface import Load, Outcome, Partition, Submission
    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.core.observation import Observation

_IDS_AT_ONCE = 5000
"""Ids of jobs in one argument of sacct, which holds 128 KiB, and arguments of one scancel."""

_QUERY_SECONDS = 120.0
"""A busy controller is asked again by Slurm's commands themselves, for several times MessageTimeout."""

_LOOK_SECONDS = 30.0

_CONFIG_SECONDS = 60.0
"""How long an answer about Slurm's configuration is used: it costs two requests, and sites limit them (`rl_enable`)."""

# The mark is on standard input: every user can read a process's arguments. The commands follow, each after `part`.
_PARTS = """
IFS= read -r mark
part() {
    printf '%s begin\\n' "$mark"
    "$@"
    status=$?
    printf '\\n%s end %s\\n' "$mark" "$status"
    test "$status" = 0 || exit 0
}
names() { getent passwd "$@" || :; }
# It ends with a ping. One over the controller's rate limit is told as DOWN, and makes scontrol fail: the rest is there.
config() {
    sacct --version 2>/dev/null
    told=$(scontrol show config)
    status=$?
    printf '%s\\n' "$told"
    case $told in *' is UP' | *' is DOWN') return 0 ;; esac
    return "$status"
}
"""

_CONFIG: tuple[str, ...] = ("config",)

# One line for each account: coreutils before 8.31 take one name only.
_UIDS = 'for name; do id -u -- "$name" 2>/dev/null || echo; done'

_log = logging.getLogger(__name__)


# A ping over the controller's rate limit is told as DOWN; other commands say so, and try again by themselves.
_PING = """
said=$(timeout 3 scontrol ping 2>&1)
case $said in *' is UP'*) exit 0 ;; esac
case $(timeout 1.5 scontrol -v show config 2>&1) in *'rate limited'* | *SlurmctldHost*) exit 0 ;; esac
printf '%s\\n' "$said"
exit 1
"""


class CommandLineScheduler:
    """A Slurm cluster behind a transport.

    `path` is where its commands are looked for, `slurm_conf` the value of SLURM_CONF at sites that need one, and
    `operator` what is put before the commands that only an operator of Slurm may give.
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
        self._warned: set[str] = set()
        """What Slurm's commands said beside good answers: mistakes in slurm.conf, for example."""
        self._uids: dict[str, str] = {}
        """Of all accounts that were asked for: another thread may ask for others before accounting is asked."""
        self._asking = threading.Lock()
        self._turn = threading.Lock()
        self._config = ("", 0.0)
        """What sacct says of its version, with Slurm's configuration; and when they were asked for."""
        self._environment = (f"PATH={path}", "LC_ALL=C.UTF-8", *([f"SLURM_CONF={slurm_conf}"] if slurm_conf else []))
        self._operators = (f"PATH={path}:/usr/local/bin:/usr/bin:/bin", *self._environment[1:])  # for sudo's sake

    def submit(self, submissions: Sequence[Submission], until: float | None = None) -> list[Outcome]:
        """See `Scheduler.submit`. One command for each account, all with one limit of time, `until`.

        The account with the fewest jobs is first: a bulk may take all the time that there is.
        """
        outcomes: list[Outcome] = [InDoubt("")] * len(submissions)
        until = self._clock() + sbatch.START_SECONDS if until is None else until
        for user, indices in sorted(_grouped([each.user for each in submissions]).items(), key=lambda one: len(one[1])):
            told = self._submit_as(user, [submissions[index].folder for index in indices], until)
            for index, outcome in zip(indices, told, strict=True):
                outcomes[index] = outcome
        return outcomes

    def _submit_as(self, user: str, folders: list[str], until: float) -> list[Outcome]:
        if self._clock() >= until:
            return [NotStarted("Slurm is slow: sbatch was not started any more")] * len(folders)
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
        """See `Scheduler.cancel`. One command for each account; all are tried before the first failure is raised."""
        failures: list[AdapterError] = []
        for user, ids in _grouped(list(jobs.values())).items():
            ordered = list(jobs)
            for some in _chunks([ordered[index] for index in ids]):
                try:
                    self._check_cancel(self._run(("scancel", *(str(int(id_)) for id_ in some)), user=user))
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
            self._check(result, "id")
            lines = result.text.split("\n")[:-1]
            if len(lines) != len(missing):
                raise Unknown(f"`id -u` told of {len(lines)} accounts instead of {len(missing)}")
            uids |= {user: uid for user, uid in zip(missing, lines, strict=True) if uid.isdecimal()}
        self._uids = self._uids | uids
        accounts = Accounts(uids)
        observations = accounts.with_aliases(listings.parse_queue(answers[-1], accounts.names))
        # An account that the cluster cannot name has no rows: that says nothing of its jobs, and all of others' jobs.
        refused = set(_NO_USER.findall(complaint))
        unnamed = [user for user in users if user not in uids or user in refused or not refused <= set(users)]
        return Listing(observations, self._sees_others(config, identity, uid, uids), frozenset(unnamed))

    def _settings(self) -> str:
        """Return Slurm's configuration as scontrol shows it. Raises `InvalidConfig` if Slurm is too old."""
        with self._asking:
            config, when = self._config
            if not config or not when <= self._clock() < when + _CONFIG_SECONDS:
                (answer,), _ = self._ask_parts([_CONFIG])
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
        """Run commands one after the other in one shell; return what each wrote, and what they said on stderr.

        They end with the first that fails. Words on the stderr that they share count as that one's.
        """
        mark = _draw_mark()
        script = _PARTS + "".join(f"part {shlex.join(command)}\n" for command in commands)
        result = self._run(("/bin/sh", "-c", script), stdin=f"{mark}\n".encode(), listing=True)
        parts = [Result(status, output, result.stderr) for output, status in _parts(result.stdout, mark.encode())]
        if not parts or (len(parts) < len(commands) and parts[-1].status == 0):
            raise Unknown(f"Slurm could not be asked: the answer breaks off\n{result.complaint}".rstrip())
        self._check(parts[-1], _name(commands[len(parts) - 1]), harmless)
        return [part.stdout for part in parts], result.complaint

    def history(self, slurm_ids: Sequence[int]) -> tuple[Observation, ...] | None:
        """See `Scheduler.history`. Two commands for 5000 jobs."""
        found: list[Observation] = []
        sluids = has_sluids(self._settings())
        accounts = Accounts(self._uids)
        for ids in _chunks(list(slurm_ids)):
            rows = self._run(listings.sacct_argv(ids, sluids=sluids), listing=True)
            if rows.status != 0 and "accounting storage is disabled" in rows.complaint:
                return None
            self._check(rows, "sacct")
            if not rows.stdout.strip():
                continue
            # Asked second: a run of which accounting has heard meanwhile has a name, and no row is without one.
            told = self._run(listings.sacct_names_argv(ids), listing=True)
            self._check(told, "sacct")
            found += listings.parse_history(rows.stdout, told.stdout, accounts.names, sluids=sluids)
        return accounts.with_aliases(found)

    def longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        """See `Scheduler.longest`. Two commands."""
        if not slurm_ids:
            return {}
        asked = ("squeue", "-h", "-a", "-j", ",".join(str(int(id_)) for id_ in slurm_ids), "-o", "%F %P")
        result = self._run(asked, listing=True)
        if result.status != 0 and _GONE.search(result.complaint):
            return {}
        self._check(result, "squeue")
        shown = self._run(("scontrol", "-a", "-o", "show", "partition"), listing=True)
        self._check(shown, "scontrol show partition")
        limits = dict(re.findall(r"^PartitionName=(\S+) .*? MaxTime=(\S+)", shown.text, re.MULTILINE))
        found: dict[int, int | None] = {}
        for line in result.text.splitlines():
            slurm_id, _, partitions = line.strip().partition(" ")
            of_each = [_read_longest(limits.get(name), name) for name in partitions.split(",")]
            known = [limit for limit in (found.get(int(slurm_id)), *of_each) if limit is not None]
            found[int(slurm_id)] = min(known, default=None)
        return found

    def load(self, partitions: Sequence[str]) -> Load:
        """See `Scheduler.load`. Two commands, of which each has half a minute: nobody waits for it longer."""
        shown = self._run(load.NODES_ARGV, listing=True, timeout=_LOOK_SECONDS)
        self._check(shown, "scontrol show node")
        listed = self._run(load.jobs_argv(partitions), listing=True, timeout=_LOOK_SECONDS)
        self._check(listed, "squeue")
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
        """An operator's command for many jobs; what went wrong with each of those that it may not have changed.

        scontrol goes through a whole list whatever comes of one job in it, and then fails; it names each job that it
        complains of, and of an array it answers for each task (measured with 22.05).
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
            for id_, said in _complaints(result, some, self._warned).items():
                failures[id_] = _judge(f"scontrol {words.format(id_)}", result.status, said)
        return failures

    def nodes(self) -> Mapping[str, str]:
        """See `Scheduler.nodes`. One command, and one more each minute."""
        self._settings()
        (partitions_, shown), _ = self._ask_parts([nodes.PARTITIONS_ARGV, nodes.NODES_ARGV])
        return nodes.parse_nodes(shown, partitions_)

    def versions(self) -> Versions:
        """See `Scheduler.versions`. One command."""
        answers, _ = self._ask_parts([CLIENT_ARGV, _CONFIG])
        client, config = (answer.decode(errors="replace") for answer in answers)
        return Versions(read_client(client), read_controller(config))

    def binding_version(self) -> None:
        """See `Scheduler.binding_version`."""

    def own_uids(self) -> Mapping[str, int]:
        """See `Scheduler.own_uids`. One command, which waits for no other: those of users may wait for this answer."""
        command = Command(("scontrol", "show", "config"), timeout=_QUERY_SECONDS, environment=tuple(self._environment))
        result = self._transport.run(command)
        # The file has no say in what stands before the `=`, and a later line none in what an earlier one said.
        found = re.findall(r"^(Slurmd?User) += \S*\((\d{1,10})\) *$", result.text, re.MULTILINE | re.ASCII)
        if len(found) != 2 or {key for key, _ in found} != {"SlurmUser", "SlurmdUser"}:
            # Only now: a ping at its end that is over the controller's rate limit fails the command.
            self._check(result, "scontrol show config")
            raise Unknown("scontrol show config does not say the uids of SlurmUser and SlurmdUser")
        return {key: int(uid) for key, uid in found}

    def ping(self) -> None:
        """See `Scheduler.ping`. One command."""
        try:
            ping = Command(
                ("/bin/sh", "-c", _PING), environment=self._environment, timeout=PING_SECONDS + 1, first=True
            )
            result = self._transport.run(ping)
        except CommandTimeout as error:
            raise TryAgain(f"the cluster does not say within {PING_SECONDS:.0f} s whether Slurm answers") from error
        if result.status != 0:
            said = "; ".join(filter(None, map(str.strip, f"{result.text}\n{result.complaint}".splitlines())))
            raise TryAgain(f"Slurm's controller does not answer: scontrol ping: {said or 'no answer in time'}")

    def partitions(self) -> Mapping[str, Partition]:
        """See `Scheduler.partitions`. One command."""
        (limits, shapes), _ = self._ask_parts([partitions.PARTITIONS_ARGV, partitions.NODES_ARGV])
        return partitions.parse_partitions(limits, shapes)

    def addresses(self, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """See `Scheduler.addresses`. Loopback and link-local addresses are left out, for no other node reaches them."""
        if not names:
            return {}
        # 20 seconds for a name that nobody serves, sixteen at once.
        seconds = 30.0 + 20 * (len(names) / 16)
        result = self._run(nodes.addresses_argv(), stdin=nodes.addresses_stdin(names), timeout=seconds)
        self._check(result, "getent")
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
        """Run a command; at a site with a rate limiter one at a time, unless `at_once`.

        Several that wait for a token back off for longer and longer, so that the last ones starve.
        """
        # TZ only where times are read: `--begin=16:00` of a job means the site's own zone.
        form = ("TZ=UTC", "SLURM_TIME_FORMAT=%s", "SLURM_BITSTR_LEN=0") if listing else ()
        with self._turn if self._limited and not at_once else nullcontext():
            return self._transport.run(Command(argv, stdin, user, (*self._environment, *form), timeout))

    @property
    def _limited(self) -> bool:
        """Whether slurmctld is known to limit each account's requests (SlurmctldParameters in slurm.conf(5))."""
        return "rl_enable" in self._config[0]

    def _check(self, result: Result, what: str, harmless: re.Pattern[str] | None = None) -> None:
        """Raise if a command failed: by its exit status, or by words with which Slurm's commands give up.

        Other words beside a status of 0 are logged once: mistakes in slurm.conf, for example.
        """
        complaints = [
            line
            for line in result.complaint.splitlines()
            if _COMPLAINT.search(line) and not _HARMLESS.search(line) and not (harmless and harmless.search(line))
        ]
        if result.status == 0 and not any(_GAVE_UP.search(line) for line in complaints):
            for line in complaints:
                if (bare := _PROGRAM.sub("", line)) not in self._warned:
                    self._warned.add(bare)
                    _log.warning("%s succeeded, but warned: %s", what, line)
            return
        complaints = [line for line in complaints if _PROGRAM.sub("", line) not in self._warned]
        said = "; ".join(complaints) or result.complaint or f"exit code {result.status} and no word"
        if result.status in {126, 127}:
            raise TryAgain(f"{what} cannot be started on the cluster: {said}\ncluster.path must name its folder")
        if not complaints and harmless is not None and harmless.search(result.complaint):
            return
        if "Unable to contact slurm controller (connect failure)" in said:
            raise TryAgain(f"{what}: Slurm's controller does not answer: {said}")
        raise Unknown(f"{what} failed: {said}")

    def _check_cancel(self, result: Result) -> None:
        """Raise if scancel left a job that may run. Whatever its exit status, it names each job of which this holds."""
        failed = [line for line in result.complaint.splitlines() if _NOT_CANCELLED.search(line)]
        if failed and all(_GONE.search(line) for line in failed):
            return
        self._check(replace(result, status=result.status or 1) if failed else result, "scancel", _GONE)


_LETTERS = string.ascii_letters + string.digits

_COMPLAINT = re.compile(r"^(?:s\w+: (?:error|fatal): |slurm\w* error: |error: )")
_GAVE_UP = re.compile(
    r"^(?:s\w+: fatal: |slurm\w* error: )|talking to the database|persist|slurmdbd|CONN:", re.IGNORECASE
)
"""The words of fatal() and slurm_perror(), and of a connection to slurmdbd; error() is used for warnings, too."""
_PROGRAM = re.compile(r"^\w+: ")
_NOT_CANCELLED = re.compile(r"Kill job error|Bad job id format", re.IGNORECASE)
_HARMLESS = re.compile(r"RPC rate limit|obsolete|deprecated|sudo: unable to resolve host", re.IGNORECASE)
"""Complaints of commands that went on to do what they were asked."""

_NO_USER = re.compile(r"^squeue: error: Invalid user: (.*)$", re.MULTILINE)
_DONE_ALREADY = re.compile(
    r"^\d+_\S+: (?:No error|Job is pending execution|Job has already finished|Job/step already completing or completed"
    r"|Job is not suspended)$|^Job is not suspended for job \d+$"
)
"""What scontrol says of a task or a job of which it did what it was asked, or for which there was nothing to do."""

_LOST = re.compile(r"timed out|Zero Bytes|connection|Unable to contact|Unexpected message", re.IGNORECASE)
"""That there was no answer. The last is what scontrol says where the controller is out of reach, or the id unknown."""

_NO_RIGHT = re.compile(r"sudo|denied|permitted", re.IGNORECASE)
_OF_A_JOB = re.compile(r"^(?P<array>\d+)_\S+: | for job (?P<job>\d+)(?:_\S+)?$")
"""Which job a line of scontrol's is about, in a list of them."""

_GONE = re.compile(r"Invalid job id|already (?:completing|finished|completed)", re.IGNORECASE)


def _complaints(result: Result, slurm_ids: Sequence[int], warnings: Collection[str]) -> dict[int, str]:
    """What an operator's command said of each of these jobs that it may not have changed; empty for no word."""
    if result.status == 0:
        return {}
    asked = frozenset(slurm_ids)
    named: dict[int, list[str]] = {}
    of_all: list[str] = []
    for line in map(str.strip, f"{result.text}\n{result.complaint}".splitlines()):
        found = _OF_A_JOB.search(line)
        slurm_id = int(found["array"] or found["job"]) if found else -1
        if slurm_id in asked:
            named.setdefault(slurm_id, []).extend([] if _DONE_ALREADY.search(line) else [line])
        elif line and not _HARMLESS.search(line) and _PROGRAM.sub("", line) not in warnings:
            of_all.append(line)
    # With one job named, its list was gone through to its end, unless something else went wrong as well.
    lost = bool(of_all) or not named or result.status != 1
    said = {id_: "; ".join(named.get(id_, of_all)) for id_ in slurm_ids}
    return {id_: words for id_, words in said.items() if words or (lost and id_ not in named)}


def _judge(what: str, status: int, said: str) -> AdapterError:
    """What it means that an operator's command said this."""
    if "Unable to contact slurm controller (connect failure)" in said:
        return TryAgain(f"{what}: Slurm's controller does not answer: {said}")
    if _LOST.search(said) or not said:
        return Unknown(f"{what} failed with exit code {status}: {said or 'no word'}")
    mend = (
        "; clusters.NAME.operator must let the adapter's account run this as an operator of Slurm, for one job and for "
        "a list of them"
        if status in {126, 127} or _NO_RIGHT.search(said)
        else ""
    )
    return Refused(f"{what}: {said}{mend}")


def _parts(stdout: bytes, mark: bytes) -> list[tuple[bytes, int]]:
    """What each of `_QUEUE`'s commands wrote, with its exit code, as far as they came to their ends.

    No pattern: one with a mark in it, new in every pass, would stay in the cache of `re` and push the others out.
    """
    found = []
    for piece in (b"\n" + stdout).split(b"\n%b begin\n" % mark)[1:]:
        output, _, rest = piece.partition(b"\n%b end " % mark)
        status = rest.partition(b"\n")[0]
        if status.isdigit():
            found.append((output, int(status)))
    return found


def _name(command: tuple[str, ...]) -> str:
    """Return what a message calls a command."""
    if command == _CONFIG:
        return "scontrol show config"
    return " ".join(command[-3:] if "show" in command else command[:1])


def _read_longest(text: str | None, partition: str) -> int | None:
    if text in {"UNLIMITED", "INFINITE"}:
        return None
    if text is None:
        raise Unknown(f"Slurm did not tell the MaxTime of partition {partition}")
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Unknown(f"the MaxTime of partition {partition} cannot be read: {error}") from error


def _draw_mark() -> str:
    """Nobody guesses one of 62 ** 8; and it is short, for of squeue's answer, with eleven in a row, it is a third."""
    return "".join(secrets.choice(_LETTERS) for _ in range(8))


def _grouped(users: Sequence[str]) -> dict[str, list[int]]:
    """Where each account stands in the sequence."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, user in enumerate(users):
        found[user].append(index)
    return found


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[start : start + _IDS_AT_ONCE]
