"""One journey, to be read first: two jobs, from the bytes of their JSON to their ends.

What is shown here in order stands alone elsewhere: the parts in their own tests, the edges in `test_scenarios.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core import hosts_file
from slurm_adapter.core.records import Stage
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import cancel, item, submit
from slurm_adapter.jobs.report import Report
from slurm_adapter.jobs.sync import sync

if TYPE_CHECKING:
    from slurm_adapter.sandbox.configuration import Identity, Transport
    from tests.adapter import LiveSiteMaker

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("empty_drive")]

# The two calls of UCloud's documentation ("Connecting two Jobs together"), byte for byte. The
# applications come with this program, and their two programs are its demo's.
DATABASE = b"""{
    "items": [
        {
            "application": {
                "name": "acme-database",
                "version": "1.0.0"
            },
            "product": {
                "id": "example-compute",
                "category": "example-compute",
                "provider": "example"
            },
            "name": "my-database",
            "replicas": 1,
            "allowDuplicateJob": false,
            "parameters": {
                "dataStore": {
                    "type": "file",
                    "path": "/123/acme-database",
                    "readOnly": false
                }
            },
            "resources": null,
            "timeAllocation": null,
            "openedFile": null,
            "restartOnExit": null,
            "sshEnabled": null
        }
    ]
}"""
WEB_APP = b"""{
    "items": [
        {
            "application": {
                "name": "acme-web-app",
                "version": "1.0.0"
            },
            "product": {
                "id": "example-compute",
                "category": "example-compute",
                "provider": "example"
            },
            "name": "my-web-app",
            "replicas": 1,
            "allowDuplicateJob": false,
            "parameters": null,
            "resources": [
                {
                    "type": "peer",
                    "hostname": "database",
                    "jobId": "4101"
                }
            ],
            "timeAllocation": null,
            "openedFile": null,
            "restartOnExit": null,
            "sshEnabled": null
        }
    ]
}"""


@pytest.mark.parametrize("identity", ["sudo", "service"])
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_two_jobs_find_each_other(make_adapter: LiveSiteMaker, transport: Transport, identity: Identity) -> None:
    # A site: a configuration, and nothing that runs. Its first id is the one that the documentation has.
    adapter = make_adapter(transport, identity, first_id=4101)
    site = adapter.site
    user = Owner(created_by="alice")

    # Handed in: read strictly, translated, claimed in the database, its folder made, and given to sbatch.
    specifications = parse_specifications(DATABASE)
    [database] = submit.submit(site, user, [item.Item(each) for each in specifications])
    assert (database.id, database.stage, database.state) == ("4101", Stage.SUBMITTED, JobState.IN_QUEUE)
    assert database.account == {"sudo": "alice", "service": "jobs"}[identity]
    assert (adapter.file(database, "job.sbatch").stat().st_mode & 0o777) == 0o700

    # Passes: each asks Slurm once for all jobs, decides, and writes down what has changed.
    [database] = adapter.until_running(database)
    [node], [[address, *_]] = database.nodes, database.addresses
    assert hosts_file.find_block((adapter.peers / "hosts").read_bytes()) == (
        f"# job 4101 run {database.slurm_id}.0\n{address} job-4101\n{address} job-4101-0\n"
    )
    adapter.until_said(database, "listening on port 5432")

    # The web application. Its peer's address is known already, so its hosts file is there before it is in the queue.
    site.store.reserve_ids(48, 4101)  # jobs of others, as in the documentation
    [web_app] = submit.submit(site, user, [item.Item(each) for each in parse_specifications(WEB_APP)])
    assert (web_app.id, [(peer.hostname, peer.job_id) for peer in web_app.peers]) == ("4150", [("database", "4101")])
    exit_record = f"{database.folder}/exit.json"
    assert adapter.view(web_app) == (
        f"# consumer 4150 peer 4101 run {database.slurm_id}.0 exit {exit_record}\n"
        f"{address} database\n{address} database-0\n"
    )

    # It runs, asks for `database`, and gets an answer.
    [said] = adapter.until_successful(web_app)
    assert re.fullmatch(rf"acme-web-app on node\d+: database is {address}, and answers: you are visitor 1\n", said)
    assert "asks: COUNT visitors" in adapter.output(database)

    # It has ended, and its names with it; the database runs on.
    web_app = adapter.now(web_app)
    assert (web_app.stage, web_app.exit_code, web_app.status) == (Stage.ENDED, 0, "Your job ended with exit code 0")
    assert adapter.view(web_app) == ""
    assert "4150" not in adapter.shared_block
    assert adapter.now(database).state is JobState.RUNNING

    # The user ends the database: that is no failure.
    cancel.cancel(site, [database.id])
    [database] = adapter.until_ended(database)
    assert (database.state, database.status) == (JobState.SUCCESS, "Your job was cancelled")
    assert adapter.shared_block == ""

    # With nothing left to watch a pass asks nobody anything.
    assert sync(site) == Report()
    assert [(update.state, update.status) for update in site.store.updates("4101") if update.state] == [
        (JobState.RUNNING, "Your job is running"),
        (JobState.SUCCESS, "Your job was cancelled"),
    ]
    assert node in {each.name for each in adapter.cluster.nodes}
