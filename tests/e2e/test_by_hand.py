"""UCloud's example by hand on a sandbox, as the manual shows it: on the command line, and by curl through `serve`."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter import sandbox
from slurm_adapter.local.configuration_file import load_config
from tests.gateway.process import free_port, serving

if TYPE_CHECKING:
    from tests.adapter import LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("empty_drive")]

PAGE = (Path(__file__).parents[2] / "slurm_adapter" / "docs" / "sandbox.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """A block of the manual, by the comment before it."""
    found = re.search(rf"^<!-- {name} -->\n```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def bash(text: str) -> str:
    """What commands print, on stdout and stderr; each must succeed."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", text], env={"PATH": path}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def pattern(name: str) -> str:
    """What an output of the manual looks like on any sandbox, with any layout of JSON."""
    text = re.sub(r"\s+", "", block(name))
    text = re.sub(r"node\\?001", r"node\\d+", re.escape(text))
    text = text.replace(r"10\.213\.77\.11", r"[0-9.]+")
    return re.sub(r"(RUNNING|SUCCESS)\d+s\d+alice", r"\1\\w+alice", text)


def test_the_two_calls_by_hand(make_adapter: LiveSiteMaker, cluster: Cluster) -> None:
    """A site of its own, so that the ids are those of a new sandbox; the first calls, whose programs are there."""
    port = free_port()
    adapter = make_adapter(first_id=4101, more=f"[gateway]\nport = {port}\n")
    head = f"cd {cluster.layout.root}\nexport SLURM_ADAPTER_CONFIG={adapter.config_file}\n"
    first, _, rest = block("sandbox commands").partition("\n")
    assert first == "cd /var/lib/slurm-adapter-sandbox && export SLURM_ADAPTER_CONFIG=$PWD/config.toml"
    said = re.sub(r"\s+", "", bash(head + rest))
    assert re.search(pattern("sandbox output").partition("job4101")[0], said), said
    adapter.until_ended(adapter.site.store.get("4101"))
    cluster.ask("sh", "-c", 'rm -rf -- "$1"/*', "sh", f"{cluster.shared}/drives/123/acme-database")
    with serving(adapter.config_file, port):
        said = re.sub(r"\s+", "", bash(head + block("curl commands").replace("8889", str(port))))
    for line in block("curl output").splitlines()[:-1]:
        wanted = (
            re.escape(re.sub(r"\s+", "", line)).replace("node001", r"node\d+").replace(r"10\.213\.77\.11", r"[\d.]+")
        )
        assert re.search(wanted, said), (line, said)


def test_what_to_try_next(cluster: Cluster) -> None:
    """`sandbox up` names the configuration, and two calls that are there."""
    advice = sandbox.advice(cluster.layout.name)
    config = load_config(cluster.layout.config)
    assert advice[0] == f"export SLURM_ADAPTER_CONFIG={cluster.layout.config}"
    assert config.drives[0].id == "123"
    for line in advice[1:3]:
        assert Path(line.removeprefix("slurm-adapter submit ")).is_file()
