"""Check who gets a shell on the login node, and whether one can be opened."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level, some
from slurm_adapter.cluster.transports.interface import Command, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.adapter import Adapter


_TERMINAL = '[ -t 0 ] && [ -x /bin/bash ] && echo "a terminal on $(uname -n)."'


USER_SCRIPTS = {"check_terminal": _TERMINAL}
"""What runs as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""

_TERMINAL_SECONDS = 60.0


def check_shells(adapter: Adapter, accounts: list[str]) -> Iterator[Finding]:
    """Whom shells in folders let in, where, and whether they can be had: nobody's own start-up files are run."""
    config = adapter.config
    if not config.gateway.folder_shells:
        return
    if config.gateway.url is None:
        yield Finding(Level.WARNING, "gateway.folder_shells: there are none, for gateway.url is not set")
        return
    pattern = config.drive_pattern
    if not (config.drives or pattern.user or pattern.project or adapter.ucloud_drives is not None):
        yield Finding(
            Level.WARNING,
            "gateway.folder_shells: there is no folder to begin in: there are neither [[drives]] nor a "
            "[drive_pattern], and UCloud is not asked for drives (ucloud.ask_for_drives)",
        )
    whose = {"UCloud's users": config.ucloud is not None, "users with tokens": config.gateway.stand_alone}
    whom = " and ".join(name for name, let_in in whose.items() if let_in)
    opens = (
        f"gateway.folder_shells: {whom} get login shells on the login node, where Slurm's commands run; they begin in "
        "folders of drives and are not confined to them: what the account may do they may do"
    )
    if config.identity.service_user is not None:
        account = config.identity.service_user
        yield Finding(Level.WARNING, f"{opens}, and that is {account} for all, who can read and end every job")
    else:
        known = f"{some(accounts)}; " if accounts else ""
        others = "others by identity.pattern" if config.identity.pattern is not None else "no others"
        yield Finding(Level.NOTE, f"{opens}. Accounts: {known}{others}")
    if accounts:
        yield _try_terminal(adapter, accounts[0])


def _try_terminal(adapter: Adapter, account: str) -> Finding:
    stream = adapter.transport.open(Command(("/bin/sh", "-c", _TERMINAL), user=account), Terminal())
    hung = threading.Timer(_TERMINAL_SECONDS, stream.close)  # which ends the reading, too
    hung.start()
    try:
        said = b"".join(iter(stream.read, b"")).decode(errors="replace").strip()
    finally:
        hung.cancel()
        stream.close()
    if (found := re.search(r"a terminal on \S+(?=\.)", said)) is not None:
        return Finding(Level.GOOD, f"gateway.folder_shells: {account} can be given {found[0]}")
    return Finding(
        Level.PROBLEM,
        f"gateway.folder_shells: {account} cannot be given a shell on the login node: {said or 'nothing was said'}; it "
        "needs /bin/bash there, and a sudo that runs commands in a terminal",
    )
