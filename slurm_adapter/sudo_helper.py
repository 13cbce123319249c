"""The helper that a site may install for sudo: the only program that its rule for the adapter then names.

It runs as the account that sudo has changed to, never as root, and starts what it is given only if that is one of the
adapter's own commands: each script is compared with the helper's own copy, which belongs to root, and what else decides
about what runs (PATH, folders, numbers) with the site's configuration.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from slurm_adapter import drives, folders, joblogs, terminals
from slurm_adapter.check import accounts, findings, names, probe, shells
from slurm_adapter.gateway import listeners
from slurm_adapter.schedulers import submission
from slurm_adapter.script import read_helper
from slurm_adapter.transports import frame

if TYPE_CHECKING:
    from slurm_adapter.config import Config

_MODULES = (
    frame, folders, joblogs, submission, terminals, drives, listeners, accounts, findings, names, probe, shells
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
