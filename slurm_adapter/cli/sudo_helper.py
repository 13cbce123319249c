"""The sudo helper: a script that a site can install, so that its sudo rule for the adapter allows only this program.

It runs as the target account of sudo, never as root, and executes only the adapter's own commands. It compares each
script with its own copy, which belongs to root, and compares PATH, folders and numbers with the site's configuration.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from slurm_adapter.cli.check import accounts, findings, probe, shells
from slurm_adapter.cluster import job_folder_scripts, path_check
from slurm_adapter.cluster.schedulers import sbatch
from slurm_adapter.cluster.transports import frame
from slurm_adapter.gateway.sessions import listeners
from slurm_adapter.jobs import logs, name_methods
from slurm_adapter.jobs import shells as terminals
from slurm_adapter.local.template_folder import read_helper

if TYPE_CHECKING:
    from slurm_adapter.core.config import Config

_MODULES = (
    frame, job_folder_scripts, logs, sbatch, terminals, path_check, listeners, accounts, findings, name_methods, probe,
    shells,
)  # fmt: skip

SCRIPTS = {name: script for module in _MODULES for name, script in module.USER_SCRIPTS.items()}
"""All scripts that run as the account of a user, by their names in the helper."""


def render(config: Config) -> str:
    """Return the helper script of a site."""
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
