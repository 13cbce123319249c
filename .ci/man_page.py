#!/usr/bin/env python3
"""Write the man page from the definitions of the commands: `.ci/man_page.py >.packaging/slurm-adapter.1`."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import TYPE_CHECKING

import click

from slurm_adapter import __version__
from slurm_adapter.cli.main import SECTIONS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

_END = """\
.SH EXIT STATUS
.TP
.B 0
Success.
.TP
.B 1
The command failed, or `check` found a problem, or `sync` was incomplete.
.TP
.B 2
The command line is wrong.
.TP
.B 65
The input is wrong, for example a job specification.
.TP
.B 75
Temporary failure: try again later. `sync` exits with it if another sync is running.
.TP
.B 78
The configuration is wrong or missing.
.SH ENVIRONMENT
.TP
.B SLURM_ADAPTER_CONFIG
The configuration file, if \\-\\-config is not given.
.TP
.B NO_COLOR
If it is not empty, the output has no colours.
.TP
.B PAGER
The program by which `docs` shows a page on a terminal.
.TP
.B SLURM_ADAPTER_TRACEBACK
If it is not empty, an internal error is shown with a Python traceback.
.SH SEE ALSO
.BR sbatch (1),
.BR scontrol (1).
The documentation is shown by
.BR "slurm\\-adapter docs" .
"""


def escape(text: str) -> str:
    """Return text as roff shows it unchanged."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a help text."""
    for number, paragraph in enumerate(cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", escape(paragraph.removeprefix("\b\n")), ".fi")
        else:
            yield escape(paragraph)


def command(name: str, each: click.Command) -> Iterator[str]:
    """Yield the part of the page about a command, and about those below it."""
    context = click.Context(each, info_name=name)
    if not isinstance(each, click.Group) or each.invoke_without_command:
        usage = ["[OPTIONS]"] if isinstance(each, click.Group) else each.collect_usage_pieces(context)
        yield f'.SS "slurm\\-adapter {escape(" ".join([name, *usage]))}"'
        yield from paragraphs(each.help or "")
        yield from options(each, context)
    if isinstance(each, click.Group):
        for below in each.commands.values():
            yield from command(f"{name} {below.name}", below)


def options(each: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options of a command, without --help."""
    for parameter in each.params:
        if isinstance(parameter, click.Option) and (shown := parameter.get_help_record(context)) is not None:
            yield from (".TP", f".B {escape(shown[0])}", escape(shown[1]))


def man_page() -> str:
    """Return the whole page, in the language of man(7)."""
    title, _, description = cleandoc(cli.help or "").partition("\n\n")
    context = click.Context(cli, info_name="slurm-adapter")
    lines = [
        f'.TH SLURM\\-ADAPTER 1 "" "slurm\\-adapter {__version__}" "User Commands"',
        ".SH NAME",
        f"slurm\\-adapter \\- {escape(title[0].lower() + title[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B slurm\\-adapter",
        escape("[--config FILE] COMMAND [ARGUMENT]..."),
        ".SH DESCRIPTION",
        *paragraphs(description),
        ".SH OPTIONS",
        *options(cli, context),
    ]
    for section, commands in SECTIONS.items():
        lines.append(f".SH {section.upper()}")
        for each in commands:
            lines += command(each.name or "", each)
    return "\n".join(lines) + "\n" + _END


if __name__ == "__main__":
    print(man_page(), end="")
