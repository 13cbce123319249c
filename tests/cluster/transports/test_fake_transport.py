"""The transport without a cluster keeps the promises that its callers lean on."""

from __future__ import annotations

import pytest

from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import (
    Command,
    ConnectionLost,
    NotConnected,
    Result,
    TooMuchOutput,
    Transport,
)


def test_the_handler_answers_and_the_commands_are_kept() -> None:
    transport = FakeTransport(lambda command: Result(3, command.stdin, b"complaint\n"))
    command = Command(("cat",), stdin=b"data", user="alice")
    assert transport.run(command) == Result(3, b"data", b"complaint\n")
    assert transport.commands == [command]
    assert command.words == ("sudo", "-n", "-u", "alice", "--", "cat")
    transport.close()


def test_it_is_a_transport() -> None:
    transport: Transport = FakeTransport(lambda _: Result(0, b"", b""))
    assert transport.run(Command(("true",))).status == 0


def test_the_handlers_errors_are_raised() -> None:
    def lose(command: Command) -> Result:
        raise ConnectionLost(str(command))

    with pytest.raises(ConnectionLost, match=r"^sbatch as alice$"):
        FakeTransport(lose).run(Command(("sbatch", "secret"), user="alice"))


def test_the_limit_of_output_holds() -> None:
    with pytest.raises(TooMuchOutput):
        FakeTransport(lambda _: Result(0, b"12", b"3")).run(Command(("x",), output_limit=2))


def test_a_refusal_of_sudo_is_recognised() -> None:
    with pytest.raises(NotConnected):
        FakeTransport(lambda _: Result(1, b"", b"sudo: a password is required\n")).run(Command(("x",), user="alice"))


def test_an_argument_with_a_nul_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        Command(("echo", "a\0b"))
