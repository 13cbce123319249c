"""The parts of one gateway."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, Request

from slurm_adapter.gateway.api.dispatch import Dispatcher
from slurm_adapter.gateway.api.extend import Extender
from slurm_adapter.gateway.api.submit import Submitter
from slurm_adapter.gateway.api.terminate import Terminator
from slurm_adapter.gateway.api.utilization import Utilizations
from slurm_adapter.gateway.authentication import authenticate, token_digest
from slurm_adapter.gateway.background import BackgroundWork
from slurm_adapter.gateway.controller import Controller
from slurm_adapter.gateway.http.metrics import Counted, Metrics
from slurm_adapter.gateway.http.turns import Turns
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.questions import GatheringScheduler
from slurm_adapter.gateway.sessions.access_grants import AccessGrants
from slurm_adapter.gateway.sessions.sessions import Sessions
from slurm_adapter.gateway.sessions.web import Web
from slurm_adapter.gateway.shares import Shares
from slurm_adapter.gateway.streams.log_follow import Following
from slurm_adapter.gateway.thread_pools import ThreadPools
from slurm_adapter.ucloud.key import UcloudKey

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import Scheduler
    from slurm_adapter.core.specification import Owner

SHELLS, SHELLS_OF_ONE = 100, 20
"""Shells in browsers at once, of all users and of one user."""

REQUESTS = 96
"""Requests of users at once. Each may hold a body of `body_limit.USERS_LIMIT`."""

REQUESTS_OF_ONE = 16
"""Requests of one user at once."""

REQUESTS_PER_SECOND, REQUESTS_IN_A_ROW = 20, 40
"""Requests of one user that begin each second, and how many may begin at once. UCloud's are not delayed."""


class Gateway:
    """All parts of one gateway. Raises `InvalidConfig` if UCloud's key cannot be read."""

    def __init__(self, adapter: Adapter, limits: Limits | None = None) -> None:
        self.config = adapter.config
        self.limits = limits = limits or Limits()
        self.metrics = Metrics()
        counted = cast("Scheduler", Counted(adapter.scheduler, self.metrics.failures))
        adapter.scheduler = cast("Scheduler", GatheringScheduler(counted, limits))
        self.key = None if adapter.config.ucloud is None else UcloudKey(adapter.config.ucloud)
        """UCloud's key; None if the provider API is not served."""
        self.requests = Shares(REQUESTS, REQUESTS_OF_ONE, "requests under way")
        self.turns = Turns(REQUESTS_PER_SECOND, REQUESTS_IN_A_ROW)
        self._token_users: dict[str, str] = {}
        """Users by digests of tokens that were valid once."""
        self.background = BackgroundWork()
        self.pools = ThreadPools(adapter, self.background)
        self.controller = Controller(self.pools, limits)
        self.dispatcher = Dispatcher(self.pools, self.background)
        self.submitter = Submitter(self.pools, self.background, self.controller, self.dispatcher, limits)
        self.terminator = Terminator(self.pools, self.background, self.controller, limits)
        self.extender = Extender(self.pools, limits)
        self.utilizations = Utilizations(self.pools, self.controller, limits)
        self.following = Following(self.pools)
        self.web = Web(self.config, self.pools, limits)
        self.sessions = Sessions(limits)
        self.access_grants = AccessGrants()
        self.shells = Shares(SHELLS, SHELLS_OF_ONE, "shells")
        self.shell_threads = ThreadPoolExecutor(3 * SHELLS, thread_name_prefix="shell")
        """Each shell has a thread that waits for its output, one that writes its input, and one to close it."""
        self.changed = self.pools.changed
        """Set if the next sync should begin soon."""
        self.synced = asyncio.Event()
        """Set if there may be something to deliver to UCloud."""
        self.names_work = False
        """True if names of jobs resolve on this cluster, by the method of `check`. UCloud sees it as `native.peers`."""
        self.names_unknown: str | None = None
        """Why it is not known whether names resolve."""
        self.not_ready: str | None = "no sync has run yet"
        """The first problem of the last sync that concerns the whole site."""
        self.account_problems: tuple[str, ...] = ()
        """Problems of the last sync with single jobs and accounts. The gateway is ready nevertheless."""
        self.delivery_problem: str | None = None
        """Why updates to UCloud are delayed. Jobs continue meanwhile."""
        self.closing = threading.Event()
        """Set if nothing new should begin. What is due stays in the database."""

    @property
    def why_not_ready(self) -> str | None:
        """Why the gateway is not ready; None if slurmctld answers and the last sync was complete."""
        return self.controller.away or self.not_ready

    async def admit(self, authorization: str | None, project: str | None, state: MutableMapping[str, Any]) -> Owner:
        """Return the owner of jobs of a user's request, once it is this user's turn.

        A user who sends too many requests waits before the token is looked up, because the lookup costs more. `state`
        is that of the scope. Raise `NotAuthenticated`, `Forbidden` and `TooMany`.
        """
        digest = token_digest(authorization)
        user = self._token_users.get(digest)
        if user is not None:
            await self.turns.wait(user, state)
        owner = await self.pools.database.run(_owner, authorization, project)
        if user is None:
            self._token_users[digest] = owner.created_by
            await self.turns.wait(owner.created_by, state)
        return owner

    async def close(self) -> None:
        """Wait for all work that was begun, and close everything."""
        self.closing.set()
        await self.following.close()
        await self.background.close()
        await asyncio.to_thread(self.shell_threads.shutdown)
        self.web.close()
        await asyncio.to_thread(self.pools.close)


def _owner(adapter: Adapter, authorization: str | None, project: str | None) -> Owner:
    return authenticate(adapter.store, authorization, project, adapter.clock())


def _of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Shared = Annotated[Gateway, Depends(_of)]
"""The gateway, as a dependency of a route."""
