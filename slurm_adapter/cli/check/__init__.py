"""Check a site's configuration and cluster, and suggest a fix for each problem.

Local checks come first. If the cluster cannot be reached, the checks that need it are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli.check.accounts import check_accounts, check_command_line, check_shared, find_accounts
from slurm_adapter.cli.check.cluster import (
    check_clocks,
    check_evidence,
    check_message_timeout,
    check_operator,
    check_pyslurm,
    check_versions,
)
from slurm_adapter.cli.check.drives import check_drives, check_pattern, check_ucloud_drives
from slurm_adapter.cli.check.findings import Finding, Level, noted
from slurm_adapter.cli.check.helper import check_helper
from slurm_adapter.cli.check.here import check_here
from slurm_adapter.cli.check.machines import check_machines
from slurm_adapter.cli.check.names import check_demo, check_names
from slurm_adapter.cli.check.shells import check_shells
from slurm_adapter.cli.check.ucloud import check_key, check_provider
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import AdapterError
from slurm_adapter.jobs.name_methods import methods_that_work

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from slurm_adapter.adapter import Adapter

__all__ = ["Finding", "Level", "check_jobs", "check_site", "methods_that_work"]


def check_site(adapter: Adapter) -> Iterator[Finding]:
    """Check everything that a job of this site needs, without submitting a job."""
    yield from check_here(adapter)
    yield from noted(check_key(adapter))
    yield from noted(check_provider(adapter))
    try:
        identity = adapter.transport.run(Command(("id", "-un"))).text.strip()
        conf = adapter.config.cluster.slurm_conf
        if conf is not None and adapter.transport.run(Command(("test", "-r", conf))).status != 0:
            # Without this file, Slurm's commands would search for a configuration server for a minute.
            key = f"clusters.{adapter.config.cluster_name}.slurm_conf"
            yield Finding(Level.PROBLEM, f"{key}: {identity} cannot read {conf} on the cluster")
            return
        nodes = adapter.scheduler.nodes()
    except AdapterError as error:
        yield Finding(Level.PROBLEM, f"the cluster cannot be reached: {error}")
        return
    how = f"over SSH as {identity}" if adapter.config.cluster.ssh else f"as {identity}"
    yield Finding(Level.GOOD, f"Slurm answers {how}: {len(nodes)} nodes")
    if identity == "root":
        yield Finding(
            Level.WARNING, "the adapter runs as root on the cluster; give it its own account, with sudo rules"
        )
    yield from noted(check_versions(adapter))
    yield from noted(check_pyslurm(adapter))
    yield from noted(check_clocks(adapter))
    yield from noted(check_evidence(adapter))
    yield from noted(check_message_timeout(adapter))
    yield from noted(check_operator(adapter))
    names: dict[str, str] = {}
    yield from noted(check_helper(adapter))
    yield from noted(find_accounts(adapter, names))
    yield from noted(check_machines(adapter, names))
    accounts = list(names)
    yield from noted(check_accounts(adapter, accounts))
    yield from noted(check_command_line(adapter))
    yield from noted(check_shared(adapter, identity, accounts))
    yield from noted(check_drives(adapter, accounts))
    yield from noted(check_pattern(adapter, accounts))
    yield from noted(check_ucloud_drives(adapter, accounts))
    yield from noted(check_shells(adapter, accounts))
    yield from noted(check_names(adapter, nodes, accounts))
    yield from noted(check_demo(adapter, nodes, accounts))


def check_jobs(adapter: Adapter, user: str | None) -> Generator[Finding, None, None]:
    """Submit a probe job to each partition, as this UCloud user or the first user of the site."""
    from slurm_adapter.cli.check.probe import probe_site  # noqa: PLC0415  # loaded only if jobs are submitted

    yield from noted(probe_site(adapter, user))
