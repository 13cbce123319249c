"""The adapter's configuration for the sandbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from slurm_adapter.sandbox.layout import ADAPTER, JOBS, SHARED_ON_NODES, SLURM_ACCOUNT
from slurm_adapter.sandbox.processes import entry
from slurm_adapter.sandbox.programs import FOLDER
from slurm_adapter.sandbox.settings import GPUS

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.sandbox.layout import Layout

Transport = Literal["local", "ssh"]
Identity = Literal["sudo", "service"]


def config_text(layout: Layout, state: Path, nodes: int, *, transport: Transport, identity: Identity) -> str:
    """Return a configuration (TOML) for the sandbox, with `state` as the adapter's state folder.

    `local` enters the login node's namespaces. `ssh` connects to its sshd over the network. Both use the adapter's
    unprivileged account.
    """
    if identity == "sudo":
        who = '[identity]\nmode = "sudo"\nusers = { alice = "alice", bob = "bob" }\n'
    else:
        who = f'[identity]\nmode = "service"\nservice_user = "{JOBS.name}"\n'
    return f"""\
# Written by `slurm-adapter sandbox up`. The next `sandbox up` overwrites it.
provider = "example"
first_id = 4101
state_dir = {json.dumps(str(state))}
shared_dir = "{SHARED_ON_NODES}/ucloud"

{_cluster(layout, transport)}
{who}
[command_line]
user = "alice"

[jobs]
folder = "{SHARED_ON_NODES}/home/{{user}}/ucloud-jobs/{{id}}"
default_time = "00:30:00"
# The folder of the programs of UCloud's example.
system_load = "export PATH={FOLDER}:$PATH"

{_machines(nodes)}
[[drives]]
id = "123"
path = "{SHARED_ON_NODES}/drives/123"
"""


def _cluster(layout: Layout, transport: Transport) -> str:
    operator = f'operator = ["sudo", "-n", "-u", "{SLURM_ACCOUNT.name}"]'
    if transport == "local":
        return f"""\
[clusters.main]
transport = "local"
prefix = {json.dumps(entry(layout.login, ADAPTER.name))}
{operator}
"""
    return f"""\
[clusters.main]
transport = "ssh"
{operator}

[clusters.main.ssh]
host = "{layout.login.address}"
user = "{ADAPTER.name}"
key = {json.dumps(str(layout.keys / "id_ed25519"))}
known_hosts = {json.dumps(str(layout.keys / "known_hosts"))}
"""


def _machines(nodes: int) -> str:
    return f"""\
[machines.example-compute.example-compute]
partition = "main"
cpus = 1
memory = 1
max_nodes = {nodes}
max_time = "2-00:00:00"

[machines.example-compute.example-compute-4]
partition = "main"
cpus = 4
memory = 4
max_nodes = {nodes}
max_time = "2-00:00:00"

[machines.example-compute.example-gpu]
partition = "main"
cpus = 2
memory = 2
gpus = {GPUS}
max_nodes = {nodes}
max_time = "2-00:00:00"

[machines.example-compute.example-fast]
partition = "main"
constraint = "fast"
cpus = 1
memory = 1
max_nodes = 1
max_time = "2-00:00:00"

[machines.example-compute.example-scavenge]
partition = "scavenge"
cpus = 1
memory = 1
max_nodes = {nodes}
max_time = "12:00:00"
"""
