"""The adapter's parts, built as the configuration asks for them.

Parts that cost time (the database, paramiko, a connection) are made at their first use.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self

from slurm_adapter.cluster.account_policy import AccountPolicy, GuardedTransport
from slurm_adapter.core.config_values import ACCOUNT_NAME
from slurm_adapter.core.errors import InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from slurm_adapter.cluster.lanes import Lanes
    from slurm_adapter.cluster.path_check import PathChecks
    from slurm_adapter.cluster.schedulers.interface import Scheduler
    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.cluster.transports.ssh_config import SshSettings
    from slurm_adapter.core.config import Config
    from slurm_adapter.core.config_tables import Ucloud
    from slurm_adapter.core.specification import Owner
    from slurm_adapter.local.application_folder import Catalogue
    from slurm_adapter.state.store import Store
    from slurm_adapter.ucloud.client import Client
    from slurm_adapter.ucloud.drives import UcloudDrives
    from slurm_adapter.ucloud.interface import Receiver


class Adapter:
    """A cluster and the records of its jobs."""

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
        """The transport that runs commands on the cluster."""
        settings = self.ssh_settings
        if settings is None:
            from slurm_adapter.cluster.transports.local import LocalTransport

            return GuardedTransport(LocalTransport(self.config.cluster.prefix), self.account_policy)
        from slurm_adapter.cluster.transports.ssh import SshTransport

        return GuardedTransport(SshTransport(settings), self.account_policy)

    @cached_property
    def account_policy(self) -> AccountPolicy:
        """The rules on which accounts may be used."""
        return AccountPolicy(self.config.identity, lambda: self.scheduler.own_uids(), StoredFacts(self))  # noqa: PLW0108  # made at its first use

    def for_thread(self) -> Adapter:
        """Return an adapter for another thread, with its own database connection and the same transport."""
        other = Adapter(self.config, self.clock)
        with self._sharing:  # from Python 3.12 on two threads could each make a part that was not used yet
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
        """Return an adapter for another thread that shares no part with this one. The caller closes it."""
        return type(self)(self.config, self.clock)

    @property
    def ssh_settings(self) -> SshSettings | None:
        """Return the settings to log in to the cluster; None for the local transport."""
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
        """The scheduler, through Slurm's commands or pyslurm."""
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
        """The receiver of updates of UCloud's jobs; None for a site without UCloud.

        Raises `InvalidConfig` if a package that it needs is not installed.
        """
        ucloud = self.config.ucloud
        if ucloud is None:
            return None
        client = self._ucloud_client(ucloud)
        from slurm_adapter.ucloud.receiver import UcloudReceiver

        return UcloudReceiver(client)

    @cached_property
    def ucloud_drives(self) -> UcloudDrives | None:
        """UCloud's drives; None unless `ucloud.ask_for_drives` is set. Raises as `receiver` does."""
        ucloud = self.config.ucloud
        if ucloud is None or not ucloud.ask_for_drives:
            return None
        from slurm_adapter.ucloud.drives import QUESTION_SECONDS, UcloudDrives

        # With a client of its own: a job does not wait here until all updates are delivered.
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
        """The recent checks of paths in drives."""
        from slurm_adapter.cluster.path_check import PathChecks

        return PathChecks()

    @cached_property
    def lanes(self) -> Lanes:
        """Threads for the commands that run as the accounts of jobs."""
        from slurm_adapter.cluster.lanes import Lanes

        return Lanes()

    @cached_property
    def catalogue(self) -> Catalogue:
        """The site's applications, for jobs that do not contain their own."""
        from slurm_adapter.local.application_folder import open_catalogue

        return open_catalogue(self.config)

    @property
    def peers_folder(self) -> str:
        """Return the folder of the hosts files on the shared file system."""
        return f"{self.config.shared_dir}/peers"

    def usable_account_of(self, owner: Owner) -> str:
        """Return the account that runs this owner's jobs, after the cluster has confirmed that it may be used.

        Raise `InvalidInput` if there is none or it may not be used, and `TryAgain` if the cluster does not answer.
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
        """Hold the lock of `sync`. Yield whether this process has it."""
        return self._lock("sync.lock", "nothing was synced, and no job was changed")

    def probe_lock(self) -> AbstractContextManager[bool]:
        """Hold the lock of `check --job`. Yield whether this process has it."""
        return self._lock("probe.lock", "no probe was submitted")

    def delivery_lock(self, *, wait: bool) -> AbstractContextManager[bool]:
        """Hold the lock of deliveries to UCloud, or `wait` for it. Yield whether this process has it."""
        return self._lock("tell.lock", "nothing was delivered", wait=wait)

    def hosts_lock(self) -> AbstractContextManager[bool]:
        """Wait for the lock of the hosts files, and hold it."""
        return self._lock("hosts.lock", "no hosts file was written", wait=True)

    def limits_lock(self) -> AbstractContextManager[bool]:
        """Wait for the lock of changes of time limits, and hold it."""
        return self._lock("limits.lock", "no time limit was changed", wait=True)

    @contextmanager
    def _lock(self, name: str, undone: str, *, wait: bool = False) -> Iterator[bool]:
        from slurm_adapter.state import locks
        from slurm_adapter.state.database import StoreError

        path = self.config.state_dir / name
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = locks.acquire(path, wait=wait)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; {undone}") from error
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Close all opened parts."""
        for name in ("lanes", "store", "transport", "receiver", "ucloud_drives"):
            if (opened := self.__dict__.get(name)) is not None:
                opened.close()

    def __enter__(self) -> Self:
        """Return this adapter; the end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()


class StoredFacts:
    """The facts in the database. Each call opens a connection, because a connection belongs to one thread."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def read(self, name: str) -> str | None:
        """Return the fact of this name, or None."""
        with self._adapter.elsewhere() as adapter:
            return adapter.store.fact(name)

    def write(self, name: str, text: str) -> None:
        """Write a fact unless the database has the same."""
        with self._adapter.elsewhere() as adapter:
            if adapter.store.fact(name) != text:
                adapter.store.change_fact(name, lambda _: text)
