"""The demo: its output, its errors if it cannot work, and that it needs no checkout."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.wheel import install_wheel

if TYPE_CHECKING:
    from slurm_adapter.sandbox.configuration import Identity, Transport
    from tests.adapter import LiveSite, LiveSiteMaker

pytestmark = [pytest.mark.sandbox, pytest.mark.releases]

STORY = (
    r"cluster +compiled acme-database and acme-web-app as (alice|jobs), statically linked",
    r"database +submitted: job \d+, Slurm job \d+",
    r"database +RUNNING on (?P<server>node\d+) \((?P<address>[0-9.]+)\)",
    r"web app +submitted: job \d+, Slurm job \d+",
    r"web app +its specification names job \d+ as its peer database",
    r"web app +RUNNING on (?P<client>node\d+)",
    r"hosts +the cluster's shared hosts file:",
    r"(?P=address) database\.\d+\.peers\n",
    r"web app +SUCCESS  Your job ended with exit code 0",
    r"acme-web-app on (?P=client): database is (?P=address), and answers: you are visitor \d+",
    r"database +SUCCESS  Your job was cancelled",
    r"demo +done: a job on (?P=client) reached a job on (?P=server) by the name database\n$",
)
"""Expected lines, in this order."""


def follow_story(output: str) -> re.Match[str]:
    match = re.search("(?s)" + ".*?".join(STORY), output)
    assert match, output
    return match


@pytest.mark.parametrize("identity", ["sudo", "service"])
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_the_demo(make_adapter: LiveSiteMaker, transport: Transport, identity: Identity) -> None:
    adapter = make_adapter(transport, identity)
    done = adapter.run("demo", timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    story = follow_story(done.stdout)
    assert story["client"] != story["server"]
    assert "\x1b" not in done.stdout  # it is piped: no colours
    assert [record.state.final for record in adapter.site.store.all(10)] == [True, True]
    assert adapter.shared_block == ""


def test_it_fails_if_the_name_does_not_resolve(make_adapter: LiveSiteMaker) -> None:
    """A library that gives names only to dynamically linked programs is not enough: the demo's programs are static."""
    adapter = make_adapter(more='[peers]\nmethods = ["nss_wrapper"]\n')
    done = adapter.run("demo", timeout=120)
    assert done.returncode == 1, done.stdout
    assert "cannot find database" in done.stderr
    assert "Traceback" not in done.stderr
    assert not adapter.site.store.active() or all(record.cancel_sent for record in adapter.site.store.active())


def test_it_says_what_it_needs(adapter: LiveSite, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(adapter.config_file.read_text().replace('user = "alice"', "", 1))
    command = [sys.executable, "-m", "slurm_adapter", "--config", str(path), "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "command_line.user" in done.stderr) == (78, True)


def test_a_wheel_installed_elsewhere_runs_the_demo(adapter: LiveSite, tmp_path: Path) -> None:
    """From `/`, in an environment that has the dependencies and nothing of this checkout."""
    place, root = install_wheel(tmp_path), Path("/")

    def run(*words: str | Path) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False, cwd=root)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    found = run(place / "bin" / "python", "-c", "import slurm_adapter; print(slurm_adapter.__file__)")
    assert Path(found.strip()).is_relative_to(place)
    follow_story(run(place / "bin" / "slurm-adapter", "--config", adapter.config_file, "demo"))
