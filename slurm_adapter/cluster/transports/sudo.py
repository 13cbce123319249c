"""Tells sudo's own refusal from the answer of the command that it was to run.

sudo ends with status 1 for both, so its words decide. Only words that sudo says *instead of* running the command count:
a mere warning ("sudo: unable to resolve host") precedes commands that did run, and calling one of those "not started"
would invite a second run. Words that are not listed here stay an ordinary result with status 1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import NotConnected

if TYPE_CHECKING:
    from slurm_adapter.cluster.transports.interface import Command, Result

_REFUSALS = re.compile(
    rb"""^(?:
      sudo:\ (?:
          a\ (?:password|terminal)\ is\ required
        | sorry,\ you\ must\ have\ a\ tty
        | unknown\ user
        | .+:\ command\ not\ found
        | unable\ to\ execute\ .+
        | account\ validation\ failure
        | PAM\ (?:account\ management|authentication)\ error
        | effective\ uid\ is\ not\ 0
        | .+\ must\ be\ owned\ by\ uid\ 0
        | the\ "no\ new\ privileges"\ flag\ is\ set
        | no\ valid\ sudoers\ sources\ found
        | unable\ to\ initialize\ (?:policy\ plugin|PAM)
      )
    | Sorry,\ user\ .+\ is\ not\ allowed\ to\ execute
    | .+\ is\ not\ in\ the\ sudoers\ file
    | slurm-adapter-helper:\ refused
    )""",
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
"""sudo 1.8 and 1.9, in the C locale that both transports set."""


def check_sudo_started(command: Command, result: Result) -> None:
    """Raise `NotConnected`, with sudo's words and the mend, where sudo did not start the command."""
    if command.user is None or result.status != 1 or result.stdout or not _REFUSALS.search(result.stderr):
        return
    program = command.argv[0]
    if b"command not found" in result.stderr or b"unable to execute" in result.stderr:
        mend = f"{program} must be installed there, in a directory of sudo's secure_path"
    elif b"slurm-adapter-helper" in result.stderr:
        mend = (
            "the helper of identity.sudo_helper is of another version or configuration: install what `slurm-adapter "
            "sudo-helper` prints"
        )
    elif b"unknown user" in result.stderr:
        mend = f"the cluster has no account {command.user}"
    else:
        account = re.sub(r"([^\w.$'-])", r"\\\1", command.user)  # as sudoers(5) wants special characters
        mend = (
            f"the cluster's sudoers need a rule for the adapter's own account (here ADAPTER): "
            f"`ADAPTER ALL=({account}) NOPASSWD: {command.helper or 'ALL'}` and `Defaults:ADAPTER !requiretty`"
        )
    raise NotConnected(f"sudo did not run {command}: {result.complaint}\n{mend}")
