"""Check who gets a shell on the login node, and open one."""

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
"""Scripts that run as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""

_TERMINAL_SECONDS = 60.0


def check_shells(adapter: Adapter, accounts: list[str]) -> Iterator[Finding]:
    """Report who gets shells in folders, and try to open one. It does not run the user's start-up files."""
    config = adapter.config
    if not config.gateway.folder_shells:
        return
    if config.gateway.url is None:
        yield Finding(Level.WARNING, "gateway.folder_shells: disabled, because gateway.url is not set")
        return
    pattern = config.drive_pattern
    if not (config.drives or pattern.user or pattern.project or adapter.ucloud_drives is not None):
        yield Finding(
            Level.WARNING,
            "gateway.folder_shells: no drive has a folder: set [[drives]], [drive_pattern] or ucloud.ask_for_drives",
        )
    groups = {"UCloud's users": config.ucloud is not None, "users with access tokens": config.gateway.stand_alone}
    users = " and ".join(name for name, allowed in groups.items() if allowed)
    opens = (
        f"gateway.folder_shells: {users} get login shells on the login node. A shell starts in the folder of a drive, "
        "but is not confined to it: it can do all that the account can do"
    )
    if config.identity.service_user is not None:
        account = config.identity.service_user
        yield Finding(Level.WARNING, f"{opens}. All users share {account}, which can read and cancel every job")
    else:
        known = f"{some(accounts)}; " if accounts else ""
        others = "others by identity.pattern" if config.identity.pattern is not None else "no other accounts"
        yield Finding(Level.NOTE, f"{opens}. Accounts: {known}{others}")
    if accounts:
        yield _try_terminal(adapter, accounts[0])


def _try_terminal(adapter: Adapter, account: str) -> Finding:
    stream = adapter.transport.open(Command(("/bin/sh", "-c", _TERMINAL), user=account), Terminal())
    hung = threading.Timer(_TERMINAL_SECONDS, stream.close)  # closing ends the read below
    hung.start()
    try:
        said = b"".join(iter(stream.read, b"")).decode(errors="replace").strip()
    finally:
        hung.cancel()
        stream.close()
    if (found := re.search(r"a terminal on \S+(?=\.)", said)) is not None:
        return Finding(Level.GOOD, f"gateway.folder_shells: {account} can have {found[0]}")
    return Finding(
        Level.PROBLEM,
        f"gateway.folder_shells: a shell for {account} on the login node failed: {said or 'no output'}; it needs "
        "/bin/bash, and a sudo that runs commands in a terminal",
    )
