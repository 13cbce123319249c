"""The contract of all transports, with real processes on this machine and through a real sshd."""

from __future__ import annotations

import concurrent.futures
import getpass
import os
import pwd
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.transports.interface import Command, CommandTimeout, NotConnected, Result, TooMuchOutput
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.errors import TryAgain, Unknown

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.cluster.transports.interface import Transport

EVERY_BYTE = bytes(range(256))
WEIRD = [
    "",
    "-n",
    "--",
    "two words",
    " edges ",
    "it's",
    '"double"',
    "$HOME ${x} $(id)",
    "`id`",
    "back\\slash \\n \\0101 \\",
    "!! !x",
    "a;b & c | d > e < f",
    "#",
    "~ * ? [a] {a,b}",
    "%s %j %1",
    "=ls",
    "a\nb\n",
    "\n",
    "\t\r",
    "æøå 漢字 🦆",
    os.fsdecode(bytes(range(1, 256))),
]


def test_bytes_pass_unchanged(transport: Transport) -> None:
    assert transport.run(Command(("cat",), stdin=EVERY_BYTE)) == Result(0, EVERY_BYTE, b"")


def test_no_input_is_an_empty_file(transport: Transport) -> None:
    assert transport.run(Command(("wc", "-c"))).stdout.strip() == b"0"


@pytest.mark.edge_case(21)
def test_twenty_megabytes_in_and_out_at_once(transport: Transport) -> None:
    data = EVERY_BYTE * 81_920
    assert transport.run(Command(("cat",), stdin=data)).stdout == data


def test_twenty_megabytes_on_stderr_before_stdin_is_read(transport: Transport) -> None:
    data = EVERY_BYTE * 81_920
    script = "head -c 20971520 /dev/zero >&2; cat"
    result = transport.run(Command(("sh", "-c", script), stdin=data))
    assert result.stdout == data
    assert result.stderr == bytes(20_971_520)


def test_unread_input_is_not_an_error(transport: Transport) -> None:
    assert transport.run(Command(("true",), stdin=bytes(10_000_000))) == Result(0, b"", b"")


def test_outputs_are_separate_and_the_exit_code_is_returned(transport: Transport) -> None:
    result = transport.run(Command(("sh", "-c", "echo out; echo error >&2; exit 7")))
    assert result == Result(7, b"out\n", b"error\n")


@pytest.mark.parametrize("number", [9, 15])
def test_death_by_a_signal_is_128_and_its_number(transport: Transport, number: int) -> None:
    assert transport.run(Command(("sh", "-c", f"kill -{number} $$"))).status == 128 + number


@pytest.mark.scenario(86)
def test_arguments_arrive_byte_for_byte(transport: Transport) -> None:
    result = transport.run(Command(("printf", "%s\\0", *WEIRD)))
    assert result.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in WEIRD]


def test_a_program_may_be_called_anything(transport: Transport, bin_folder: Path) -> None:
    for name in ("if", "a=b", "it's", "-x"):
        shutil.copy("/bin/echo", bin_folder / name)
        assert transport.run(Command((name, "ran"))) == Result(0, b"ran\n", b"")


def test_a_missing_program_is_named_and_was_not_started(transport: Transport) -> None:
    with pytest.raises(NotConnected, match="no-such-program") as caught:
        transport.run(Command(("no-such-program", "x")))
    assert isinstance(caught.value, TryAgain)


def test_a_command_line_that_is_too_long_was_not_started(transport: Transport) -> None:
    with pytest.raises(NotConnected, match="cannot start true"):
        transport.run(Command(("true", "x" * 1_000_000)))
    assert transport.run(Command(("true", "x" * 100_000))).status == 0


def test_a_status_of_127_alone_is_an_answer(transport: Transport) -> None:
    assert transport.run(Command(("sh", "-c", "exit 127"))).status == 127


def test_commands_run_in_the_root_folder_in_one_locale(transport: Transport) -> None:
    assert transport.run(Command(("pwd",))).text == "/\n"
    assert transport.run(Command(("sh", "-c", "echo $LC_ALL"))).text == "C.UTF-8\n"


def test_nothing_of_our_environment_reaches_a_command(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTER_SECRET", "hush")
    assert b"hush" not in transport.run(Command(("env",))).stdout


OWN = 'printf "%s\\n" "$HOME" "$USER" "$LOGNAME" "$SHELL"'


@pytest.mark.parametrize("user", [None, "daemon"])
def test_a_command_has_the_home_and_names_of_its_account(
    transport: Transport, bin_folder: Path, user: str | None
) -> None:
    """A bash wrapper for sbatch with `set -u` that uses $HOME, $USER, $LOGNAME."""
    write_sudo(bin_folder, 'shift 4; HOME=/elsewhere USER=x; unset LOGNAME SHELL; export HOME USER; exec "$@"')
    own = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    expected = [own.pw_dir, own.pw_name, own.pw_name, own.pw_shell]
    for environment in (None, ("A=b c",)):
        command = Command(("bash", "-uc", OWN), user=user, environment=environment)
        assert transport.run(command).text.splitlines() == expected


def test_an_unknown_account_has_all_variables(transport: Transport, bin_folder: Path) -> None:
    write_sudo(bin_folder, 'shift 4; unset HOME USER LOGNAME SHELL; exec "$@"')
    command = Command(("bash", "-uc", OWN), user="no-such", environment=())
    assert transport.run(command).text.splitlines() == ["/", "no-such", "no-such", "/bin/sh"]


def test_a_command_with_an_environment_has_nothing_else(transport: Transport, bin_folder: Path) -> None:
    write_sudo(bin_folder, 'shift 4; export SUDO_USER=x SBATCH_PARTITION=y; exec "$@"')
    for user in (None, "daemon"):
        result = transport.run(Command(("env",), user=user, environment=("A=b c", "PATH=/usr/bin")))
        names = sorted(line.partition("=")[0] for line in result.text.splitlines())
        assert names == ["A", "HOME", "LOGNAME", "PATH", "SHELL", "USER"]
        assert "A=b c" in result.text.splitlines()


@pytest.mark.edge_case(21)
def test_a_command_that_hangs_is_given_up_and_the_next_one_runs(transport: Transport) -> None:
    transport.run(Command(("true",)))  # the limit is for connecting, too
    with pytest.raises(CommandTimeout, match=r"sleep did not end within 0\.5 s") as caught:
        transport.run(Command(("sleep", "60"), timeout=0.5))
    assert isinstance(caught.value, Unknown)
    assert transport.run(Command(("echo", "next"))).text == "next\n"


def test_a_command_that_closed_its_outputs_is_given_up_too(transport: Transport) -> None:
    transport.run(Command(("true",)))  # the limit is for connecting, too
    with pytest.raises(CommandTimeout):
        transport.run(Command(("sh", "-c", "exec >&- 2>&-; sleep 60"), timeout=0.5))


def test_a_command_that_never_reads_a_big_input_is_given_up(transport: Transport) -> None:
    transport.run(Command(("true",)))  # the limit is for connecting, too
    with pytest.raises(CommandTimeout):
        transport.run(Command(("sleep", "60"), stdin=bytes(20_000_000), timeout=0.5))


@pytest.mark.parametrize("target", ["", ">&2"])
def test_output_without_end_is_given_up(transport: Transport, target: str) -> None:
    with pytest.raises(TooMuchOutput, match="100000 bytes"):
        transport.run(Command(("sh", "-c", f"exec yes {target}"), output_limit=100_000))
    assert transport.run(Command(("echo", "next"))).text == "next\n"


def test_output_up_to_the_limit_is_taken(transport: Transport) -> None:
    assert len(transport.run(Command(("head", "-c", "1000", "/dev/zero"), output_limit=1000)).stdout) == 1000


def test_many_threads_at_once(transport: Transport) -> None:
    def echo(number: int) -> bytes:
        return transport.run(Command(("cat",), stdin=b"%d" % number)).stdout

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(echo, range(100))) == [b"%d" % number for number in range(100)]


def test_a_closed_transport_opens_again(transport: Transport) -> None:
    for _ in range(2):
        assert transport.run(Command(("true",))).status == 0
        transport.close()
        transport.close()


def test_another_account_is_asked_of_sudo(transport: Transport, bin_folder: Path) -> None:
    write_sudo(bin_folder, 'export SUDO="$*"; shift 4; exec "$@"')
    result = transport.run(Command(("sh", "-c", 'printf "%s|" "$SUDO" "$@"', "sh", "it's", ""), user="alice"))
    assert result.text.startswith("-n -u alice -- ")
    assert result.text.endswith("|it's||")


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ("sudo: a password is required", "ALL=\\(alice\\) NOPASSWD"),
        ("sudo: unable to resolve host x: Name or service not known\nsudo: a password is required", "NOPASSWD"),
        ("sudo: sorry, you must have a tty to run sudo", "requiretty"),
        ("Sorry, user adapter is not allowed to execute '/bin/sh' as alice on login.", "NOPASSWD"),
        ("sudo: unknown user alice\nsudo: error initializing audit plugin sudoers_audit", "no account alice"),
        ("sudo: sbatch: command not found", "must be installed"),
    ],
)
def test_a_refusal_of_sudo_means_that_nothing_ran(
    transport: Transport, bin_folder: Path, words: str, mend: str
) -> None:
    write_sudo(bin_folder, f'printf "%s\\n" "{words}" >&2; exit 1')
    with pytest.raises(NotConnected, match=mend) as caught:
        transport.run(Command(("sbatch",), user="alice"))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("account", "shown"),
    [("DOM\\user", "ALL=(DOM\\\\user) "), ("john doe", "ALL=(john\\ doe) "), ("Host.1$", "ALL=(Host.1$) ")],
)
def test_the_rule_for_an_account_is_written_as_sudoers_wants_it(
    transport: Transport, bin_folder: Path, account: str, shown: str
) -> None:
    write_sudo(bin_folder, 'printf "%s\\n" "sudo: a password is required" >&2; exit 1')
    with pytest.raises(NotConnected) as caught:
        transport.run(Command(("sbatch",), user=account))
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    "script",
    [
        "echo 'sudo: unable to resolve host login' >&2; exit 1",
        "echo 'sudo: a password is required' >&2; exit 1",
        "echo 'sudo: a password is required' >&2; exit 2",
        "echo 'sbatch: error: invalid partition' >&2; exit 1",
    ],
)
def test_the_failure_of_a_command_is_not_taken_for_a_refusal(
    transport: Transport, bin_folder: Path, script: str
) -> None:
    write_sudo(bin_folder, 'shift 4; exec "$@"')
    assert transport.run(Command(("sh", "-c", script), user="alice")).status in {1, 2}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("sudo"), reason="needs root and sudo")
def test_the_real_sudo_changes_the_account_and_is_recognised(transport: Transport) -> None:
    assert transport.run(Command(("id", "-un"), user="nobody")).text == "nobody\n"
    with pytest.raises(NotConnected, match="no-such-program"):
        transport.run(Command(("no-such-program",), user="nobody"))
    with pytest.raises(NotConnected, match="no account nosuchuser"):
        transport.run(Command(("true",), user="nosuchuser"))


def write_sudo(folder: Path, script: str) -> None:
    """Put a program named sudo on PATH."""
    (folder / "sudo").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "sudo").chmod(0o755)


def test_the_account_of_a_session_is_the_configured_one(transport: Transport) -> None:
    assert transport.run(Command(("id", "-un"))).text.strip() == getpass.getuser()


def test_a_killed_command_takes_its_children_with_it_here(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(CommandTimeout):
        LocalTransport().run(Command(("sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"), timeout=2))
    pid = pid_file.read_text(encoding="ascii").strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False, timeout=10)
    assert state.stdout.strip()[:1] in {"", "Z"}
