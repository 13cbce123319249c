"""Check the installed sudo helper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli import sudo_helper
from slurm_adapter.cli.check.findings import Finding, Level
from slurm_adapter.cluster.transports.interface import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.adapter import Adapter

_HELPER = 'stat -L -c "%u %A" -- "$1" && cat -- "$1"'


def check_helper(adapter: Adapter) -> Iterator[Finding]:
    """Check that the sudo helper fits this version and configuration, and belongs to root."""
    helper, key = adapter.config.identity.sudo_helper, ("identity", "sudo_helper")
    if helper is None:
        return
    said = adapter.transport.run(Command(("/bin/sh", "-c", _HELPER, "sh", helper)))
    facts, _, content = said.text.partition("\n")
    owner, _, mode = facts.partition(" ")
    anew = f"as root on the cluster: install the output of `slurm-adapter sudo-helper` as {helper}, mode 755"
    if said.status != 0:
        yield Finding(Level.PROBLEM, f"the sudo helper cannot be read: {said.complaint}; {anew}", key)
    elif owner != "0" or "w" in mode[4:] or mode[-1:] != "x":
        yield Finding(
            Level.PROBLEM, f"{helper} must belong to root, with mode 755 (owner {owner}, {mode}); {anew}", key
        )
    elif content != sudo_helper.render(adapter.config):
        yield Finding(Level.PROBLEM, f"{helper} is of another version or configuration; {anew}", key)
    else:
        yield Finding(Level.GOOD, f"commands run as users' accounts only through {helper}")
