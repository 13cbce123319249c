"""Faults at the edge of a site on the sandbox: stand-ins for Slurm's commands, a clock, and counting what started.

A stand-in is a shell script that comes before the real program on the cluster's PATH.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.adapter import Adapter
from slurm_adapter.core.observation import DISPATCH_SECONDS
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.jobs import item, submit
from slurm_adapter.jobs.sync import sync
from slurm_adapter.local.configuration_file import load_config
from tests.adapter import LiveSite
from tests.offline import Tripping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.cluster.transports.interface import Command, Result, Stream, Terminal, Transport
    from slurm_adapter.core.records import Record
    from slurm_adapter.jobs.report import Report
    from tests.adapter import LiveSiteMaker

COUNT = 'echo started >>"${UCLOUD_DIR%/ucloud/*}.starts"'
"""Shell text of an application: it counts its starts, in a file that outlives the job's folder."""

SHORT_TIMEOUT = 'shift 3; exec /usr/bin/timeout -k 1 2 "$@"'
"""A stand-in for `timeout -s KILL 200 xargs`: an sbatch that hangs is dead after two seconds."""


@dataclass
class Hurried:
    """A transport that waits for no command longer than some seconds."""

    inner: Transport
    seconds: float = 600

    def run(self, command: Command) -> Result:
        """Run it, with less patience."""
        return self.inner.run(replace(command, timeout=min(command.timeout, self.seconds)))

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """Start it."""
        return self.inner.open(command, terminal)

    def close(self) -> None:
        """Give back what is held."""
        self.inner.close()


@dataclass
class Clock:
    """The time, moved on by a test that does not want to wait."""

    ahead: float = 0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.ahead


@dataclass
class Faulty(LiveSite):
    """A site whose commands, clock and connection can be made to misbehave."""

    clock: Clock = field(default_factory=Clock)
    hurried: Hurried = field(init=False)
    tripping: Tripping = field(init=False)

    def __post_init__(self) -> None:
        """Put the stand-ins' folder before the PATH, and the wires into the transport."""
        content = self.config_file.read_text()
        path = f'path = "{self.stand_ins}:/usr/local/bin:/usr/bin:/bin"'
        self.config_file.write_text(content.replace("[clusters.main]\n", f"[clusters.main]\n{path}\n"))
        self.cluster.ask("mkdir", "-m", "755", self.stand_ins, user="ucloud")
        self.open()

    @property
    def stand_ins(self) -> str:
        """The folder of the stand-ins, as the cluster sees it."""
        return f"{self.site.config.shared_dir}/bin"

    def open(self) -> None:
        """Open the site anew, as another process would, from its configuration file."""
        self.site.close()
        self.site = Adapter(load_config(self.config_file), self.clock)
        self.hurried = Hurried(self.site.transport)
        self.tripping = Tripping(self.hurried)
        vars(self.site)["transport"] = self.tripping

    def put(self, **scripts: str) -> None:
        """Let these programs be these shell scripts."""
        for name, script in scripts.items():
            write = 'cat >"$1.new" && chmod 755 "$1.new" && mv "$1.new" "$1"'
            stdin = f"#!/bin/sh\n{script}\n".encode()
            self.cluster.ask("sh", "-c", write, "sh", f"{self.stand_ins}/{name}", user="ucloud", stdin=stdin)

    def heal(self) -> None:
        """Take the stand-ins away."""
        self.cluster.ask("sh", "-c", 'rm -f -- "$1"/*', "sh", self.stand_ins, user="ucloud")

    def hand_in(self, specification: dict[str, Any], key: str | None = None, user: str = "alice") -> Record:
        """Hand in a job with a key."""
        [each] = parse_specifications(json.dumps(specification).encode())
        return submit.submit(self.site, Owner(created_by=user), [item.Item(each, key)])[0]

    def pass_after(self, seconds: float = 0) -> Report:
        """One pass, so many seconds later than the last."""
        self.clock.ahead += seconds
        return sync(self.site)

    def pass_until_handed_in_again(self) -> None:
        """The passes after which a submission that was lost is made again: sbatch is dead, and silence has lasted."""
        self.pass_after(DISPATCH_SECONDS + 1)
        self.pass_after(2 * self.site.config.cluster.message_timeout + 121)

    def starts(self, record: Record) -> int:
        """How often the application of a job started."""
        path = self.file(record, "").with_suffix(".starts")
        return len(path.read_text().splitlines()) if path.exists() else 0

    def slurm_jobs(self, record: Record) -> dict[int, str]:
        """Slurm's jobs for a job, and their states; those of an array under its id."""
        form = ("-h", "-a", "-t", "all", "-o", "%F %T", "-n", record.slurm_name)
        lines = self.cluster.ask("squeue", *form, user="ucloud").splitlines()
        return {int(line.split()[0]): line.split()[1] for line in lines}

    def until_slurm_has(self, record: Record, count: int) -> dict[int, str]:
        """Wait until Slurm has so many jobs for a job."""
        return self.cluster.wait_for(lambda: found if len(found := self.slurm_jobs(record)) == count else None)

    def until_slurm_is_done(self, record: Record) -> dict[int, str]:
        """Wait until all of Slurm's jobs for a job have ended."""

        def look() -> dict[int, str] | None:
            found = self.slurm_jobs(record)
            return found if not {"PENDING", "RUNNING", "COMPLETING"}.intersection(found.values()) else None

        return self.cluster.wait_for(look)

    def sbatch_again(self, record: Record, *options: str) -> int:
        """Hand the job's own script to Slurm once more, as a submission whose answer was lost did; its Slurm id."""
        words = ("sbatch", "--parsable", "--export=NONE", "--ignore-pbs", *options, f"{record.folder}/job.sbatch")
        return int(self.cluster.ask(*words, user=record.account))

    def owner(self, record: Record) -> str:
        """What the job's fence names."""
        return str(self.file(record, "owner").readlink())


def is_sbatch(command: Command) -> bool:
    """Whether a command hands jobs in."""
    return any("sbatch --parsable" in word for word in command.argv)


def moved(content: str, **values: str) -> str:
    """A configuration with other values for some of its keys."""
    for name, value in values.items():
        content = re.sub(rf"^{name} = .*$", f"{name} = {value}", content, flags=re.MULTILINE)
    return content


@pytest.fixture
def faulty(make_adapter: LiveSiteMaker) -> Iterator[Faulty]:
    """A site over the local transport whose edge can be made to misbehave."""
    plain = make_adapter()
    made = Faulty(plain.cluster, plain.config_file, plain.site)
    yield made
    made.site.close()
