"""The two programs of UCloud's example and their job specifications, to be submitted by hand on a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused
from slurm_adapter.local.template_folder import packaged_templates
from slurm_adapter.sandbox import files
from slurm_adapter.sandbox.layout import SHARED_ON_NODES, Layout
from slurm_adapter.sandbox.processes import run_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAMS = ("acme-database", "acme-web-app")
FOLDER = SHARED_ON_NODES / "bin"
"""Folder of the programs on the nodes. The sandbox's configuration adds it to the PATH of jobs."""

_BUILD = 'cc -static -O1 -w -x c -o "$1.new" - && chmod 755 "$1.new" && mv -f "$1.new" "$1"'


def install(layout: Layout, say: Callable[[str], None]) -> None:
    """Compile the programs on the login node, statically, and write the specifications next to the configuration.

    Raises `Refused` if they cannot be compiled.
    """
    sources = packaged_templates() / "demo"
    here = layout.shared / FOLDER.name
    here.mkdir(exist_ok=True)
    for name in PROGRAMS:
        files.replace(call_of(layout, name), (sources / f"{name}.json").read_text(encoding="utf-8"))
        source = (sources / f"{name}.c").read_bytes()
        if (here / name).exists() and (here / f"{name}.c").exists() and (here / f"{name}.c").read_bytes() == source:
            continue
        say(f"compiling {name}")
        done = run_on(layout.login, ["/bin/sh", "-c", _BUILD, "sh", str(FOLDER / name)], stdin=source, timeout=120)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise Refused(f"{name} could not be compiled on the sandbox's login node: {words}")
        (here / f"{name}.c").write_bytes(source)


def call_of(layout: Layout, name: str) -> Path:
    """Return the file with the job specification of a program."""
    return layout.root / f"{name}.json"


def advice(layout: Layout) -> tuple[str, ...]:
    """Return commands to try next, one per line."""
    return (
        f"export SLURM_ADAPTER_CONFIG={layout.config}",
        *(f"slurm-adapter submit {call_of(layout, name)}" for name in PROGRAMS),
        "slurm-adapter sync; slurm-adapter jobs --all",
    )
