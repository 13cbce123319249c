"""Several commands in one shell: one round trip instead of one for each, with output and exit code of each command.

A random mark separates the outputs. It is on standard input, because every user can read a process's arguments.
"""

from __future__ import annotations

import secrets
import shlex
import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG: tuple[str, ...] = ("config",)
"""A function of the script: Slurm's configuration, after the version of sacct."""

# The commands follow, each after `part`.
_SCRIPT = """
IFS= read -r mark
part() {
    printf '%s begin\\n' "$mark"
    "$@"
    status=$?
    printf '\\n%s end %s\\n' "$mark" "$status"
    test "$status" = 0 || exit 0
}
names() { getent passwd "$@" || :; }
# scontrol pings at the end. A ping over the controller's rate limit is shown as DOWN and makes scontrol fail, although
# the rest of the answer is there.
config() {
    sacct --version 2>/dev/null
    said=$(scontrol show config)
    status=$?
    printf '%s\\n' "$said"
    case $said in *' is UP' | *' is DOWN') return 0 ;; esac
    return "$status"
}
"""

_LETTERS = string.ascii_letters + string.digits


def make_script(commands: Sequence[tuple[str, ...]]) -> str:
    """Return a script that runs commands one after the other, up to the first that fails."""
    return _SCRIPT + "".join(f"part {shlex.join(command)}\n" for command in commands)


def draw_mark() -> str:
    """Draw a mark. Nobody guesses one of 62 ** 8."""
    return "".join(secrets.choice(_LETTERS) for _ in range(8))


def split(stdout: bytes, mark: bytes) -> list[tuple[bytes, int]]:
    """Return output and exit code of each command that ended.

    Without a regular expression: each sync has a new mark, and the patterns would fill the cache of `re`.
    """
    found = []
    for piece in (b"\n" + stdout).split(b"\n%b begin\n" % mark)[1:]:
        output, _, rest = piece.partition(b"\n%b end " % mark)
        status = rest.partition(b"\n")[0]
        if status.isdigit():
            found.append((output, int(status)))
    return found


def name(command: tuple[str, ...]) -> str:
    """Return the name of a command for a message."""
    if command == CONFIG:
        return "scontrol show config"
    # Without options: `scontrol show partition`.
    return " ".join([command[0], *command[command.index("show") :]] if "show" in command else command[:1])
