"""A site under attack: `python -m tests.gateway.hostile_site FOLDER PORT HONEST GOOD BAD`.

`serve` as a site runs it, over a Slurm that is a table in memory. Its users are so many honest ones and three hostile
ones. Each has a running job, whose application listens on the port GOOD or BAD. One line on stdout says who is who.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_adapter.adapter import Adapter
from slurm_adapter.gateway.http.server import serve
from slurm_adapter.jobs import user_tokens
from tests.gateway.api_site import SlowScheduler
from tests.offline import Offline

if TYPE_CHECKING:
    from slurm_adapter.core.records import RecordChange

HOSTILE = 3

MOST_MEMORY = 2**32
"""Of this process, in bytes: an attack that succeeds does not take the whole machine."""

SRUN = """#!/bin/sh
# srun OPTIONS... /bin/sh ...: a step on the only node, which is this machine
while [ "$1" != /bin/sh ]; do shift; done
exec "$@"
"""

WORKFLOW = """
application: v2
name: flow
version: "1"
software: {type: Native, load: []}
parameters: {flow: {type: Workflow}}
"""


def main(folder: Path, port: int, honest: int, good: int, bad: int) -> None:
    """Make the site, say who its users are, and serve."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    kinds = {"honest": honest, "hostile": HOSTILE}
    names = {kind: [f"{kind}-{number}" for number in range(count)] for kind, count in kinds.items()}
    accounts, ports = {"honest": "alice", "hostile": "bob"}, {"honest": good, "hostile": bad}
    settings = {
        "clusters": {"main": {"path": f"{folder}/bin:/usr/bin:/bin"}},
        "identity": {"users": {name: accounts[kind] for kind, some in names.items() for name in some}},
        "gateway": {
            "port": port,
            "url": f"http://gateway.localhost:{port}",
            "web_domain": f"app-{{job}}-{{rank}}.localhost:{port}",
            "reaches_nodes": True,
        },
    }
    offline = Offline(folder, settings)
    (folder / "bin" / "srun").write_text(SRUN, encoding="utf-8")
    (folder / "bin" / "srun").chmod(0o755)
    (folder / "applications" / "flow.yaml").write_text(WORKFLOW, encoding="utf-8")
    slurm = SlowScheduler()
    slurm.now = int(time.time())
    offline.slurm = slurm
    offline.site = offline.open()
    said: dict[str, list[dict[str, str]]] = {}
    for kind, some in names.items():
        said[kind] = []
        for name in some:
            token = user_tokens.create(offline.site, name, name)
            record = offline.run(offline.job(user=name))
            here: RecordChange = {"web_port": ports[kind], "addresses": (("127.0.0.1",),)}
            offline.site.store.change([(record, here)], slurm.now)
            said[kind].append({"user": name, "token": token, "job": record.id})
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    slurm.answering = 0.1  # a controller that is busy
    serve(_in_real_time(offline))


def _in_real_time(offline: Offline) -> Adapter:
    """Return the site by the clock on the wall."""
    site = Adapter(offline.config)
    site.scheduler, site.transport = offline.site.scheduler, offline.site.transport
    offline.site.close()
    return site


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
