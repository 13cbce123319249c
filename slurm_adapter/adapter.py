"""The one place where concrete parts are put together: the configuration decides which ones.

What costs time (the database, paramiko, a connection) is made when it is first used.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self

from slurm_adapter.cluster.account_policy import AccountPolicy, GuardedTransport
from slurm_adapter.core.config import ACCOUNT_NAME
from slurm_adapter.core.errors import InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from slurm_adapter.cluster.lanes import Lanes
    from slurm_adapter.cluster.path_check import PathChecks
    from slurm_adapter.cluster.schedulers.interface import Scheduler
    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.cluster.transports.ssh_config import SshSettings
    from slurm_adapter.core.config import Config, Ucloud
    from slurm_adapter.core.specification import Owner
    from slurm_adapter.local.application_folder import Catalogue
    from slurm_adapter.state.store import Store
    from slurm_adapter.ucloud.client import Client
    from slurm_adapter.ucloud.drives import UcloudDrives
    from slurm_adapter.ucloud.interface import Receiver

_HANDING_IN = "handing-in.lock"


class Adapter:
    """A cluster, and what is remembered of its jobs."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self.clock = clock
        self._sharing = threading.Lock()

    @cached_property
    def store(self) -> Store:
        """The database, opened."""
        from slurm_adapter.state.store import Store

        return Store(self.config.state_dir)

    @cached_property
    def transport(self) -> Transport:
        """The way to the cluster."""
        settings = self.ssh_settings
        if settings is None:
            from slurm_adapter.cluster.transports.local import LocalTransport

            return GuardedTransport(LocalTransport(self.config.cluster.prefix), self.account_policy)
        from slurm_adapter.cluster.transports.ssh import SshTransport

        return GuardedTransport(SshTransport(settings), self.account_policy)

    @cached_property
    def account_policy(self) -> AccountPolicy:
        """Which accounts may be used."""
        return AccountPolicy(self.config.identity, lambda: self.scheduler.own_uids(), StoredFacts(self))  # noqa: PLW0108  # made when it is first used

    def for_thread(self) -> Adapter:
        """This site for another thread: a database connection of its own, and the same way to the cluster."""
        other = Adapter(self.config, self.clock)
        with self._sharing:  # two threads would each make one of what was not used yet (from Python 3.12 on)
            other.receiver = self.receiver
            other.ucloud_drives = self.ucloud_drives
            other.path_checks = self.path_checks
            other.account_policy = self.account_policy
            other.lanes = self.lanes
            other.transport = self.transport
            other.scheduler = self.scheduler
            other.catalogue = self.catalogue
        return other

    def elsewhere(self) -> Adapter:
        """This site for another thread, with a database connection of its own and nothing else. To be closed."""
        return type(self)(self.config, self.clock)

    @property
    def ssh_settings(self) -> SshSettings | None:
        """How to log in to the cluster; None for the local transport."""
        ssh = self.config.cluster.ssh
        if ssh is None:
            return None
        from slurm_adapter.cluster.transports.ssh_config import SshSettings

        return SshSettings(
            host=ssh.host,
            user=ssh.user,
            port=ssh.port,
            key_files=(ssh.key,) if ssh.key else (),
            known_hosts=ssh.known_hosts,
            config_file=ssh.config,
        )

    @cached_property
    def scheduler(self) -> Scheduler:
        """The way to Slurm."""
        from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler

        cluster, account = self.config.cluster, self.config.identity.service_user
        commands = CommandLineScheduler(self.transport, cluster.path, cluster.slurm_conf, operator=cluster.operator)
        if cluster.scheduler == "commands" or account is None:
            return commands
        from slurm_adapter.cluster.schedulers.pyslurm import PyslurmScheduler

        python = cluster.pyslurm_python or sys.executable
        return PyslurmScheduler(self.transport, account, commands, slurm_conf=cluster.slurm_conf, python=python)

    @cached_property
    def receiver(self) -> Receiver | None:
        """Who is told what becomes of jobs that came from UCloud; None for a site that has no UCloud.

        Raises `InvalidConfig` where what it needs is not installed.
        """
        ucloud = self.config.ucloud
        if ucloud is None:
            return None
        client = self._ucloud_client(ucloud)
        from slurm_adapter.ucloud.receiver import UcloudReceiver

        return UcloudReceiver(client)

    @cached_property
    def ucloud_drives(self) -> UcloudDrives | None:
        """UCloud's drives; None for a site that does not ask for them. Raises as `receiver` does."""
        ucloud = self.config.ucloud
        if ucloud is None or not ucloud.ask_for_drives:
            return None
        from slurm_adapter.ucloud.drives import QUESTION_SECONDS, UcloudDrives

        # A client of its own: a job does not wait here until UCloud was told of all others.
        return UcloudDrives(self._ucloud_client(ucloud, seconds=QUESTION_SECONDS), self.clock)

    def _ucloud_client(self, ucloud: Ucloud, **limits: float) -> Client:
        try:
            from slurm_adapter.ucloud.client import Client
        except ImportError as error:
            raise InvalidConfig(
                f"[ucloud] needs {error.name}, which is not installed: pip install 'slurm-adapter[serve]'"
            ) from error
        return Client(ucloud.url, ucloud.refresh_token, self.clock, **limits)

    @cached_property
    def path_checks(self) -> PathChecks:
        """Paths in drives that were looked at lately."""
        from slurm_adapter.cluster.path_check import PathChecks

        return PathChecks()

    @cached_property
    def lanes(self) -> Lanes:
        """Threads for what is done as the accounts of jobs."""
        from slurm_adapter.cluster.lanes import Lanes

        return Lanes()

    @cached_property
    def catalogue(self) -> Catalogue:
        """The applications of jobs that do not bring their own."""
        from slurm_adapter.local.application_folder import open_catalogue

        return open_catalogue(self.config)

    @property
    def peers_folder(self) -> str:
        """Where the hosts files are on the shared file system."""
        return f"{self.config.shared_dir}/peers"

    def usable_account_of(self, owner: Owner) -> str:
        """Return the account that runs this owner's jobs, which the cluster says may be used.

        Raise `InvalidInput` if there is none or it may not, and `TryAgain` if the cluster does not tell.
        """
        account = self.account_of(owner)
        if (why := self.account_policy.refusal(account, self.transport)) is not None:
            raise InvalidInput(f"user {owner.created_by!r} would run as {account!r}, which runs no jobs: {why}")
        return account

    def account_of(self, owner: Owner) -> str:
        """Return the account of this owner by the configuration alone. Raise `InvalidInput` if there is none."""
        identity = self.config.identity
        if identity.service_user is not None:
            return identity.service_user
        account = identity.users.get(owner.created_by)
        if account is None and identity.pattern is not None:
            account = identity.pattern.replace("{user}", owner.created_by)
        if account is None:
            raise InvalidInput(
                f"user {owner.created_by!r} has no account on this cluster; the site lists users in [identity.users]"
            )
        if not ACCOUNT_NAME.fullmatch(account) or account == "root":
            raise InvalidInput(f"user {owner.created_by!r} would run as {account!r}, which is not an account for jobs")
        return account

    def sync_lock(self) -> AbstractContextManager[bool]:
        """Hold the lock of `sync`: true where this process has it. It goes with the process, however that ends."""
        return self._holding("sync.lock", "no pass was made, and no job was changed", fcntl.LOCK_EX | fcntl.LOCK_NB)

    def probe_lock(self) -> AbstractContextManager[bool]:
        """Hold the lock of `check --job`: true if this process has it."""
        return self._holding("probe.lock", "no probe was submitted", fcntl.LOCK_EX | fcntl.LOCK_NB)

    def delivery_lock(self, *, wait: bool) -> AbstractContextManager[bool]:
        """Hold the lock of those that tell UCloud, likewise; `wait` for it where it must be this one."""
        return self._holding("tell.lock", "UCloud was told nothing", fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def submitting_lock(self) -> AbstractContextManager[bool]:
        """Held from before jobs are claimed until they are taken, by as many as do so; it goes with the process."""
        return self._holding(_HANDING_IN, "nothing was submitted", fcntl.LOCK_SH)

    def nobody_submits(self) -> AbstractContextManager[bool]:
        """True where nobody holds `submitting_lock`. Not to be held: who wants to hand in waits for it."""
        return self._holding(_HANDING_IN, "no claim was handed over", fcntl.LOCK_EX | fcntl.LOCK_NB)

    @contextmanager
    def _holding(self, name: str, undone: str, how: int) -> Iterator[bool]:
        path = self.config.state_dir / name
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            from slurm_adapter.state.database import StoreError

            raise StoreError(f"{path}: {error.strerror}; {undone}") from error
        try:
            try:
                fcntl.flock(descriptor, how)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give back what was opened."""
        for name in ("lanes", "store", "transport", "receiver", "ucloud_drives"):
            if (opened := self.__dict__.get(name)) is not None:
                opened.close()

    def __enter__(self) -> Self:
        """Give everything back at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()


class StoredFacts:
    """The facts in the database. A connection belongs to one thread, so each call opens one of its own."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def read(self, name: str) -> str | None:
        """Return the fact of this name, or None."""
        with self._adapter.elsewhere() as adapter:
            return adapter.store.fact(name)

    def write(self, name: str, text: str) -> None:
        """Keep a fact, and leave the database alone if it holds the same."""
        with self._adapter.elsewhere() as adapter:
            if adapter.store.fact(name) != text:
                adapter.store.change_fact(name, lambda _: text)
