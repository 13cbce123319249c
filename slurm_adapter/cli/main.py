"""The command line: global options, the list of commands, and errors as messages and exit codes.

Data goes to stdout, messages go to stderr. Only this part knows exit codes (sysexits.h).
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurm_adapter import __version__
from slurm_adapter.cli.commands import applications, jobs, manual, operation, sandbox, tokens
from slurm_adapter.cli.context import BAD_CONFIG, BAD_INPUT, FAILED, OK, TRY_AGAIN, talk
from slurm_adapter.cli.inherited import reset_signals
from slurm_adapter.core.errors import AdapterError, InvalidConfig, InvalidInput, TryAgain

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODES: tuple[tuple[type[AdapterError], int], ...] = (
    (InvalidInput, BAD_INPUT),
    (InvalidConfig, BAD_CONFIG),
    (TryAgain, TRY_AGAIN),
    (AdapterError, FAILED),
)

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Jobs": (
        jobs.submit,
        jobs.list_jobs,
        jobs.show,
        jobs.logs,
        jobs.cancel,
        jobs.extend,
        jobs.suspend,
        jobs.resume,
        jobs.hosts,
        jobs.render,
    ),
    "Operation": (
        operation.check,
        operation.sync,
        operation.serve,
        applications.applications,
        tokens.token,
        operation.backup,
        operation.restore,
        operation.print_sudo_helper,
    ),
    "Try it out": (sandbox.demo, sandbox.sandbox),
    "Documentation": (manual.docs, manual.config, manual.completion),
}
"""All commands, in the order of `slurm-adapter --help`."""


class _Group(click.Group):
    """The top-level command. Lists commands in sections, and reports errors of all of them."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _errors_as_messages():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _errors_as_messages():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                rows = [(each.name or "", each.get_short_help_str(formatter.width)) for each in commands]
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    """Print an error as a message, and exit with its code."""
    try:
        yield
    except AdapterError as error:
        from slurm_adapter.cli.formatting import safe

        for line in str(error).splitlines() or [type(error).__name__]:
            talk(f"{click.style('error:', fg='red')} {safe(line)}")
        sys.exit(next(code for kind, code in _CODES if isinstance(error, kind)))
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). This is not an error.
        _drop_output()
        sys.exit(OK)
    except Exception as error:
        if isinstance(error, OSError) and (error.errno == errno.ENOSPC or _output_is_lost()):
            _drop_output()
            talk(f"{click.style('error:', fg='red')} standard output: {error.strerror}: the output is incomplete")
            sys.exit(FAILED)
        if os.environ.get("SLURM_ADAPTER_TRACEBACK"):
            raise
        talk(
            f"{click.style('error:', fg='red')} a mistake in slurm-adapter: {type(error).__name__}: {error}; "
            "please report it, with the output of the same command with SLURM_ADAPTER_TRACEBACK=1"
        )
        sys.exit(FAILED)


def _output_is_lost() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Discard unwritten output. Otherwise Python would try to write it again at exit, and exit with 120."""
    sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115  # until the process ends


def _open_closed_streams() -> None:
    """Open the standard streams that the caller has closed (`>&-`), so that no other file gets their descriptors.

    Output to such a stdout is lost, and is reported like other output that cannot be written.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR if name == "stderr" else os.O_RDONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_path", type=click.Path(path_type=Path), metavar="FILE", help="Configuration file.")
@click.version_option(__version__, prog_name="slurm-adapter")
@click.pass_context
def cli(ctx: click.Context, config_path: Path | None) -> None:
    """Run UCloud jobs on a Slurm cluster.

    \b
    The configuration is the first of these files that exists:
      FILE of --config, or $SLURM_ADAPTER_CONFIG; it must exist
      ./config.toml
      ~/.config/slurm-adapter/config.toml
      /etc/slurm-adapter/config.toml
    """  # noqa: D301  # click wants the character \b before lines that it must not wrap
    ctx.obj = config_path
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":  # https://no-color.org
        ctx.color = False


for _commands in SECTIONS.values():
    for _command in _commands:
        cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    reset_signals()
    _open_closed_streams()
    cli(prog_name="slurm-adapter")
