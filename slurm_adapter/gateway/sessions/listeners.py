"""Check on the node which account and job own a port, before the first byte is sent to it.

Another user of the node may listen on a port that a job did not open, or closed. So for each rank with open sessions a
small step of the job reads the node's tables of sockets (proc(5), /proc/net/tcp), as the job's account.

It is asked once the connection is open, and nothing is sent before the answer. From then on the other end is either an
accepted socket with that account's uid, or it waits in the queue of a listening socket and ends with that. So if every
socket on the port has the job's uid, the connection belongs to the job's account. The control group of the processes
shows whether it is this job or another one of the account.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from slurm_adapter.core.errors import AdapterError, TryAgain
from slurm_adapter.jobs import shells

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.transports.interface import Stream
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.sessions.proxy import JobPort
    from slurm_adapter.gateway.thread_pools import ThreadPools

T = TypeVar("T")

MOST, MOST_OF_ONE = 256, 32
"""Watched ranks at once, of all owners of jobs and of one owner. The one that was not asked for longest ends."""
IDLE_SECONDS = 120.0
"""Seconds that a step waits for the next question before it ends."""
START_SECONDS = 30.0
ANSWER_SECONDS = 10.0
ANSWER_BYTES = 1024 * 1024
"""Bytes of the longest answer: about 7000 sockets on the port. Processes of the job's account can write there, too."""

_LISTEN = "0A"
"""The state of a listening socket (include/net/tcp_states.h)."""


class NotTheJobs(AdapterError):
    """A port that does not belong to the job."""


class Socket(NamedTuple):
    """A row of /proc/net/tcp or tcp6."""

    six: bool
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    listens: bool
    uid: int
    inode: int


class Listeners:
    """The steps that read tables of nodes, for one gateway."""

    def __init__(self, pools: ThreadPools) -> None:
        self._pools = pools
        self._threads = ThreadPoolExecutor(2 * MOST, thread_name_prefix="listeners")
        self._watchers: dict[tuple[str, str, str, int], _Watcher] = {}
        """The watchers by owner, job, run and rank; the last one was asked last."""

    async def check(self, way: JobPort) -> None:
        """Return if the port of an open connection belongs to its job.

        Raise `NotTheJobs` if it does not, and `TryAgain` if that cannot be checked.
        """
        watcher = self._watcher(way.record, way.rank)
        where = f"port {way.port} on {_node(way)}"
        try:
            if not watcher.started:
                await watcher.start(lambda: self._pools.questions.run(_open, way.record, way.rank))
            rows = await watcher.rows(way.port)
            listening = judge(rows, way.host, watcher.uid, where)
            for inode in listening:
                await watcher.check_inode(inode, way.record, where)
        except (OSError, TimeoutError) as error:
            watcher.end()
            raise TryAgain(
                f"the owner of {where} cannot be checked: no step of job {way.record.id} answers there: "
                f"{str(error) or 'not in time'}; the nodes must reach srun's ports on the login node (SrunPortRange)"
            ) from error
        watcher.end_later()

    def _watcher(self, record: Record, rank: int) -> _Watcher:
        """Return the watcher of a rank. If there are too many, end one of the same owner, or of the owner with most."""
        key = (record.owner, record.id, record.run, rank)
        watcher = self._watchers.pop(key, None)
        if watcher is None or watcher.ended:
            self._watchers = {each: known for each, known in self._watchers.items() if not known.ended}
            of_each = Counter(owner for owner, *_ in self._watchers)
            if of_each[record.owner] >= MOST_OF_ONE:
                self._end_oldest(record.owner)
            elif len(self._watchers) >= MOST:
                self._end_oldest(of_each.most_common(1)[0][0])
            watcher = _Watcher(self._threads)
        self._watchers[key] = watcher
        return watcher

    def _end_oldest(self, owner: str) -> None:
        self._watchers.pop(next(key for key in self._watchers if key[0] == owner)).end()

    def close(self) -> None:
        """End all steps."""
        for watcher in self._watchers.values():
            watcher.end()
        self._threads.shutdown(wait=False)


def _open(adapter: Adapter, record: Record, rank: int) -> Stream:
    return shells.open_watcher(adapter, record, rank, _SCRIPT)


def _node(way: JobPort) -> str:
    return way.record.nodes[way.rank] if way.rank < len(way.record.nodes) else way.host


def judge(rows: Sequence[Socket], host: str, uid: int, where: str) -> list[int]:
    """Return the inodes of the listening sockets that may have the connection. Raise `NotTheJobs`."""
    address = ipaddress.ip_address(host)
    meant = [row for row in rows if row.address == address or row.address.is_unspecified]
    if not any(row.address == address for row in rows):  # behind NAT the node has another address
        meant = [row for row in rows if not row.address.is_loopback]
    if any(row.listens and not row.six for row in meant) and address.version == 4:
        # The kernel prefers a socket of the same family.
        meant = [row for row in meant if not (row.six and row.listens)]
    if not meant:
        raise NotTheJobs(
            f"{where} is open, but no process of the node's own network holds it; an application in a container "
            "must use the network of its node"
        )
    if any(row.uid != uid for row in meant):
        raise NotTheJobs(f"{where} is held by another account than the job's")
    return [row.inode for row in meant if row.listens]


def read_row(line: str) -> Socket | None:
    """Return a socket from a line `FILE: ROW`; None for one without a process (any more, or yet)."""
    file, _, row = line.partition(":")
    try:
        _, local, _, state, _, _, _, uid, _, inode = row.split()[:10]
        # Each group of four bytes is a number in the byte order of the node: little-endian wherever Slurm is at home.
        packed = bytes.fromhex(local.partition(":")[0])
        packed = b"".join(packed[at : at + 4][::-1] for at in range(0, len(packed), 4))
        address = ipaddress.ip_address(packed)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if inode == "0":
        return None
    return Socket(file.endswith("6"), address, state == _LISTEN, int(uid), int(inode))


# Lines that begin neither with `watch` nor with the table's name are not ours: prologs of tasks may write to the same
# place. An answer takes one process, and is one write: a second one might wait for an acknowledgement of the first
# (RFC 896). 06 are sockets without a process (TIME_WAIT). $1 is Slurm's id of the job.
_SCRIPT = r"""
printf 'watch uid %s %s\n' "$(id -u)" "$(grep -c "job_$1\(/\|\$\)" /proc/self/cgroup)"
while read -r what value; do
    case $what in
        port)
            row="^ *[0-9]+: [0-9A-F]+:$value [0-9A-F:]+ 0[^6] "
            found=$(exec grep -HE "$row" /proc/net/tcp /proc/net/tcp6 2>/dev/null)
            ;;
        inode)
            found=$(
                find /proc/[0-9]*/fd -maxdepth 1 -lname "socket:\[$value\]" 2>/dev/null |
                    while IFS=/ read -r _ _ pid _; do
                        grep -o 'job_[0-9]*' "/proc/$pid/cgroup" 2>/dev/null
                    done | sed 's/^/watch job /'
            )
            ;;
    esac
    printf '%s\nwatch end\n' "$found"
done
"""

USER_SCRIPTS = {"watch_node": _SCRIPT}
"""Scripts that run as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


class _Watcher:
    """A step on one node that reads its tables."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._turn = asyncio.Lock()
        self._next: dict[int, asyncio.Task[list[Socket]]] = {}
        self._known: set[int] = set()
        """Listening sockets that belong to the job."""
        self._stream: Stream | None = None
        self._unread = b""
        self._lines: deque[str] = deque()
        self._said = 0
        """Bytes since the last question."""
        self._grouped = False
        self._idle: asyncio.TimerHandle | None = None
        self.uid = -1
        self.ended = False

    @property
    def started(self) -> bool:
        """True if it answers."""
        return self.uid >= 0

    async def start(self, opening: Callable[[], Awaitable[Stream]]) -> None:
        """Start the step, unless it runs. Raise `OSError` or `TimeoutError` if it does not start."""
        async with self._turn, asyncio.timeout(START_SECONDS):
            if self.started:
                return
            self._stream = await opening()
            while not (line := await self._line()).startswith("uid "):
                pass
            _, uid, groups = line.split()
            self._grouped = groups != "0"
            self.uid = int(uid)

    async def rows(self, port: int) -> list[Socket]:
        """Return the sockets with this port, read after this call."""
        asking = self._next.get(port)
        if asking is None:  # callers that wait for the same question share the answer
            asking = self._next[port] = asyncio.create_task(self._rows(port))
        return await asyncio.shield(asking)

    async def _rows(self, port: int) -> list[Socket]:
        async with self._turn:
            del self._next[port]
            lines = await self._ask(f"port {port:04X}")
        return [row for line in lines if (row := read_row(line)) is not None]

    async def check_inode(self, inode: int, record: Record, where: str) -> None:
        """Raise `NotTheJobs` if the socket belongs to another job, by the control groups of its processes."""
        if inode in self._known or not self._grouped:
            return
        async with self._turn:
            found = {line[4:] for line in await self._ask(f"inode {inode}") if line.startswith("job ")}
        if found and f"job_{record.slurm_id}" not in found:
            raise NotTheJobs(f"{where} is held by another job of the account {record.account}")
        self._known.add(inode)

    async def _ask(self, question: str) -> list[str]:
        async with asyncio.timeout(ANSWER_SECONDS):
            if self._stream is None or self.ended:
                raise ConnectionError("it has ended")
            self._said = 0
            await self._in_thread(self._stream.write, f"{question}\n".encode())
            lines = []
            while (line := await self._line()) != "end":
                lines.append(line)
            return lines

    async def _line(self) -> str:
        while not self._lines:
            if self._stream is None or not (data := await self._in_thread(self._stream.read)):
                raise ConnectionError("it has ended")
            self._said += len(data)
            if self._said > ANSWER_BYTES:
                raise ConnectionError(f"its answer has more than {ANSWER_BYTES} bytes")
            *lines, self._unread = (self._unread + data).split(b"\n")
            self._lines += [
                line.removeprefix(b"watch ").decode(errors="replace").strip()
                for line in lines
                if line.startswith((b"watch ", b"/proc/net/tcp"))
            ]
        return self._lines.popleft()

    def _in_thread(self, work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def end_later(self) -> None:
        """End it after a while without questions."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.end)

    def end(self) -> None:
        """End the step."""
        self.ended = True
        if self._idle is not None:
            self._idle.cancel()
        if self._stream is not None:
            self._threads.submit(self._stream.close)
