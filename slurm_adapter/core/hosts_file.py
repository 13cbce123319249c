"""Check the hostnames that jobs declare, and write the hosts files that resolve them.

A hostname belongs to the job that declares it: `database` may be job 4101 for one job and 4999 for another. So every
job has its own hosts view (docs/design.md#hosts-view). The shared hosts file, which administrators read and a site's
DNS may serve, has the same mappings under scoped names:

    # consumer 4150 peer 4101 run 17.0 exit /home/alice/ucloud-jobs/4101/exit.json
    10.0.0.11 database.4150.peers
    10.0.0.11 database-0.4150.peers

    # consumer 4150 peer 4101 run 17.0 exit /home/alice/ucloud-jobs/4101/exit.json
    10.0.0.11 database
    10.0.0.11 database-0

Comments have lines of their own, because nss_wrapper reads the words of a trailing comment as names. Each line has one
address and one name, because some C libraries cut long lines. The path in the comment is the peer's exit record. Once
it exists, nodes ignore the mapping, even before the adapter removes it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput, Refused
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from slurm_adapter.core.records import Record

BEGIN = b"# BEGIN slurm-adapter"
END = b"# END slurm-adapter"

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_SYSTEM = frozenset({"localhost", "ip6-localhost", "ip6-loopback", "ip6-allnodes", "ip6-allrouters", "broadcasthost"})


@dataclass(frozen=True, slots=True)
class Group:
    """Mappings of one job for one peer, or, without a hostname, a job's own names."""

    consumer: str
    """Id of the job that declares the names."""
    peer: str
    """Id of the job that the names resolve to."""
    hostname: str | None
    run: str
    """Slurm id and number of restarts of the peer's run."""
    exit_path: str
    """Path of that run's exit record."""
    addresses: tuple[tuple[str, ...], ...]
    """Addresses of each rank."""

    @property
    def comment(self) -> str:
        """Return the line before the mappings."""
        if self.hostname is None:
            return f"# job {self.peer} run {self.run}"
        return f"# consumer {self.consumer} peer {self.peer} run {self.run} exit {self.exit_path}"

    def names(self, suffix: str = "") -> Iterator[tuple[str, str]]:
        """Yield address and name of every mapping. The plain name is rank 0. Names that are too long are omitted."""
        name = self.hostname or f"job-{self.peer}"
        for rank, addresses in enumerate(self.addresses):
            for address in addresses:
                if rank == 0 and _fits(name + suffix):
                    yield address, name + suffix
                if _fits(f"{name}-{rank}{suffix}"):
                    yield address, f"{name}-{rank}{suffix}"


def make_groups(records: Mapping[str, Record]) -> tuple[Group, ...]:
    """Return the groups of these jobs: every live job's own names, and each consumer's peers that have nodes."""
    ordered = sorted(records.values(), key=lambda record: (len(record.id), record.id))
    groups = [_group(record, record, None) for record in ordered if _reachable(record)]
    for consumer in ordered:
        if consumer.stage is not Stage.ENDED:
            groups += [
                _group(consumer, records[peer.job_id], peer.hostname)
                for peer in consumer.peers
                if peer.job_id in records and _reachable(records[peer.job_id])
            ]
    return tuple(groups)


def _reachable(record: Record) -> bool:
    # The tasks of an array have no one address.
    return record.state in {JobState.RUNNING, JobState.SUSPENDED} and bool(record.addresses) and not record.array


def _group(consumer: Record, peer: Record, hostname: str | None) -> Group:
    return Group(
        consumer=consumer.id,
        peer=peer.id,
        hostname=hostname,
        run=peer.run,
        exit_path=f"{peer.folder}/exit.json",
        addresses=peer.addresses,
    )


def view(groups: Iterable[Group]) -> str:
    """Return the hosts view of one consumer: its peers under the names that it declared."""
    return _text((group.comment, group.names()) for group in groups if group.hostname is not None)


def shared_block(groups: Iterable[Group]) -> str:
    """Return the adapter's part of the shared hosts file: scoped names of all consumers, and each job's own names."""
    return _text(
        (group.comment, group.names("" if group.hostname is None else f".{group.consumer}.peers")) for group in groups
    )


def project(shared: str, consumer: str) -> str:
    """Return the hosts view of one consumer from the text of the shared hosts file. The result equals `view`.

    A program that serves the shared file, such as a site's DNS, finds a job's names in this way.
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
    """Replace the adapter's block in the shared hosts file, and keep every other byte. A new block comes first.

    Raise `Refused` if the marks are damaged, so that the site's own lines are never replaced.
    """
    ours = BEGIN + b"\n" + block.encode() + END + b"\n"
    begins = [match.start() for match in re.finditer(rb"^" + BEGIN + rb"$", current, re.MULTILINE)]
    ends = [match.end() for match in re.finditer(rb"^" + END + rb"(\n|\Z)", current, re.MULTILINE)]
    if not begins and not ends:
        return ours + current
    if len(begins) != 1 or len(ends) != 1 or ends[0] <= begins[0]:
        raise Refused(
            f"the shared hosts file has {len(begins)} lines {BEGIN.decode()!r} and {len(ends)} lines {END.decode()!r}: "
            "keep one pair, BEGIN first, and remove the others with the lines between them"
        )
    return current[: begins[0]] + ours + current[ends[0] :]


def find_block(current: bytes) -> str:
    """Return the adapter's block in the shared hosts file; empty if there is none."""
    match = re.search(rb"^" + BEGIN + rb"\n(.*?)^" + END + rb"$", current, re.MULTILINE | re.DOTALL)
    return match[1].decode(errors="replace") if match else ""


def check_hostnames(
    declared: Sequence[tuple[str, int, str]], *, nodes: Collection[str], reserved: Collection[str]
) -> list[str]:
    """Return the hostnames of a job's peers in lower case, if they are safe in a hosts file.

    `declared` has the name, the peer's number of replicas, and the field of the specification. A name consists of
    labels (RFC 1123) of at most 63 characters, 253 in all. It must not be an address (RFC 1123, 2.1), a name of the
    local machine, the name of a node, or reserved by the site. The names of a job differ, derived names such as
    `database-1` included.

    Raise `InvalidInput`, with UCloud's wording.
    """
    taken = {name.lower() for name in (*nodes, *reserved)}
    taken |= {name.split(".", 1)[0] for name in taken if not _is_address(name)}
    names = []
    for name, replicas, place in declared:
        lower = name.lower()
        why = _why_not(name, lower, taken)
        for rank in range(0 if why else replicas):
            if reason := _why_taken(f"{lower}-{rank}", taken):
                why = f"the name of its rank {rank} is {f'{lower}-{rank}'!r}, and {reason}"
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
            f"{places}: Duplicate hostname detected: {', '.join(sorted(duplicates))} (NAME is rank 0 of a "
            "peer, and NAME-0, NAME-1, ... are its ranks)"
        )
    return names


def left_out(hostname: str, replicas: int, consumer: str) -> list[str]:
    """Return the derived and scoped names of a peer that are too long for hosts files."""
    ranks = [f"{hostname}-{rank}" for rank in range(replicas)]
    scoped = [f"{name}.{consumer}.peers" for name in (hostname, *ranks)]
    return [name for name in (*ranks, *scoped) if not _fits(name)]


def usable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses that other nodes can use, in standard form and without duplicates.

    Loopback (a node often resolves its own name to 127.0.1.1), link-local, multicast and unspecified ones are omitted.
    """
    found = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
            continue  # an interface of one node means nothing on another
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified):
            found.append(str(address))
    return tuple(dict.fromkeys(found))


def _why_not(name: str, lower: str, taken: Collection[str]) -> str | None:
    """Return why a job may not declare this name; None if it may."""
    labels = lower.split(".")
    if not name.isascii() or not all(map(_LABEL.fullmatch, labels)):
        return "labels of letters, digits and inner hyphens, separated by dots, are allowed"
    if not _fits(lower):
        return "at most 63 characters per label and 253 in all are allowed"
    if re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
        return "a name with a number as its last label is read as an address"
    if lower in _SYSTEM or labels[-1] in {"localhost", "localdomain"}:
        return "it is a name of the local machine"
    if labels[-1] == "peers":
        return "names under .peers are reserved for the adapter"
    return _why_taken(lower, taken)


def _why_taken(lower: str, taken: Collection[str]) -> str | None:
    """Return why a name is not available; None if it is."""
    if lower in taken:
        return "this name belongs to a node, or is reserved by the site"
    if re.fullmatch(r"job-\d+(-\d+)?", lower):
        return "names like job-NUMBER are reserved for the adapter"
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
