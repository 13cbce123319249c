"""The database of one adapter: every query and every change is a method here."""

from __future__ import annotations

from slurm_adapter.state.cleanup import Cleanup
from slurm_adapter.state.hosts_version import HostsVersion
from slurm_adapter.state.jobs import Jobs
from slurm_adapter.state.tokens import Tokens


class Store(Jobs, Cleanup, HostsVersion, Tokens):
    """Jobs, the updates about them, and users' access tokens; see `Database`."""
