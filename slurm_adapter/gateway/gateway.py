"""What the parts of the gateway share."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, Request

from slurm_adapter.gateway.api.dispatch import Dispatcher
from slurm_adapter.gateway.api.extend import Extender
from slurm_adapter.gateway.api.submit import Submitter
from slurm_adapter.gateway.api.terminate import Ender
from slurm_adapter.gateway.api.utilization import Utilizations
from slurm_adapter.gateway.authentication import authenticate, grant
from slurm_adapter.gateway.background import BackgroundWork
from slurm_adapter.gateway.controller import Controller
from slurm_adapter.gateway.http.metrics import Counted, Metrics
from slurm_adapter.gateway.http.turns import Turns
from slurm_adapter.gateway.questions import Sparing
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
"""Shells in browsers at once, and those of one user."""

REQUESTS = 96
"""Requests of users at once; each may hold a body of `bodies.USERS_LIMIT`."""

REQUESTS_OF_ONE = 16
"""Requests of one user at once."""

REQUESTS_PER_SECOND, REQUESTS_IN_A_ROW = 20, 40
"""How fast requests of one user are begun, and how many before that counts. UCloud's are not delayed."""


class Gateway:
    """One gateway over one site. Raises `InvalidConfig` where UCloud's key cannot be read."""

    def __init__(self, adapter: Adapter) -> None:
        self.config = adapter.config
        self.metrics = Metrics()
        adapter.scheduler = cast(
            "Scheduler", Sparing(cast("Scheduler", Counted(adapter.scheduler, self.metrics.failures)))
        )
        self.key = None if adapter.config.ucloud is None else UcloudKey(adapter.config.ucloud)
        """UCloud's own; None where there is no door for it."""
        self.requests = Shares(REQUESTS, REQUESTS_OF_ONE, "requests under way")
        self.turns = Turns(REQUESTS_PER_SECOND, REQUESTS_IN_A_ROW)
        self._token_users: dict[str, str] = {}
        """Users by digests of tokens that were good once."""
        self.workers = ThreadPools(adapter)
        self.controller = Controller(self.workers)
        self.dispatcher = Dispatcher(self.workers)
        self.submitter = Submitter(self.workers, self.controller, self.dispatcher)
        self.behind = BackgroundWork()
        self.ender = Ender(self.workers, self.behind, self.controller)
        self.extender = Extender(self.workers)
        self.following = Following(self.workers)
        self.web = Web(self.config, self.workers)
        self.utilizations = Utilizations(self.workers, self.controller)
        self.sessions = Sessions()
        self.visits = AccessGrants()
        self.shells = Shares(SHELLS, SHELLS_OF_ONE, "shells")
        self.shell_threads = ThreadPoolExecutor(3 * SHELLS, thread_name_prefix="shell")
        """Each shell has a thread that waits for its output, one that writes its input, and one to close it."""
        self.changed = self.workers.changed
        """Set where the next pass should come soon."""
        self.passed = asyncio.Event()
        """Set where there may be something to tell UCloud."""
        self.names_work = False
        """Jobs were seen to get names on this cluster, as `check` looks; told as `native.peers`."""
        self.names_unseen: str | None = None
        """Why it could not be looked."""
        self.not_ready: str | None = "no pass has been made yet"
        """What the last sync could not learn or do, for a reason that concerns the whole site."""
        self.account_problems: tuple[str, ...] = ()
        """What the last sync could not learn or do of single jobs and accounts: it does not matter to `ready`."""
        self.untold: str | None = None
        """Why UCloud is not told all just now; jobs go on meanwhile."""
        self.closing = threading.Event()
        """Set where nothing new should be begun: what is due stays in the database."""

    @property
    def why_not_ready(self) -> str | None:
        """Why nobody should rely on it just now; None if the controller answers and the last pass learned all."""
        return self.controller.away or self.not_ready

    async def admit(self, authorization: str | None, project: str | None, state: MutableMapping[str, Any]) -> Owner:
        """Return whom the jobs of a user's request belong to, once it is this user's turn.

        Whoever sends too many waits before the token is looked up, which costs more than to wait. `state` is the
        scope's. Raise `NotAuthenticated`, `Forbidden` and `TooMany`.
        """
        digest = grant(authorization)
        user = self._token_users.get(digest)
        if user is not None:
            await self.turns.wait(user, state)
        owner = await self.workers.call(_owner, authorization, project)
        if user is None:
            self._token_users[digest] = owner.created_by
            await self.turns.wait(owner.created_by, state)
        return owner

    async def close(self) -> None:
        """Wait for what was begun, and give everything back."""
        self.closing.set()
        await self.following.close()
        await self.behind.close()
        await self.submitter.close()
        await self.dispatcher.close()
        await asyncio.to_thread(self.shell_threads.shutdown)
        self.web.close()
        await asyncio.to_thread(self.workers.close)


def _owner(adapter: Adapter, authorization: str | None, project: str | None) -> Owner:
    return authenticate(adapter.store, authorization, project, adapter.clock())


def _of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Shared = Annotated[Gateway, Depends(_of)]
"""The gateway, for a route."""
