"""Web and VNC sessions: the interfaces of a job's application.

Each interface of a rank of a job has a domain of its own, so that browsers separate the pages of applications. A
session begins with a token in the address, which is valid once. After that a cookie of the domain opens it.
"""

from __future__ import annotations

import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from slurm_adapter.core.errors import InvalidInput, NotAuthenticated, NotOffered, Refused
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.api.schemas import Session
from slurm_adapter.gateway.authentication import check_grant
from slurm_adapter.gateway.http.connections import Connection, connect
from slurm_adapter.gateway.http.turns import Lanes, Turns
from slurm_adapter.gateway.sessions.listeners import Listeners
from slurm_adapter.gateway.sessions.one_time_secrets import SecretStore
from slurm_adapter.gateway.sessions.proxy import JobPort
from slurm_adapter.gateway.sessions.revocation import Permission
from slurm_adapter.gateway.sessions.tunnels import MOST as MOST_TUNNELS
from slurm_adapter.gateway.sessions.tunnels import Tunnels
from slurm_adapter.gateway.shares import Shares

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.core.config import Config
    from slurm_adapter.core.interfaces import Kind
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.sessions.access_grants import AccessGrant
    from slurm_adapter.gateway.thread_pools import ThreadPools

MOST, MOST_OF_ONE = 10_000, 100
"""Unused links, and sessions of browsers, at once: of all users, and of one user."""

CONNECTIONS = 1000
"""Connections to applications at once, if this machine reaches the nodes directly."""
CONNECTIONS_OF_ONE = 64
"""Connections of one user. A browser keeps six for each interface, and each WebSocket is one more."""

REQUESTS_PER_SECOND, REQUESTS_IN_A_ROW = 30, 100
"""Requests of one user to applications that begin each second, and how many may begin at once: a page has dozens."""


@dataclass(frozen=True, slots=True)
class Place:
    """An interface of a rank of a job."""

    job: str
    rank: int
    interface: int = 0
    """Number of the job's further interface, from 1; 0 for the interface that its application always has."""
    grant: str | AccessGrant | None = None
    """Permission of the session (`authentication.check_grant`); None if there is no session."""

    user: str = ""
    """User of the session."""

    @property
    def number(self) -> str:
        """The rank, and the number of a further interface, in domains and cookies."""
        return f"{self.rank}-{self.interface}" if self.interface else str(self.rank)

    def same(self, other: Place | None) -> bool:
        """Return whether it is the same interface."""
        return other is not None and self == replace(other, grant=self.grant, user=self.user)


class Domains:
    """The domain of each interface of each rank."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        host, _, _ = pattern.partition(":")
        before, after = (re.escape(part) for part in host.split("{job}-{rank}"))
        numbers = r"([1-9][0-9]*)-(0|[1-9][0-9]{0,5})(?:-([1-9][0-9]{0,2}))?"
        self._host = re.compile(rf"{before}{numbers}{after}\.?(?::[0-9]+)?", re.ASCII | re.IGNORECASE)

    def domain(self, place: Place) -> str:
        """Return the domain of an interface, with the port if the site's pattern has one."""
        return self._pattern.replace("{job}", place.job).replace("{rank}", place.number)

    def find(self, host: str) -> Place | None:
        """Return the interface of this domain (a request's Host); None if it is not a job's."""
        match = self._host.fullmatch(host)
        return None if match is None else Place(match[1], int(match[2]), int(match[3] or 0))


class Web:
    """The open web and VNC sessions of a gateway."""

    def __init__(self, config: Config, pools: ThreadPools, limits: Limits) -> None:
        self.config = config
        self.limits = limits
        self.pools = pools
        pattern = config.gateway.web_domain
        self.domains = None if pattern is None else Domains(pattern)
        self._tunnels = Tunnels()
        self.listeners = Listeners(pools)
        most = CONNECTIONS if config.gateway.reaches_nodes else MOST_TUNNELS
        self.connections = Shares(most, CONNECTIONS_OF_ONE, "connections to applications")
        self.turns = Turns(REQUESTS_PER_SECOND, REQUESTS_IN_A_ROW)
        self._lanes = Lanes()
        links = Shares(MOST, MOST_OF_ONE, "links to applications that wait for their use")
        self.tokens: SecretStore[tuple[Place, Kind]] = SecretStore(limits.session_start, links)
        sessions = Shares(MOST, MOST_OF_ONE, "sessions with applications")
        self.cookies: SecretStore[Place] = SecretStore(limits.session, sessions, replaces=True)

    @property
    def scheme(self) -> str:
        """The scheme of addresses in browsers."""
        return urlsplit(self.config.gateway.url or "").scheme

    def open(
        self,
        record: Record,
        rank: int,
        kind: Kind,
        target: str = "",
        grant: str | AccessGrant | None = None,
        user: str | None = None,
    ) -> Session:
        """Open a session with an interface of a rank, for a caller who was checked to have access to the job.

        `target` names a further interface of the application. `grant` is the permission of the session; see
        `authentication.check_grant`. `user` is the user of the session; without one, the owner of the job.

        Raise `NotOffered` if the site or the application has none. Raise `Refused` if the job is not running,
        `InvalidInput` for an unknown rank or target, and `TooMany` if the user has too many unused links.
        """
        if self.domains is None or (why := lacks(self.config)) is not None:
            missing = "gateway.web_domain is not set" if self.domains is None else why
            raise NotOffered(f"{_NAMES[kind]} access is not supported by this provider: {missing}")
        place = Place(
            record.id, rank, _find_interface(record, rank, kind, target) if target else 0, grant, user or record.owner
        )
        if not port_of(record, place, kind):
            raise NotOffered(f"{_NAMES[kind]} access: {record.application} declares no port for it")
        check(record, rank)
        token = self.tokens.issue((place, kind), place.user)
        path = f"/ucloud/{self.config.provider}"
        if kind == "WEB":
            address = f"{self.scheme}://{self.domains.domain(place)}{path}/authorize-app?token={token}"
            return Session(type="web", job_id=record.id, rank=rank, redirect_client_to=address)
        host = urlsplit(self.config.gateway.url or "").netloc
        address = f"{self.scheme.replace('http', 'ws')}://{host}{path}/vnc?token={token}"
        return Session(type="vnc", job_id=record.id, rank=rank, url=address, password=record.vnc_password)

    @asynccontextmanager
    async def reach(self, way: JobPort, owner: str) -> AsyncIterator[Connection]:
        """Connect to a port of a node for a user, within the block; through the cluster if there is no direct way.

        Raise `TooMany`, `NotListening`, `NotTheJobs` and, if the cluster cannot be reached, `AdapterError`.
        """
        with self.turns.counted(owner):
            self.connections.acquire(owner)
        async with AsyncExitStack() as stack:
            stack.callback(self.connections.release, owner)
            async with self._lanes.of(owner):
                if self.config.gateway.reaches_nodes:
                    opening = connect(way.host, way.port)
                else:
                    transport = await self.pools.database.run(_transport)
                    opening = self._tunnels.open(transport, way.host, way.port)
                connection = await stack.enter_async_context(opening)
                await self.listeners.check(way)
            yield connection

    def close(self) -> None:
        """Close everything."""
        self._tunnels.close()
        self.listeners.close()

    async def find(self, place: Place) -> Record | None:
        """Return the job; None if it is forgotten. Raise `NotAuthenticated` if the session's token is revoked."""
        return await self.pools.database.run(_find, place)

    def permission(self, place: Place, run: str, secret: str | None, until: float) -> Permission:
        """Return the permission of a connection; see `check`."""
        return Permission(partial(self.check, place, run, secret, until), self.limits.permission_check)

    async def check(self, place: Place, run: str, secret: str | None, until: float) -> None:
        """Raise an error if a connection may not stay open: its job, the cookie `secret` or its token has ended."""
        if time.monotonic() >= until or (secret is not None and self.cookies.find(secret) is None):
            raise NotAuthenticated("the session has ended")
        record = await self.find(place)
        if record is None or record.state.final or record.run != run:
            raise Refused(f"job {place.job} is not running any more")


def lacks(config: Config) -> str | None:
    """Return which key web and VNC sessions need that is not set; None if they work."""
    for key, value in (("web_domain", config.gateway.web_domain), ("url", config.gateway.url)):
        if value is None:
            return f"gateway.{key} is not set"
    return None


def check(record: Record, rank: int) -> None:
    """Raise `NotOffered` for an array, `Refused` if the job is not running, and `InvalidInput` for an unknown rank."""
    if record.array:
        raise NotOffered(f"job {record.id} has no such sessions: the tasks of an array have no common address")
    ranks = record.replicas
    if not 0 <= rank < ranks:
        raise InvalidInput(f"rank: {rank}: job {record.id} has the ranks 0 to {ranks - 1}")
    if record.state is not JobState.RUNNING:
        raise Refused(f"job {record.id} is {record.state}; a session needs a job that is RUNNING")


def port_of(record: Record, place: Place, kind: Kind) -> int | None:
    """Return the port of this interface; None if the job has no such interface."""
    if not place.interface:
        return record.web_port if kind == "WEB" else record.vnc_port
    if place.interface > len(record.interfaces):
        return None
    found = record.interfaces[place.interface - 1]
    return found.port if (found.rank, found.kind) == (place.rank, kind) else None


def _find_interface(record: Record, rank: int, kind: Kind, name: str) -> int:
    """Return the number of a further interface; see `Place`."""
    there = [each.name for each in record.interfaces if (each.rank, each.kind) == (rank, kind)]
    if name not in there:
        has = ", ".join(map(for_message, there)) or "none"
        raise InvalidInput(
            f"target: {for_message(name)}: job {record.id} has no such {kind} interface on rank {rank}: {has}"
        )
    return 1 + next(n for n, each in enumerate(record.interfaces) if (each.rank, each.name) == (rank, name))


_NAMES = {"WEB": "Web", "VNC": "Vnc"}


def _find(adapter: Adapter, place: Place) -> Record | None:
    check_grant(adapter.store, place.grant, adapter.clock())
    return adapter.store.find([place.job]).get(place.job)


def _transport(adapter: Adapter) -> Transport:
    return adapter.transport


def port_on_node(record: Record, rank: int, port: int) -> JobPort | None:
    """Return how its port is reached; None if its node's address is not known yet."""
    addresses = record.addresses[rank] if rank < len(record.addresses) else ()
    return JobPort(addresses[0], port, record, rank) if addresses else None
