"""Find the methods by which a job's processes get a hosts file of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import Command

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter

_METHODS = r"""
works() { "$@" >/dev/null 2>&1 && printf '%s ' "$name"; }
name=unshare works unshare -Urm unshare -U true
name=bwrap works bwrap --unshare-user --uid 0 --gid 0 --cap-add ALL --dev-bind / / unshare -U true
for library in /lib*/libnss_wrapper.so /usr/lib*/libnss_wrapper.so /usr/lib/*/libnss_wrapper.so; do
    [ ! -e "$library" ] || { printf 'nss_wrapper '; break; }
done
"""


USER_SCRIPTS = {"check_names": _METHODS}
"""Scripts that run as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


def methods_that_work(adapter: Adapter, account: str | None = None) -> list[str]:
    """Return the methods that work on this machine of the cluster, for an account or the site's first."""
    user = account or next(iter(sorted(job_accounts(adapter))), None)
    result = adapter.transport.run(Command(("/bin/sh", "-c", _METHODS), user=user))
    return [method for method in result.text.split() if method in adapter.config.peers.methods]


def job_accounts(adapter: Adapter) -> set[str]:
    """Return the accounts that run jobs, as far as the configuration lists them."""
    identity = adapter.config.identity
    return {identity.service_user} if identity.service_user is not None else set(identity.users.values())
