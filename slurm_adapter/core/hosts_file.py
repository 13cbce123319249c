"""Names: which ones a job may declare, and the hosts files that make them resolve.

A host name belongs to the job that declares it: `database` may be job 4101 for one job and 4999 for another. So every
job has a *view* of its own, and the shared file, which an administrator reads and a site's DNS may serve, holds the
same mappings under scoped names:

    # consumer 4150 peer 4101 run 17.0 exit /home/alice/ucloud-jobs/4101/exit.json
    10.0.0.11 database.4150.peers
    10.0.0.11 database-0.4150.peers

    # consumer 4150 peer 4101 run 17.0 exit /home/alice/ucloud-jobs/4101/exit.json
    10.0.0.11 database
    10.0.0.11 database-0

Comments stand on lines of their own, since nss_wrapper takes the words of a trailing one for names; and there is one
line per address and name, since some C libraries cut long ones. The comment tells the nodes which exit record ends the
mapping before the adapter does. Everything here is pure text.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput, Refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

BEGIN = b"# BEGIN slurm-adapter"
END = b"# END slurm-adapter"

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_SYSTEM = frozenset({"localhost", "ip6-localhost", "ip6-loopback", "ip6-allnodes", "ip6-allrouters", "broadcasthost"})


@dataclass(frozen=True, slots=True)
class Group:
    """The mappings that one job has for one peer, or (with no host name) a job's own names."""

    consumer: str
    """The job whose names they are."""
    peer: str
    """The job that they lead to."""
    hostname: str | None
    run: str
    """Slurm's id and restarts of the peer's run."""
    exit_path: str
    """Where that run's exit record will be."""
    addresses: tuple[tuple[str, ...], ...]
    """Of each rank."""

    @property
    def comment(self) -> str:
        """The line before the mappings."""
        if self.hostname is None:
            return f"# job {self.peer} run {self.run}"
        return f"# consumer {self.consumer} peer {self.peer} run {self.run} exit {self.exit_path}"

    def names(self, suffix: str = "") -> Iterator[tuple[str, str]]:
        """Address and name of every mapping; the plain name is rank 0. Names that are too long are left out."""
        name = self.hostname or f"job-{self.peer}"
        for rank, addresses in enumerate(self.addresses):
            for address in addresses:
                if rank == 0 and _fits(name + suffix):
                    yield address, name + suffix
                if _fits(f"{name}-{rank}{suffix}"):
                    yield address, f"{name}-{rank}{suffix}"


def view(groups: Iterable[Group]) -> str:
    """The hosts file of one consumer: its peers under the names that it declared."""
    return _text((group.comment, group.names()) for group in groups if group.hostname is not None)


def shared_block(groups: Iterable[Group]) -> str:
    """What the shared file says of all jobs: every consumer's mappings under scoped names, every job's own names."""
    return _text(
        (group.comment, group.names("" if group.hostname is None else f".{group.consumer}.peers")) for group in groups
    )


def project(shared: str, consumer: str) -> str:
    """The view of one consumer, read out of the shared text: what `view` writes, by another way.

    It is how anybody who serves the shared file (a site's DNS) finds a job's names in it.
    """
    suffix = f".{consumer}.peers"
    lines: list[str] = []
    inside = False
    for line in shared.splitlines():
        if line.startswith("#"):
            inside = line.startswith(f"# consumer {consumer} ")
            if inside:
                lines.append(line)
        elif inside:
            lines.append(line.removesuffix(suffix))
    return "".join(f"{line}\n" for line in lines)


def replace_block(current: bytes, block: str) -> bytes:
    """The shared file with our block replaced, and every other byte kept; a block that is new comes first.

    Raises `Refused` where the marks are damaged, so that nothing of the site's is taken for ours.
    """
    ours = BEGIN + b"\n" + block.encode() + END + b"\n"
    begins = [match.start() for match in re.finditer(rb"^" + BEGIN + rb"$", current, re.MULTILINE)]
    ends = [match.end() for match in re.finditer(rb"^" + END + rb"(\n|\Z)", current, re.MULTILINE)]
    if not begins and not ends:
        return ours + current
    if len(begins) != 1 or len(ends) != 1 or ends[0] <= begins[0]:
        raise Refused(
            f"the shared hosts file has {len(begins)} lines {BEGIN.decode()!r} and {len(ends)} lines {END.decode()!r}: "
            "remove all but one pair, in this order, and what stands between"
        )
    return current[: begins[0]] + ours + current[ends[0] :]


def find_block(current: bytes) -> str:
    """Our block's text in the shared file; empty where there is none."""
    match = re.search(rb"^" + BEGIN + rb"\n(.*?)^" + END + rb"$", current, re.MULTILINE | re.DOTALL)
    return match[1].decode(errors="replace") if match else ""


def check_hostnames(
    declared: Sequence[tuple[str, int, str]], *, nodes: Collection[str], reserved: Collection[str]
) -> list[str]:
    """The host names of a job's peers in lower case, once they are safe to put into a hosts file.

    `declared` holds name, number of the peer's replicas, and where it stands in the specification. RFC 1123 labels of
    at most 63 characters, 253 in all; no address (RFC 1123, 2.1), nothing that means this machine, no node's name and
    none that the site reserves, and no name that the job has already, derived ones (`database-1`) included.

    Raises `InvalidInput`, worded as UCloud words it.
    """
    taken = {name.lower() for name in (*nodes, *reserved)}
    taken |= {name.split(".", 1)[0] for name in taken if not _is_address(name)}
    names = []
    for name, replicas, place in declared:
        lower = name.lower()
        why = _why_not(name, lower, taken)
        for rank in range(0 if why else replicas):
            if of_rank := _why_taken(f"{lower}-{rank}", taken):
                why = f"its rank {rank} would be {f'{lower}-{rank}'!r}, and {of_rank}"
        if why:
            raise InvalidInput(f"{place}: Invalid hostname: {name[:80]!r}: {why}")
        names.append(lower)
    seen: set[str] = set()
    duplicates: set[str] = set()
    for lower, (_, replicas, _) in zip(names, declared, strict=True):
        for each in (lower, *(f"{lower}-{rank}" for rank in range(replicas))):
            (duplicates if each in seen else seen).add(each)
    if duplicates:
        places = ", ".join(place for _, _, place in declared)
        raise InvalidInput(
            f"{places}: Duplicate hostname detected: {', '.join(sorted(duplicates))} (a name stands for rank 0 of its "
            "peer, and NAME-0, NAME-1, ... for its ranks)"
        )
    return names


def left_out(hostname: str, replicas: int, consumer: str) -> list[str]:
    """Derived and scoped names of a peer that are too long, and which no hosts file has therefore."""
    ranks = [f"{hostname}-{rank}" for rank in range(replicas)]
    scoped = [f"{name}.{consumer}.peers" for name in (hostname, *ranks)]
    return [name for name in (*ranks, *scoped) if not _fits(name)]


def usable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those addresses that another node can use, in their standard form, each once.

    Never loopback (a node often resolves its own name to 127.0.1.1), link-local, multicast or unspecified ones.
    """
    found = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
            continue  # the interface of one node says nothing on another
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified):
            found.append(str(address))
    return tuple(dict.fromkeys(found))


def _why_not(name: str, lower: str, taken: Collection[str]) -> str | None:
    """Why a job may not declare this name; None where it may."""
    labels = lower.split(".")
    if not name.isascii() or not all(map(_LABEL.fullmatch, labels)):
        return "labels of letters, digits and inner hyphens, separated by dots, are allowed"
    if not _fits(lower):
        return "at most 63 characters per label and 253 in all are allowed"
    if re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
        return "a name whose last label is a number is read as an address"
    if lower in _SYSTEM or labels[-1] in {"localhost", "localdomain"}:
        return "it means the machine itself"
    if labels[-1] == "peers":
        return "names under .peers belong to the adapter"
    return _why_taken(lower, taken)


def _why_taken(lower: str, taken: Collection[str]) -> str | None:
    """Whose a name is already; None where it is nobody's."""
    if lower in taken:
        return "that is the name of a node, or reserved by the site"
    if re.fullmatch(r"job-\d+(-\d+)?", lower):
        return "job-NUMBER is the adapter's name for a job"
    return None


def _fits(name: str) -> bool:
    return len(name) <= 253 and all(len(label) <= 63 for label in name.split("."))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _text(groups: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> str:
    lines = []
    for comment, names in groups:
        lines.append(comment)
        lines += [f"{address} {name}" for address, name in names]
    return "".join(f"{line}\n" for line in lines)
