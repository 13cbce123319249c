"""Texts of the configuration files of the sandbox's daemons. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.sandbox.layout import (
    ADAPTER,
    CLUSTER_NAME,
    JOB_ACCOUNTS,
    PEOPLE,
    RESEARCH_GROUP,
    SERVICES,
    SLURM_ACCOUNT,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_adapter.sandbox.layout import Layout, Node

CPUS = 64
MEMORY = 64000
GPUS = 2


@dataclass(frozen=True, slots=True)
class Wishes:
    """Requested settings of a sandbox."""

    nodes: int = 3
    accounting: bool = False
    min_job_age: int = 300
    """Slurm's MinJobAge: seconds that slurmctld keeps an ended job."""
    release: str = ""
    """Release of the nodes. Empty for the machine's own."""


def slurm_conf(layout: Layout, wishes: Wishes, *, memory_limits: bool) -> str:
    """Return slurm.conf(5). Without memory limits, Slurm tracks processes by their parents."""
    compute, login = layout.compute(wishes.nodes), layout.login
    first, last = compute[0].name, compute[-1].name
    names = first if first == last else f"node[{first.removeprefix('node')}-{last.removeprefix('node')}]"
    plugins = ("proctrack/cgroup", "task/cgroup") if memory_limits else ("proctrack/linuxproc", "task/none")
    nodes = "".join(
        f"NodeName={node.name} NodeAddr={node.address} NodeHostname={node.name} CPUs={CPUS} RealMemory={MEMORY}"
        f" Gres=gpu:{GPUS}{' Feature=fast' if index == 0 else ''} State=UNKNOWN\n"
        for index, node in enumerate(compute)
    )
    return f"""\
ClusterName={CLUSTER_NAME}
SlurmctldHost={login.name}({login.address})
SlurmUser={SLURM_ACCOUNT.name}
AuthType=auth/munge
# A requeued job waits until its old credential expires, by default 120 s.
AuthInfo=socket={layout.munge_socket},cred_expire=5
CredType=cred/munge
StateSaveLocation={layout.spool}/slurmctld
SlurmctldPidFile={layout.run}/slurmctld/slurmctld.pid
SlurmctldLogFile={layout.log}/slurmctld/slurmctld.log
SlurmdSpoolDir={layout.spool}/%n
SlurmdPidFile={layout.run}/%n.pid
SlurmdLogFile={layout.log}/%n.log
MailProg=/bin/true
MpiDefault=none
PropagateResourceLimits=NONE
ReturnToService=2
JobRequeue=1
KillWait=5
# Ends an allocation if its srun is gone, for example after a crash.
InactiveLimit=30
MessageTimeout=10
SlurmdTimeout=30
MinJobAge={wishes.min_job_age}
MaxJobCount=100000
FirstJobId={layout.first_job_id}
ProctrackType={plugins[0]}
TaskPlugin={plugins[1]}
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
{_accounting(login) if wishes.accounting else "AccountingStorageType=accounting_storage/none"}
{nodes}\
PartitionName=main Nodes={names} Default=YES DefaultTime=01:00:00 MaxTime=2-00:00:00 PriorityTier=10 State=UP
PartitionName=scavenge Nodes={names} DefaultTime=01:00:00 MaxTime=12:00:00 PriorityTier=1 State=UP
"""


def _accounting(login: Node) -> str:
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={login.name}
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment"""


def cgroup_conf() -> str:
    """Return cgroup.conf(5). Only memory is limited, so that nodes can have more CPUs than the machine."""
    return "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\nConstrainCores=no\nConstrainDevices=no\n"


def gres_conf(layout: Layout) -> str:
    """Return gres.conf(5). The GPUs are device files that nothing opens."""
    return f"AutoDetect=off\nName=gpu File={layout.devices}/gpu[0-{GPUS - 1}]\n"


def slurmdbd_conf(layout: Layout) -> str:
    """Return slurmdbd.conf(5). MYSQL_UNIX_PORT in slurmdbd's environment names the database's socket."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
DbdHost={layout.login.name}
DbdAddr={layout.login.address}
SlurmUser={SLURM_ACCOUNT.name}
LogFile={layout.log}/slurmctld/slurmdbd.log
PidFile={layout.run}/slurmctld/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm_acct_db
StorageUser={SLURM_ACCOUNT.name}
"""


def mariadb_cnf(layout: Layout) -> str:
    """Return the options of mariadbd: small buffers, no network."""
    return f"""\
[mariadbd]
datadir={layout.spool}/mysql
socket={layout.database_socket}
pid-file={layout.run}/mysql/mariadbd.pid
log-error={layout.log}/mysql/mariadbd.log
skip-networking
skip-name-resolve
innodb_buffer_pool_size=32M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
key_buffer_size=1M
performance_schema=OFF
"""


def sshd_config(layout: Layout) -> str:
    """Return `sshd_config` of the login node: only the adapter's account, only by public key."""
    return f"""\
Port 22
HostKey {layout.keys}/ssh_host_ed25519_key
PidFile {layout.run}/sshd.pid
AllowUsers {ADAPTER.name}
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthenticationMethods publickey
AuthorizedKeysFile /etc/ssh/authorized_keys/%u
UsePAM no
UseDNS no
PrintMotd no
X11Forwarding no
Subsystem sftp internal-sftp
"""


def sudoers() -> str:
    """Return `sudoers` as a site would write it: the adapter's account may act as the users, and as the operator.

    Without accounting, only SlurmUser and root are operators. So the operator's rule names SlurmUser and exactly the
    commands that are allowed (regular expressions need sudo 1.9.10).
    """
    jobs = ", ".join(account.name for account in JOB_ACCOUNTS)
    return f"""\
Defaults env_reset
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Defaults:{ADAPTER.name} !requiretty
root ALL=(ALL:ALL) ALL
{ADAPTER.name} ALL=({jobs}) NOPASSWD: ALL
{ADAPTER.name} ALL=({SLURM_ACCOUNT.name}) NOPASSWD: \\
    /usr/bin/scontrol ^(suspend|resume) [0-9_,]+$, \\
    /usr/bin/scontrol ^(?i)update job(id)?=[0-9_,]+ timelimit=[+]?[0-9:-]+$
"""


def hosts(machines: Iterable[Node]) -> str:
    """Return `/etc/hosts` of every node."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for node in machines:
        lines += [f"{node.address} {node.name}", f"{node.address6} {node.name}"]
    return "\n".join(lines) + "\n"


def passwd(machine: str) -> str:
    """Return `/etc/passwd` of every node: the machine's system accounts and the sandbox's accounts."""
    own = (*PEOPLE, *SERVICES)
    lines = [f"{a.name}:x:{a.uid}:{a.uid}::{a.home}:{a.shell}" for a in own]
    return _merge(machine, {a.name for a in own}, {a.uid for a in own}, lines)


def group(machine: str) -> str:
    """Return `/etc/group` of every node, merged in the same way."""
    own = (*PEOPLE, *SERVICES)
    name, number, members = RESEARCH_GROUP
    lines = [f"{a.name}:x:{a.uid}:" for a in own] + [f"{name}:x:{number}:{','.join(m.name for m in members)}"]
    return _merge(machine, {name, *(a.name for a in own)}, {number, *(a.uid for a in own)}, lines)


def shadow(accounts: str) -> str:
    """Return `/etc/shadow` for a passwd file.

    `*` means "no password". `!` would lock the account, and sshd refuses locked accounts.
    """
    return "".join(f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in accounts.splitlines() if line)


def _merge(machine: str, names: set[str], numbers: set[int], lines: list[str]) -> str:
    kept = []
    for line in machine.splitlines():
        fields = line.split(":")
        system = len(fields) > 2 and fields[2].isdigit() and (int(fields[2]) < 1000 or int(fields[2]) == 65534)
        if system and fields[0] not in names and int(fields[2]) not in numbers:
            kept.append(line)
    return "\n".join([*kept, *lines]) + "\n"
