"""Frames a command's answer, so that other text around it is dropped.

Start-up files of an account, a forced command, the entry program of a container, and PAM modules of sudo write to the
command's own stdout and stderr, before or after it. So a shell, started as the command's account, runs the command. It
writes a mark to both outputs before the command, and another one with the exit code after it. Only these marks prove
that a command was started, and that its answer is complete.

The marks are drawn for each command. The shell reads them from standard input, because every user of the cluster can
read a process's arguments. If a start-up file has read part of standard input, the command is not started, because its
own input may be incomplete.
"""

from __future__ import annotations

import re
import secrets

from slurm_adapter.cluster.transports.interface import Command, ConnectionLost, NotConnected, Result, TooMuchOutput
from slurm_adapter.cluster.transports.sudo import check_sudo_started

ROOM = 1024 * 1024
"""Maximum number of bytes of the frame and the text outside it, in addition to the command's own limit."""

# $1 is the name of the account, or empty for the adapter's own; $2 is `clean` for a command with its own environment.
# `read` reads its own line and no byte after it (POSIX, read, STDIN).
_SCRIPT = """\
IFS= read -r _frame
case $_frame in frame-????????????????) ;; *) echo "a start-up file reads standard input" >&2; exit 125 ;; esac
_own=$(getent passwd "${1:-$(id -u)}" 2>/dev/null)
_name=${_own%%:*} _shell=${_own##*:} _own=${_own%:*}
_home=${_own##*:}
export USER="${_name:-${1:-$(id -un)}}" HOME="${_home:-${HOME:-/}}" SHELL="${_shell:-/bin/sh}"
export LOGNAME="$USER"
[ -z "$2" ] || {
    shift 2
    set -- '' '' env -i "HOME=$HOME" "USER=$USER" "LOGNAME=$LOGNAME" "SHELL=$SHELL" "$@"
}
shift 2
command -v -- "$1" >/dev/null || { printf '%s>?.' "$_frame" >&2; printf '%s>?.' "$_frame"; exit 127; }
printf '%s<' "$_frame" >&2
printf '%s<' "$_frame"
"$@"
set -- "$?"
printf '%s>%s.' "$_frame" "$1" >&2
printf '%s>%s.' "$_frame" "$1"
exit "$1"
"""

USER_SCRIPTS = {"frame": _SCRIPT}
"""The script that runs as the account of a user, by the name of `slurm_adapter.cli.sudo_helper`."""

_STATUS = re.compile(rb"(\d+|\?)\.")
"""The exit code, or `?` if there is no such program."""

_LONGEST_END = 64
"""Longer than any end mark."""


class Frame:
    """The frame of one command."""

    def __init__(self, command: Command) -> None:
        """Draw a mark."""
        self._command = command
        self._mark = b"frame-%b" % secrets.token_hex(8).encode()

    @property
    def words(self) -> tuple[str, ...]:
        """Return the command line with the change of account and the frame."""
        command = self._command
        clean = "" if command.environment is None else "clean"
        words = (*(command.environment or ()), *command.argv)
        framed = ("/bin/sh", "-c", _SCRIPT, "sh", command.user or "", clean, *words)
        return Command(framed, user=command.user, helper=command.helper).words

    @property
    def stdin(self) -> bytes:
        """Return the standard input of that command line."""
        return b"%b\n%b" % (self._mark, self._command.stdin)

    def ended(self, output: bytearray, added: int) -> bool:
        """Return whether an output is complete, given that its last `added` bytes are new."""
        return self._find_end(output, max(0, len(output) - added - _LONGEST_END))[1] is not None

    def read(self, status: int | None, stdout: bytes, stderr: bytes, place: str) -> Result:
        """Return the command's own answer.

        `status` is the exit code of the whole command line, if there is one. `place` is the advice for a missing
        program. Raises `NotConnected` if the command was not started, and `ConnectionLost` if that is unknown or its
        answer is incomplete.
        """
        before, begun, own = stdout.partition(self._mark + b"<")
        said = b"\n".join(text.strip() for text in (stderr, before) if text.strip()).decode(errors="replace")
        if not begun:
            if self._find_end(stdout)[1] is not None:
                if self._command.user is not None:
                    place = "It must be installed there, in a directory of sudo's secure_path"
                raise NotConnected(f"cannot start {self._command.argv[0]}: no such program\n{place}")
            check_sudo_started(self._command, Result(status or 0, b"", stderr))
            kind = NotConnected if status in {125, 126, 127} else ConnectionLost
            raise kind(
                f"cannot start {self._command}: its shell ended with exit code {status}: {said or 'no message'}\n"
                "The login shell, and a forced command or prefix, must run the given command and keep its output"
            )
        length, own_status = self._find_end(own)
        _, _, errors = stderr.partition(self._mark + b"<")
        if own_status is None:
            said = errors.decode(errors="replace").strip()
            raise ConnectionLost(f"the answer of {self._command} broke off: exit code {status}: {said or 'no message'}")
        if self._mark in own[:length]:
            raise ConnectionLost(
                f"the answer of {self._command} cannot be read: stdout and stderr are mixed, as by `2>&1` or a "
                "terminal\nThe start-up files, and a forced command or prefix, must keep them apart"
            )
        result = Result(int(own_status), own[:length], errors[: self._find_end(errors)[0]])
        if len(result.stdout) + len(result.stderr) > self._command.output_limit:
            raise TooMuchOutput(f"{self._command} wrote more than {self._command.output_limit} bytes")
        return result

    def _find_end(self, output: bytes | bytearray, start: int = 0) -> tuple[int, bytes | None]:
        """Return the length of the output, and the exit code if the mark at its end is there."""
        # Without a regular expression of the mark, which would drop others from the cache of `re`.
        at = output.find(self._mark + b">", start)
        match = _STATUS.match(output, at + len(self._mark) + 1) if at >= 0 else None
        return (at, match[1]) if match else (len(output), None)
