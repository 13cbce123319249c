"""An upgrade on a real cluster: the program of an earlier commit submits jobs, and this one takes them over."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from tests.adapter import UNTIL_TOLD, peer

if TYPE_CHECKING:
    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSite

pytestmark = pytest.mark.sandbox

OLD = "a106548"
"""The last commit whose jobs have nothing unique in their names."""

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def old_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the older program."""
    folder = tmp_path_factory.mktemp("old")
    packed = subprocess.run(
        ["git", "-C", ROOT, "archive", OLD, "slurm_adapter", "templates"], capture_output=True, timeout=60, check=False
    )
    if packed.returncode != 0:
        pytest.skip(f"this checkout does not have commit {OLD}: {packed.stderr.decode()}")
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, timeout=60, check=True)
    return folder


def older(configuration: str) -> str:
    """Return a configuration with the former names of its keys."""
    for name, former in (("state_dir", "state"), ("shared_dir", "shared")):
        configuration = re.sub(rf"^{name} =", f"{former} =", configuration, flags=re.MULTILINE)
    return re.sub(r"^\[clusters\.\w+", "[cluster", configuration, flags=re.MULTILINE)


def test_jobs_of_the_older_program_run_on(adapter: LiveSite, old_program: Path) -> None:
    """A database, a configuration and job folders, with jobs that ended, run, wait, and have peers."""
    old_config = adapter.config_file.with_name("old.toml")
    old_config.write_text(older(adapter.config_file.read_text()))

    def old(*arguments: str, stdin: Any = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "slurm_adapter", "--config", str(old_config), *arguments],
            input=json.dumps(stdin),
            capture_output=True,
            timeout=120,
            check=False,
            text=True,
            cwd=old_program,
            env={**os.environ, "PYTHONPATH": str(old_program)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(specification: dict[str, Any]) -> str:
        answer = json.loads(old("submit", "--user", "alice", "-", stdin=specification))
        return str(answer["responses"][0]["id"])

    def state(id_: str) -> str:
        old("sync")
        return str(json.loads(old("show", id_, "--json"))["state"])

    ended = submit(adapter.shell("echo ended"))
    database = submit(adapter.shell(f"echo up; {UNTIL_TOLD}"))
    adapter.cluster.wait_for(lambda: state(database) == "RUNNING" and state(ended) == "SUCCESS", timeout=120)
    asks = f"getent hosts db; {UNTIL_TOLD}; until getent hosts db; do sleep 0.5; done"
    consumer = submit(adapter.shell(asks) | {"resources": [peer("db", database)]})
    waits = submit(adapter.shell("echo late", begin="now+1hour"))
    adapter.cluster.wait_for(lambda: state(consumer) == "RUNNING", timeout=120)

    # The new program takes over.
    before: dict[str, Record] = {record.id: record for record in adapter.site.store.all(9)}
    assert {id_: (record.stage, record.peers_file) for id_, record in before.items()} == {
        ended: (Stage.ENDED, ended),
        **{id_: (Stage.SUBMITTED, id_) for id_ in (database, consumer, waits)},
    }
    assert " db\n" in adapter.until_said(before[consumer], "db")
    [late] = adapter.start(adapter.shell(asks, peers={"db": before[database]}))
    assert int(late.id) > max(map(int, before))
    assert {path.name for path in adapter.peers.iterdir()} == {"hosts", consumer, late.peers_file}
    # The peer starts again: its names follow it, in views of both kinds.
    adapter.cluster.ask("scontrol", "requeue", str(before[database].slurm_id), user="slurm")
    adapter.sync_until(lambda: adapter.now(before[database]).restarts == 1)
    [again] = adapter.until_running(adapter.now(before[database]))
    adapter.cancel(before[waits])
    for records in ([before[consumer], late], [again]):
        for record in records:
            adapter.tell(record)
        for output in adapter.until_successful(*map(adapter.now, records)):
            assert output.endswith(" db\n" if again not in records else "up\n")
    assert adapter.until_ended(before[waits])[0].state is JobState.SUCCESS
    assert adapter.output(before[ended]) == "ended\n"
    assert len(adapter.site.store.all(9)) == 5
