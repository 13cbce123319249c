"""A transport for tests that runs nothing: a function answers instead of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import NotConnected, TooMuchOutput
from slurm_adapter.cluster.transports.sudo import check_sudo_started

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.cluster.transports.interface import Command, Result, Stream, Terminal


class FakeTransport:
    """Passes every command to `handler`, which returns a `Result` or raises one of the interface's errors.

    `opener` does the same for `open`. `commands` has the commands that were run or opened, in order.
    """

    def __init__(
        self,
        handler: Callable[[Command], Result],
        opener: Callable[[Command, Terminal | None], Stream] | None = None,
    ) -> None:
        self._handler = handler
        self._opener = opener
        self.commands: list[Command] = []

    def run(self, command: Command) -> Result:
        """Return the handler's answer; apply the interface's rules on output and sudo."""
        self.commands.append(command)
        result = self._handler(command)
        if len(result.stdout) + len(result.stderr) > command.output_limit:
            raise TooMuchOutput(f"{command} wrote more than {command.output_limit} bytes")
        check_sudo_started(command, result)
        return result

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """Return the opener's stream. Raises `NotConnected` if there is no opener."""
        self.commands.append(command)
        if self._opener is None:
            raise NotConnected(f"{command} cannot be opened as a stream here")
        return self._opener(command, terminal)

    def close(self) -> None:
        """See `Transport.close`."""
