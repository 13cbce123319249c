"""Shells: inside running jobs, and in folders on the login node.

A shell in a job runs on the node of a rank, as the job's account, and the job's names resolve in it. It is a step of
the job, so its limits and its end are the job's. It asks for nothing of what the job has reserved, since a step that
waits for processors or memory which the application has would wait for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import InvalidInput, NotOffered, Refused, TryAgain
from slurm_adapter.core.states import JobState

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.transports.interface import Stream, Terminal
    from slurm_adapter.core.records import Record
    from slurm_adapter.translation.drives import DrivePath

_SECONDS = 60.0
"""How long it may take until srun runs, or the shell."""

_CLEANLY = """
name=$(id -un)
home=$(getent passwd "$name" | cut -d: -f6)
exec env -i PATH="$path" HOME="${home:-$HOME}" USER="$name" LOGNAME="$name" SHELL=/bin/bash LANG=C.UTF-8 \\
    TERM="$TERM" ${conf:+SLURM_CONF="$conf"} \\
"""
"""Nothing of sudo's environment reaches what follows."""

_ATTACH = f"""
path=$1 conf=$2 job=$3 node=$4 folder=$5
shift 5
{_CLEANLY}\
    srun --quiet --overlap --pty --export=ALL --jobid="$job" --nodelist="$node" --nodes=1 --ntasks=1 \\
    --mem=0 --gres=none --cpu-bind=none --propagate=NONE --chdir="$folder" "$@"
"""
"""Nor does any SLURM_* and SRUN_* variable of a start-up file reach srun and the shell."""

_ENTER = f"""
path=$1 conf=$2 root=$3 folder=$4
cd -P -- "$folder" 2>/dev/null || {{
    printf 'This folder is not there any more, or not yours to enter: %s\\n' "$folder"
    exit 1
}}
root=$(cd -P -- "$root" && pwd -P) && here=$(pwd -P) || exit 1
case "$here/" in
    "${{root%/}}/"*) ;;
    *) printf 'This folder leaves its drive through a symbolic link: %s\\n' "$folder"; exit 1 ;;
esac
{_CLEANLY}\
    /bin/bash --login -i
"""
"""The shell is in the very folder that was looked at, whatever becomes of its path meanwhile."""


def open_shell(adapter: Adapter, record: Record, rank: int, terminal: Terminal) -> Stream:
    """Open a login shell on the node of a rank, in the job's folder.

    Raises `InvalidInput` for a rank that the job does not have, `Refused` if it does not run, `NotOffered` for an
    array, `TryAgain` if its nodes are not known yet, and what `Transport.open` raises. Messages of srun come as the
    shell's output.
    """
    check(record, rank)
    shell: tuple[str, ...] = ("/bin/bash", "--login", "-i")
    if record.has_hosts_file:
        run = f"{record.slurm_id}-{record.restarts}"
        shell = ("/bin/bash", "-p", f"{record.folder}/node/join.sh", "--run", run, *shell)
    cluster = adapter.config.cluster
    given = (cluster.path, cluster.slurm_conf or "", str(record.slurm_id), record.nodes[rank], record.folder)
    command = Command(("/bin/sh", "-c", _ATTACH, "sh", *given, *shell), user=record.account, timeout=_SECONDS)
    return adapter.transport.open(command, terminal)


_WATCH = f"""
path=$1 conf=$2 job=$3 node=$4
shift 4
{_CLEANLY}\
    srun --quiet --overlap --export=ALL --jobid="$job" --nodelist="$node" --nodes=1 --ntasks=1 \
    --mem=0 --gres=none --cpu-bind=none --propagate=NONE --chdir=/ /bin/sh -c "$1" sh "$job"
"""


USER_SCRIPTS = {"attach": _ATTACH, "enter": _ENTER, "watch": _WATCH}
"""Scripts that run as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


def open_watcher(adapter: Adapter, record: Record, rank: int, script: str) -> Stream:
    """Open a step of the job on the node of a rank that runs a shell script, with the job's Slurm id as argument.

    Raises as `open_shell` does.
    """
    check(record, rank)
    cluster = adapter.config.cluster
    given = (cluster.path, cluster.slurm_conf or "", str(record.slurm_id), record.nodes[rank], script)
    command = Command(("/bin/sh", "-c", _WATCH, "sh", *given), user=record.account, timeout=_SECONDS)
    return adapter.transport.open(command)


def open_in_folder(adapter: Adapter, account: str, path: DrivePath, terminal: Terminal) -> Stream:
    """Open a login shell of this account on the cluster's login node, in a folder of a drive.

    If the folder does not exist, or is not inside its drive any more, the shell's output says so. Raises what
    `Transport.open` raises.
    """
    cluster = adapter.config.cluster
    given = (cluster.path, cluster.slurm_conf or "", path.root, path.cluster)
    command = Command(("/bin/sh", "-c", _ENTER, "sh", *given), user=account, timeout=_SECONDS)
    return adapter.transport.open(command, terminal)


def check(record: Record, rank: int) -> None:
    """Raise what `open_shell` raises of the job itself."""
    if not 0 <= rank < record.replicas:
        raise InvalidInput(f"rank: {rank}: job {record.id} has the ranks 0 to {record.replicas - 1}")
    if record.state is not JobState.RUNNING:
        raise Refused(f"job {record.id} has no shells: it is {record.state}, and only a job that is RUNNING has them")
    if record.array:
        raise NotOffered(f"job {record.id} has no shells: it is an array: its tasks are jobs of their own in Slurm")
    if record.slurm_id is None or rank >= len(record.nodes):
        raise TryAgain(f"job {record.id} has no shells yet: the nodes on which it runs are not known")
