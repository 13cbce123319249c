"""A transport that runs nothing: a function answers instead of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import NotConnected, TooMuchOutput
from slurm_adapter.cluster.transports.sudo import check_sudo_started

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.cluster.transports.interface import Command, Result, Stream, Terminal


class FakeTransport:
    """Hands every command to `handler`, which returns a `Result` or raises one of the port's errors.

    `opener` answers likewise where a command is to be talked to. `commands` holds what was run or opened, in order.
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
        """The handler's answer, held to the port's promises on output and sudo."""
        self.commands.append(command)
        result = self._handler(command)
        if len(result.stdout) + len(result.stderr) > command.output_limit:
            raise TooMuchOutput(f"{command} wrote more than {command.output_limit} bytes and was given up")
        check_sudo_started(command, result)
        return result

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """What the opener gives. Raises `NotConnected` where there is none."""
        self.commands.append(command)
        if self._opener is None:
            raise NotConnected(f"{command} cannot be talked to here")
        return self._opener(command, terminal)

    def close(self) -> None:
        """Nothing is held."""
