"""Command lines that any login shell passes on unchanged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import NotConnected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.cluster.transports.interface import Command

NO_PROGRAM = b"slurm-adapter: no such program\n"
_LONGEST_LINE = 128 * 1024 - 1
"""Maximum length of a single argument on Linux (MAX_ARG_STRLEN). The line is one argument of the login shell."""
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _@%+=:,./;-")
"""Characters that no shell interprets inside double quotes inside single quotes."""


def shell_line(words: Sequence[str], before: bytes = b"", after: bytes = b"; exit $?") -> bytes:
    r"""Return a line that runs a program with exactly these arguments, in any login shell.

    SSH sends a text, not arguments, and the account's login shell reads it. Shells quote differently: csh interprets
    `!` and newlines in single quotes, fish backslashes. So the login shell only starts /bin/sh, and the script for
    /bin/sh is written in characters that no shell interprets, and octal escapes for the others. In that script every
    argument is in single quotes, in which POSIX has no special character but the quote itself.

    The program starts in `/` (the account that sudo changes to may have no access to our home) with a fixed locale. The
    rest of its environment is unchanged. The shell stays its parent, to report an end by signal N as 128 + N. `before`
    and `after` are text for /bin/sh around the command.
    """
    quoted = [b"'" + os.fsencode(word).replace(b"'", rb"'\''") + b"'" for word in words]
    script = (
        b"cd /; export LANG=C.UTF-8 LC_ALL=C.UTF-8; "
        b"command -v -- %s >/dev/null || { printf '%s' >&2; exit 127; }; %s%s%s"
        % (quoted[0], NO_PROGRAM.replace(b"\n", rb"\n"), before, b" ".join(quoted), after)
    )
    spelt = b"".join(b"%c" % byte if byte in _PLAIN else rb"\0%03o" % byte for byte in script)
    return b"""exec /bin/sh -c 'eval "$(printf %%b "%s")"'""" % spelt


def check_length(command: Command, line: bytes) -> None:
    """Raise `NotConnected` if the line is too long for the remote login shell."""
    if len(line) > _LONGEST_LINE:
        raise NotConnected(
            f"cannot start {command}: its command line has {len(line)} bytes for the remote shell, and at most "
            f"{_LONGEST_LINE} are possible"
        )
