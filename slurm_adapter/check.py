"""What stands between a configuration and a working site, each with its mend.

The checks go from the near to the far, and stop where nothing behind can be right: an unreachable cluster says nothing
about its partitions.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from slurm_adapter import peerfiles, verifying
from slurm_adapter.config import parse_duration
from slurm_adapter.drives import by_pattern
from slurm_adapter.errors import AdapterError, Refused, Unknown
from slurm_adapter.reconcile import find_addresses
from slurm_adapter.script import read_node_files
from slurm_adapter.specification import Owner
from slurm_adapter.transports.interface import Command, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_adapter.config import Machine
    from slurm_adapter.site import Site


class Level(Enum):
    """How much a finding matters."""

    GOOD = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"
    """Jobs will fail, or be told falsely."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    text: str


_FOLDER = r"""
parent=$1
[ -d "$parent/" ] || { echo "does not exist"; exit; }
cd -P -- "$parent" 2>/dev/null || { echo "cannot be entered"; exit; }
[ -O . ] || { echo "does not belong to this account"; exit; }
[ -w . ] || { echo "cannot be written"; exit; }
case $(stat -c %A .) in ????????w?) echo "can be written by everybody"; exit ;; esac
echo good
"""

_METHODS = r"""
works() { "$@" >/dev/null 2>&1 && printf '%s ' "$name"; }
name=unshare works unshare -Um --map-current-user --keep-caps setpriv --inh-caps=-all --ambient-caps=-all true
name=bwrap works bwrap --unshare-user --cap-add ALL --dev-bind / / true
for library in /lib*/libnss_wrapper.so /usr/lib*/libnss_wrapper.so /usr/lib/*/libnss_wrapper.so; do
    [ ! -e "$library" ] || { printf 'nss_wrapper '; break; }
done
"""


_CLOCKS_APART = 15
"""Seconds; a quarter of the time in which sbatch may be started."""


def check_site(site: Site) -> Iterator[Finding]:
    """Look at everything that a job of this site will need."""
    yield from _here(site)
    yield from _noted(_ucloud_key(site))
    yield from _noted(_ucloud(site))
    try:
        identity = site.transport.run(Command(("id", "-un"))).text.strip()
        conf = site.config.cluster.slurm_conf
        if conf is not None and site.transport.run(Command(("test", "-r", conf))).status != 0:
            # Slurm's commands would look for a server that gives them one, for a minute.
            yield Finding(Level.PROBLEM, f"cluster.slurm_conf: {identity} cannot read {conf} on the cluster")
            return
        nodes = site.scheduler.nodes()
    except AdapterError as error:
        yield Finding(Level.PROBLEM, f"the cluster cannot be asked: {error}")
        return
    where = f"over SSH as {identity}" if site.config.cluster.ssh else f"as {identity}"
    yield Finding(Level.GOOD, f"Slurm answers {where}: {len(nodes)} nodes")
    if identity == "root":
        yield Finding(
            Level.WARNING, "the adapter is root on the cluster; give it an account of its own, with sudo rules"
        )
    if site.config.cluster.scheduler == "pyslurm":
        yield from _noted(_pyslurm(site))
    yield from _noted(_clocks(site))
    yield from _noted(_evidence(site))
    yield from _noted(_partitions(site))
    yield from _noted(_operator(site))
    accounts = sorted(_accounts(site))
    yield from _noted(_identities(site, identity, accounts))
    yield from _noted(_shared(site))
    yield from _noted(_drives(site, accounts))
    yield from _noted(_drive_pattern(site, accounts))
    yield from _noted(_ucloud_drives(site, accounts))
    yield from _noted(_folder_shells(site, accounts))
    yield from _noted(_peers(site, nodes, accounts))
    yield from _noted(_demo(site, nodes, accounts))


def _here(site: Site) -> Iterator[Finding]:
    """What can be seen without the cluster."""
    try:
        known = site.store.all(1)
        yield Finding(Level.GOOD, f"the state in {site.config.state} can be used" + ("" if known else "; no jobs yet"))
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))
    if os.geteuid() == 0:
        yield Finding(
            Level.WARNING, "this program runs as root, and needs no such right; run it as the adapter's account"
        )
    try:
        read_node_files()
        found = site.catalogue.applications
        yield Finding(Level.GOOD, f"{len(found)} applications: {', '.join(map(str, found))}")
        yield from (Finding(Level.PROBLEM, text) for text in site.catalogue.problems.values())
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))
    if (settings := site.ssh_settings) is not None:
        from slurm_adapter.transports.ssh_config import ignored_options  # noqa: PLC0415  # paramiko, for SSH only

        try:
            for option in ignored_options(settings):
                yield Finding(Level.WARNING, f"{option} of the SSH configuration has no effect here")
        except AdapterError as error:
            yield Finding(Level.PROBLEM, str(error))


def _ucloud_key(site: Site) -> Iterator[Finding]:
    """Whether UCloud's tokens can be told from others'."""
    if (settings := site.config.ucloud) is None:
        return
    try:
        from slurm_adapter.gateway.authentication import UcloudKey  # noqa: PLC0415  # the extra `serve`
    except ImportError:
        return  # the receiver needs it, too, and says so
    UcloudKey(settings)
    yield Finding(Level.GOOD, f"ucloud.key: {settings.key} holds the key by which UCloud is known")


def _ucloud(site: Site) -> Iterator[Finding]:
    """Whether UCloud lets the adapter in."""
    if (settings := site.config.ucloud) is None:
        return
    if (doubt := verifying.doubts(site)) is not None:
        yield Finding(Level.WARNING, doubt)
    receiver = site.receiver
    from slurm_adapter.receivers.ucloud import is_loopback  # noqa: PLC0415  # the extra `serve`

    if receiver is not None:
        receiver.check()
        yield Finding(Level.GOOD, f"UCloud at {settings.url} takes the refresh token")
    if settings.url.startswith("http://") and not is_loopback(settings.url):
        yield Finding(
            Level.WARNING, f"ucloud.url: {settings.url} is not encrypted: who listens may act as this provider"
        )


def _noted(findings: Iterator[Finding]) -> Iterator[Finding]:
    """A check that cannot be made is a problem, and the next one is made all the same."""
    try:
        yield from findings
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))


def _pyslurm(site: Site) -> Iterator[Finding]:
    """Whether pyslurm answers, and was made for this Slurm. One that cannot be used raises."""
    from slurm_adapter.schedulers.libslurm import LibslurmScheduler  # noqa: PLC0415  # only where it is used

    if not isinstance(site.scheduler, LibslurmScheduler):
        return
    made_for = ".".join(site.scheduler.version().split(".")[:2])
    asked = ("/usr/bin/env", f"PATH={site.config.cluster.path}", "scontrol", "--version")
    words = site.transport.run(Command(asked)).text.split()
    major, minor = (words[1] if len(words) > 1 else "0.0").split(".")[:2]
    if made_for == f"{int(major)}.{int(minor)}":
        yield Finding(Level.GOOD, f"pyslurm {site.scheduler.version()} speaks to Slurm {words[1]}")
    else:
        yield Finding(
            Level.PROBLEM, f"pyslurm {made_for} is not made for Slurm {major}.{minor}; their versions must agree"
        )


def _clocks(site: Site) -> Iterator[Finding]:
    """An sbatch is given up by the clock: see `slurm_adapter.schedulers.submission`."""
    before = site.clock()
    told = re.findall(r"^\d{9,11}$", site.transport.run(Command(("date", "+%s"))).text, re.MULTILINE | re.ASCII)
    if not told:
        raise Unknown("the cluster's clock could not be read: `date +%s` did not answer there")
    there = float(told[-1])
    apart = max(before - there - 1, there - site.clock(), 0)
    if apart > _CLOCKS_APART:
        yield Finding(
            Level.PROBLEM,
            f"the clocks of this machine and the cluster are {apart:.0f} seconds apart; submissions need them to agree "
            "within a few (NTP), and so does Slurm itself (munge)",
        )
    else:
        yield Finding(Level.GOOD, "the clocks of this machine and the cluster agree")


def _evidence(site: Site) -> Iterator[Finding]:
    """Whether this account can know what becomes of jobs."""
    if site.scheduler.queue([]).sees_others:
        yield Finding(Level.GOOD, "the adapter's account sees the jobs of others")
    else:
        yield Finding(
            Level.WARNING,
            "PrivateData hides others' jobs from the adapter's account, so that a missing job is never given up; "
            "make the account an operator (sacctmgr modify user NAME set adminlevel=operator)",
        )
    if site.scheduler.history([1]) is None:
        yield Finding(Level.NOTE, "no accounting: endings come from the queue and from the jobs' own exit records")
    else:
        yield Finding(Level.GOOD, "accounting answers")


def _partitions(site: Site) -> Iterator[Finding]:
    """The machine table against the partitions."""
    path = f"PATH={site.config.cluster.path}"
    conf = [f"SLURM_CONF={site.config.cluster.slurm_conf}"] if site.config.cluster.slurm_conf else []
    argv = ("/usr/bin/env", "-i", path, *conf, "scontrol", "-a", "-o", "show", "partition")
    result = site.transport.run(Command(argv))
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in result.text.splitlines()]
    partitions = {row["PartitionName"]: row for row in rows if "PartitionName" in row}
    if not partitions:
        yield Finding(Level.PROBLEM, f"scontrol shows no partitions: {result.complaint}")
    for category, products in site.config.machines.items():
        for name, machine in products.items():
            problems = list(_machine_problems(machine, partitions))
            for problem in problems:
                yield Finding(Level.PROBLEM, f"machines.{category}.{name}: {problem}")
            if not problems:
                yield Finding(Level.GOOD, f"machine {category}/{name} fits partition {machine.partition}")


def _operator(site: Site) -> Iterator[Finding]:
    """Whether an operator's commands can be given: one is, for a list of job 0, which there never is.

    scontrol looks for the job before it looks for the right: whether Slurm takes the account for an operator shows with
    the first job.
    """
    if not site.config.cluster.operator:
        yield Finding(Level.NOTE, "jobs are not extended, suspended or resumed: there is no cluster.operator")
        return
    try:
        site.scheduler.suspend([0, 0])
    except (Refused, Unknown) as error:
        if "for job 0" not in str(error).split(": ", 1)[-1]:
            yield Finding(Level.PROBLEM, f"cluster.operator: {error}")
            return
    yield Finding(Level.GOOD, "cluster.operator lets the adapter's account run scontrol, to extend and suspend jobs")


def _machine_problems(machine: Machine, partitions: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    row = partitions.get(machine.partition)
    if row is None:
        yield f"there is no partition {machine.partition!r}; there are {', '.join(sorted(partitions))}"
        return
    if row.get("State") != "UP":
        yield f"partition {machine.partition} is {row.get('State')}"
    limits = [int(row[key]) for key in ("MaxNodes", "TotalNodes") if row.get(key, "").isdecimal()]
    if limits and machine.max_nodes > min(limits):
        yield f"max_nodes = {machine.max_nodes}, and partition {machine.partition} has {min(limits)}"
    try:
        longest = parse_duration(row.get("MaxTime", ""))
    except ValueError:
        return  # UNLIMITED
    if machine.max_time > longest:
        yield f"max_time is longer than MaxTime={row['MaxTime']} of partition {machine.partition}"


def _accounts(site: Site) -> set[str]:
    identity = site.config.identity
    return {identity.service_user} if identity.service_user is not None else set(identity.users.values())


def _identities(site: Site, adapter: str, accounts: list[str]) -> Iterator[Finding]:
    """Whether jobs can be run as their accounts, in folders of theirs."""
    if site.config.identity.mode == "service":
        yield Finding(
            Level.NOTE, f"single tenant: every job runs as {accounts[0]}, and can read and end every other job of it"
        )
    if not accounts:
        yield Finding(Level.NOTE, "no accounts are listed in [identity.users]; the pattern cannot be tried beforehand")
    for account in accounts:
        if account == adapter:
            yield Finding(
                Level.PROBLEM, f"jobs would run as {account}, the adapter's own account; give jobs another one"
            )
            continue
        parent = site.config.jobs.folder.replace("{user}", account).replace("{id}", "0").rsplit("/", 1)[0]
        try:
            result = site.transport.run(Command(("/bin/sh", "-c", _FOLDER, "sh", parent), user=account))
        except AdapterError as error:
            yield Finding(Level.PROBLEM, f"commands cannot be run as {account}: {error}")
            continue
        said = result.text.strip()
        if said == "good":
            yield Finding(Level.GOOD, f"jobs can run as {account}, in {parent}")
        else:
            mend = f"make it as {account}: mkdir -m 700 {parent}" if said == "does not exist" else "see jobs.folder"
            yield Finding(Level.PROBLEM, f"{parent}, for the jobs of {account}, {said or result.complaint}; {mend}")


def _shared(site: Site) -> Iterator[Finding]:
    """The folder of the hosts files."""
    if site.config.peers.private:
        yield Finding(Level.NOTE, "views are private: there is no shared hosts file")
        return
    seen = peerfiles.read(site.transport, site.peers_folder)
    peerfiles.plan_change(seen, {}, "")
    yield Finding(Level.GOOD, f"{site.peers_folder} can be read and written")


def _drives(site: Site, accounts: list[str]) -> Iterator[Finding]:
    for drive in site.config.drives:
        if not accounts:
            return
        for account in accounts:
            found = site.transport.run(Command(("test", "-d", drive.path), user=account)).status == 0
            if found:
                yield Finding(Level.GOOD, f"drive {drive.id} is {drive.path}")
                break
        else:
            yield Finding(
                Level.WARNING,
                f"drive {drive.id}: {drive.path} is no folder that any of {', '.join(accounts)} can reach",
            )


def _drive_pattern(site: Site, accounts: list[str]) -> Iterator[Finding]:
    """Whether there are folders where the pattern has drives, and what it comes to."""
    pattern = site.config.drive_pattern
    user = site.config.command_line.user or next(iter(site.config.identity.users), None)
    for name, form, project in (("user", pattern.user, None), ("project", pattern.project, "PROJECT")):
        if form is None:
            continue
        fixed = form.split("{", 1)[0].rsplit("/", 1)[0] or "/"
        if not _reached(site, [fixed], accounts):
            whom = f"that any of {', '.join(accounts)} can reach" if accounts else "on the cluster"
            yield Finding(Level.WARNING, f"drive_pattern.{name}: {fixed} is no folder {whom}")
        elif user is None:
            yield Finding(Level.GOOD, f"drive_pattern.{name}: {fixed} is there")
        else:
            drive = by_pattern("DRIVE", pattern, user, project, site.account_of(Owner(created_by=user)))
            where = "not be found: it would lead out of the pattern's folders" if drive is None else f"be {drive.path}"
            whose = user if project is None else f"{project}, for {user},"
            yield Finding(Level.GOOD, f"drive_pattern.{name}: {fixed} is there; drive DRIVE of {whose} would {where}")


_MOST_SHOWN = 5


def _ucloud_drives(site: Site, accounts: list[str]) -> Iterator[Finding]:
    """Whether UCloud's drives have folders here."""
    if site.ucloud_drives is None:
        return
    pattern = site.config.drive_pattern
    if pattern.user is not None and pattern.project is not None:
        yield Finding(
            Level.NOTE, "ucloud.ask_for_drives: UCloud is asked for none: [drive_pattern] has a folder for every drive"
        )
        return
    drives, more = site.ucloud_drives.some()
    if not drives:
        yield Finding(
            Level.NOTE,
            f"ucloud.ask_for_drives: UCloud has no drives of provider {site.config.provider}; jobs that name one that "
            "is neither in the table nor under the pattern are refused",
        )
        return
    folders = {drive.id: drive.folder for drive in drives if drive.folder is not None}
    reached = _reached(site, list(folders.values()), accounts)
    good = [f"{id_} is {folder}" for id_, folder in folders.items() if folder in reached]
    if good:
        count = f"{len(good)} of {len(drives)}{' and more' if more else ''}"
        yield Finding(Level.GOOD, f"UCloud's drives have folders here ({count}): {_some(good)}")
    if away := [f"{id_} is {folder}" for id_, folder in folders.items() if folder not in reached]:
        whom = f"any of {', '.join(accounts)}" if accounts else "the adapter's account"
        yield Finding(Level.WARNING, f"UCloud's drives whose folders {whom} cannot reach: {_some(away)}")
    if nameless := [drive.id for drive in drives if drive.folder is None]:
        yield Finding(
            Level.WARNING,
            f"UCloud's drives without a folder in their provider's name for them: {_some(nameless)}; put them into "
            "[[drives]], or jobs that name them are refused",
        )


_TERMINAL = '[ -t 0 ] && [ -x /bin/bash ] && echo "a terminal on $(uname -n)."'
_TERMINAL_SECONDS = 60.0


def _folder_shells(site: Site, accounts: list[str]) -> Iterator[Finding]:
    """Whom shells in folders let in, where, and whether they can be had: nobody's own start-up files are run."""
    config = site.config
    if not config.gateway.folder_shells:
        return
    if config.gateway.url is None:
        yield Finding(Level.WARNING, "gateway.folder_shells: there are none, for gateway.url is not set")
        return
    pattern = config.drive_pattern
    if not (config.drives or pattern.user or pattern.project or site.ucloud_drives is not None):
        yield Finding(
            Level.WARNING,
            "gateway.folder_shells: there is no folder to begin in: there are neither [[drives]] nor a "
            "[drive_pattern], and UCloud is not asked for drives (ucloud.ask_for_drives)",
        )
    whose = {"UCloud's users": config.ucloud is not None, "users with tokens": config.gateway.stand_alone}
    whom = " and ".join(name for name, let_in in whose.items() if let_in)
    opens = (
        f"gateway.folder_shells: {whom} get login shells on the login node, where Slurm's commands run; they begin in "
        "folders of drives and are not confined to them: what the account may do they may do"
    )
    if config.identity.service_user is not None:
        account = config.identity.service_user
        yield Finding(Level.WARNING, f"{opens}, and that is {account} for all, who can read and end every job")
    else:
        known = f"{_some(accounts)}; " if accounts else ""
        others = "others by identity.pattern" if config.identity.pattern is not None else "no others"
        yield Finding(Level.NOTE, f"{opens}. Accounts: {known}{others}")
    if accounts:
        yield _try_terminal(site, accounts[0])


def _try_terminal(site: Site, account: str) -> Finding:
    stream = site.transport.open(Command(("/bin/sh", "-c", _TERMINAL), user=account), Terminal())
    hung = threading.Timer(_TERMINAL_SECONDS, stream.close)  # which ends the reading, too
    hung.start()
    try:
        said = b"".join(iter(stream.read, b"")).decode(errors="replace").strip()
    finally:
        hung.cancel()
        stream.close()
    if (found := re.search(r"a terminal on \S+(?=\.)", said)) is not None:
        return Finding(Level.GOOD, f"gateway.folder_shells: {account} can be given {found[0]}")
    return Finding(
        Level.PROBLEM,
        f"gateway.folder_shells: {account} cannot be given a shell on the login node: {said or 'nothing was said'}; it "
        "needs /bin/bash there, and a sudo that runs commands in a terminal",
    )


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_MOST_SHOWN]) + (", ..." if len(texts) > _MOST_SHOWN else "")


_FOLDERS = r"""
for path do [ ! -d "$path" ] || printf '%s\0' "$path"; done
"""


def _reached(site: Site, paths: Sequence[str], accounts: list[str]) -> set[str]:
    """Those of these paths that are folders to any of the accounts, or to the adapter's where none is known."""
    found: set[str] = set()
    asked: list[str | None] = [*accounts]
    for account in asked or [None]:
        if left := [path for path in paths if path not in found]:
            stdin = b"".join(path.encode() + b"\0" for path in left)
            result = site.transport.run(
                Command(("xargs", "-0", "-r", "sh", "-c", _FOLDERS, "sh"), stdin=stdin, user=account)
            )
            found |= {name.decode(errors="replace") for name in result.stdout.split(b"\0")[:-1]}
    return found


def _demo(site: Site, nodes: Mapping[str, str], accounts: list[str]) -> Iterator[Finding]:
    """What `demo` needs besides, which no other job does."""
    lacks = []
    if site.config.command_line.user is None:
        lacks.append("command_line.user")
    if len(nodes) < 2:
        lacks.append("a second node")
    if accounts:
        compile_static = Command(
            ("cc", "-static", "-x", "c", "-", "-o", "/dev/null"),
            stdin=b"int main(void) { return 0; }",
            user=accounts[0],
        )
        try:
            compiles = site.transport.run(compile_static).status == 0
        except AdapterError:
            compiles = False
        if not compiles:
            lacks.append("a C compiler (cc) with a static C library on the cluster")
    if lacks:
        yield Finding(Level.NOTE, f"the demo cannot run here: it needs {', '.join(lacks)}; other jobs do not")


def methods_that_work(site: Site) -> list[str]:
    """The ways to give a job its names that work on this machine of the cluster, for the first account of the site."""
    user = next(iter(sorted(_accounts(site))), None)
    result = site.transport.run(Command(("/bin/sh", "-c", _METHODS), user=user))
    return [method for method in result.text.split() if method in site.config.peers.methods]


def _peers(site: Site, nodes: Mapping[str, str], accounts: list[str]) -> Iterator[Finding]:
    """Whether jobs can be given names, and nodes have addresses for them."""
    addresses = find_addresses(site, nodes)
    if lost := sorted(node for node, found in addresses.items() if not found):
        yield Finding(
            Level.PROBLEM,
            f"{len(lost)} nodes have no address that other nodes can use ({', '.join(lost[:5])}, ...); "
            "give NodeAddr in slurm.conf, or set peers.address",
        )
    else:
        examples = ", ".join(f"{node} {found[0]}" for node, found in list(addresses.items())[:2])
        yield Finding(Level.GOOD, f"every node has an address ({examples}, ...)")
    if accounts:
        works = methods_that_work(site)
        if works:
            yield Finding(
                Level.GOOD, f"names work on this machine of the cluster, by {works[0]} (works: {', '.join(works)})"
            )
        else:
            yield Finding(
                Level.WARNING,
                f"names do not work on this machine of the cluster for {accounts[0]}, by none of "
                f"{', '.join(site.config.peers.methods)}; where the nodes are the same, jobs with peers end as "
                "FAILURE: allow unprivileged user namespaces, or install bubblewrap or libnss-wrapper on the nodes",
            )
    yield Finding(
        Level.NOTE,
        "the firewall between jobs is not enforced: who reaches a node reaches every port of every job on it",
    )
