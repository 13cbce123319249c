"""The helper that a site may install for sudo: the only program that its rule for the adapter then names.

It runs as the account that sudo has changed to, never as root, and starts what it is given only if that is one of the
adapter's own commands: each script is compared with the helper's own copy, which belongs to root, and what else decides
about what runs (PATH, folders, numbers) with the site's configuration.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from slurm_adapter.cli.check import accounts, findings, probe, shells
from slurm_adapter.cluster import job_folders, path_check
from slurm_adapter.cluster.schedulers import sbatch
from slurm_adapter.cluster.transports import frame
from slurm_adapter.gateway.sessions import listeners
from slurm_adapter.jobs import logs, name_methods
from slurm_adapter.jobs import shells as terminals
from slurm_adapter.local.template_folder import read_helper

if TYPE_CHECKING:
    from slurm_adapter.core.config import Config

_MODULES = (
    frame, job_folders, logs, sbatch, terminals, path_check, listeners, accounts, findings, name_methods, probe, shells
)  # fmt: skip

SCRIPTS = {name: script for module in _MODULES for name, script in module.USER_SCRIPTS.items()}
"""All that runs as the account of a user, by the names that the helper has for it."""


def render(config: Config) -> str:
    """Return the helper of a site: a shell script."""
    cluster = config.cluster
    values = {
        "lowest": str(config.identity.lowest_uid),
        "path": cluster.path,
        "conf": cluster.slurm_conf or "",
        "jobs_folder": config.jobs.folder.rpartition("/")[0],
        "folder_shells": "yes" if config.gateway.folder_shells else "",
        **SCRIPTS,
    }
    settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return read_helper().replace("# SETTINGS\n", settings)
