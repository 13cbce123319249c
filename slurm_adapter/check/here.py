"""Check this machine: the adapter's state, its templates and applications, and the SSH configuration."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slurm_adapter.check.findings import Finding, Level
from slurm_adapter.errors import AdapterError
from slurm_adapter.script import read_node_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.site import Site


def check_here(site: Site) -> Iterator[Finding]:
    """What can be seen without the cluster."""
    try:
        known = site.store.all(1)
        yield Finding(Level.GOOD, f"the state in {site.config.state} can be used" + ("" if known else "; no jobs yet"))
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))
    if os.geteuid() == 0:
        yield Finding(
            Level.WARNING, "this program runs as root, and needs no such right; run it as the adapter's account"
        )
    try:
        read_node_files()
        found = site.catalogue.applications
        yield Finding(Level.GOOD, f"{len(found)} applications: {', '.join(map(str, found))}")
        yield from (Finding(Level.PROBLEM, text) for text in site.catalogue.problems.values())
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))
    if (settings := site.ssh_settings) is not None:
        from slurm_adapter.transports.ssh_config import ignored_options  # noqa: PLC0415  # paramiko, for SSH only

        try:
            for option in ignored_options(settings):
                yield Finding(Level.WARNING, f"{option} of the SSH configuration has no effect here")
        except AdapterError as error:
            yield Finding(Level.PROBLEM, str(error))
