"""Distinguishes sudo's own refusal from the answer of the command that it had to run.

sudo ends with exit code 1 in both cases, so its words decide. Only words of sudo *instead of* the command count. A
warning ("sudo: unable to resolve host") precedes commands that did run; to report one of these as not started would
cause a second run. With other words the result is the command's own, with exit code 1.
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
"""Refusals of sudo 1.8 and 1.9, in the C locale that both transports set."""


def check_sudo_started(command: Command, result: Result) -> None:
    """Raise `NotConnected`, with sudo's words and a fix, if sudo did not start the command."""
    if command.user is None or result.status != 1 or result.stdout or not _REFUSALS.search(result.stderr):
        return
    program = command.argv[0]
    if b"command not found" in result.stderr or b"unable to execute" in result.stderr:
        fix = f"{program} must be installed there, in a directory of sudo's secure_path"
    elif b"slurm-adapter-helper" in result.stderr:
        fix = (
            "the helper of identity.sudo_helper is of another version or configuration: install the output of "
            "`slurm-adapter sudo-helper`"
        )
    elif b"unknown user" in result.stderr:
        fix = f"the cluster has no account {command.user}"
    else:
        account = re.sub(r"([^\w.$'-])", r"\\\1", command.user)  # special characters as in sudoers(5)
        fix = (
            f"the cluster's sudoers need a rule for the adapter's own account (here ADAPTER): "
            f"`ADAPTER ALL=({account}) NOPASSWD: {command.helper or 'ALL'}` and `Defaults:ADAPTER !requiretty`"
        )
    raise NotConnected(f"sudo did not run {command}: {result.complaint}\n{fix}")
