"""What stands between a configuration and a working site, each with its mend.

The checks go from the near to the far, and stop where nothing behind can be right: an unreachable cluster says nothing
about its partitions.
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

    from slurm_adapter.adapter import Site

__all__ = ["Finding", "Level", "check_jobs", "check_site", "methods_that_work"]


def check_site(site: Site) -> Iterator[Finding]:
    """Look at everything that a job of this site will need."""
    yield from check_here(site)
    yield from noted(check_key(site))
    yield from noted(check_provider(site))
    try:
        identity = site.transport.run(Command(("id", "-un"))).text.strip()
        conf = site.config.cluster.slurm_conf
        if conf is not None and site.transport.run(Command(("test", "-r", conf))).status != 0:
            # Slurm's commands would look for a server that gives them one, for a minute.
            yield Finding(Level.PROBLEM, f"cluster.slurm_conf: {identity} cannot read {conf} on the cluster")
            return
        nodes = site.scheduler.nodes()
    except AdapterError as error:
        yield Finding(Level.PROBLEM, f"the cluster cannot be asked: {error}")
        return
    where = f"over SSH as {identity}" if site.config.cluster.ssh else f"as {identity}"
    yield Finding(Level.GOOD, f"Slurm answers {where}: {len(nodes)} nodes")
    if identity == "root":
        yield Finding(
            Level.WARNING, "the adapter is root on the cluster; give it an account of its own, with sudo rules"
        )
    yield from noted(check_versions(site))
    yield from noted(check_pyslurm(site))
    yield from noted(check_clocks(site))
    yield from noted(check_evidence(site))
    yield from noted(check_message_timeout(site))
    yield from noted(check_operator(site))
    names: dict[str, str] = {}
    yield from noted(check_helper(site))
    yield from noted(find_accounts(site, names))
    yield from noted(check_machines(site, names))
    accounts = list(names)
    yield from noted(check_accounts(site, accounts))
    yield from noted(check_command_line(site))
    yield from noted(check_shared(site, identity, accounts))
    yield from noted(check_drives(site, accounts))
    yield from noted(check_pattern(site, accounts))
    yield from noted(check_ucloud_drives(site, accounts))
    yield from noted(check_shells(site, accounts))
    yield from noted(check_names(site, nodes, accounts))
    yield from noted(check_demo(site, nodes, accounts))


def check_jobs(site: Site, user: str | None) -> Generator[Finding, None, None]:
    """Submit a probe job to each partition, as a user of UCloud or the site's first."""
    from slurm_adapter.cli.check.probe import probe_site  # noqa: PLC0415  # what jobs take is loaded for them only

    yield from noted(probe_site(site, user))
