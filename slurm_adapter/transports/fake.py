"""A transport that runs nothing: a function answers instead of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.transports.interface import TooMuchOutput
from slurm_adapter.transports.sudo import check_sudo_started

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.transports.interface import Command, Result


class FakeTransport:
    """Hands every command to `handler`, which returns a `Result` or raises one of the port's errors.

    `commands` holds what was run, in order.
    """

    def __init__(self, handler: Callable[[Command], Result]) -> None:
        self._handler = handler
        self.commands: list[Command] = []

    def run(self, command: Command) -> Result:
        """The handler's answer, held to the port's promises on output and sudo."""
        self.commands.append(command)
        result = self._handler(command)
        if len(result.stdout) + len(result.stderr) > command.output_limit:
            raise TooMuchOutput(f"{command} wrote more than {command.output_limit} bytes and was given up")
        check_sudo_started(command, result)
        return result

    def close(self) -> None:
        """Nothing is held."""
