"""Check the accounts that run jobs, and the folders of jobs and hosts files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter import peerfiles
from slurm_adapter.check.findings import Finding, Level
from slurm_adapter.errors import AdapterError
from slurm_adapter.transports.interface import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.site import Site


_FOLDER = r"""
parent=$1
[ -d "$parent/" ] || { echo "does not exist"; exit; }
cd -P -- "$parent" 2>/dev/null || { echo "cannot be entered"; exit; }
[ -O . ] || { echo "does not belong to this account"; exit; }
[ -w . ] || { echo "cannot be written"; exit; }
case $(stat -c %A .) in ????????w?) echo "can be written by everybody"; exit ;; esac
echo good
"""


def check_accounts(site: Site, adapter: str, accounts: list[str]) -> Iterator[Finding]:
    """Whether jobs can be run as their accounts, in folders of theirs."""
    if site.config.identity.mode == "service":
        yield Finding(
            Level.NOTE, f"single tenant: every job runs as {accounts[0]}, and can read and end every other job of it"
        )
    if not accounts:
        yield Finding(Level.NOTE, "no accounts are listed in [identity.users]; the pattern cannot be tried beforehand")
    for account in accounts:
        if account == adapter:
            yield Finding(
                Level.PROBLEM, f"jobs would run as {account}, the adapter's own account; give jobs another one"
            )
            continue
        parent = site.config.jobs.folder.replace("{user}", account).replace("{id}", "0").rsplit("/", 1)[0]
        try:
            result = site.transport.run(Command(("/bin/sh", "-c", _FOLDER, "sh", parent), user=account))
        except AdapterError as error:
            yield Finding(Level.PROBLEM, f"commands cannot be run as {account}: {error}")
            continue
        said = result.text.strip()
        if said == "good":
            yield Finding(Level.GOOD, f"jobs can run as {account}, in {parent}")
        else:
            mend = f"make it as {account}: mkdir -m 700 {parent}" if said == "does not exist" else "see jobs.folder"
            yield Finding(Level.PROBLEM, f"{parent}, for the jobs of {account}, {said or result.complaint}; {mend}")


def check_shared(site: Site) -> Iterator[Finding]:
    """The folder of the hosts files."""
    if site.config.peers.private:
        yield Finding(Level.NOTE, "views are private: there is no shared hosts file")
        return
    seen = peerfiles.read(site.transport, site.peers_folder)
    peerfiles.plan_change(seen, {}, "")
    yield Finding(Level.GOOD, f"{site.peers_folder} can be read and written")
