"""UCloud, a served gateway, and a real cluster: UCloud submits jobs by the provider API and gets their updates."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.config import FIRST_ID_BESIDE_UCLOUD
from slurm_adapter.core.specification import BULK_LIMIT
from tests.adapter import UNTIL_TOLD
from tests.gateway.process import free_port, serving
from tests.ucloud_double import FINAL, Ucloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster
    from tests.ucloud_double import Answer

pytestmark = pytest.mark.sandbox

WIRE = Path(__file__).parent.parent / "translation" / "wire"
DOCUMENTS_JOB = Path(__file__).parent / "api" / "create-54112.json"


@dataclass
class Served:
    """A site whose gateway is a process of its own, and the UCloud beside it."""

    adapter: LiveSite
    ucloud: Ucloud
    port: int

    def job(self, name: str, id_: str, code: str) -> dict[str, Any]:
        """A job as UCloud's own code writes it, which runs a text of shell in an application of the test's site."""
        job: dict[str, Any] = deepcopy(json.loads((WIRE / f"create-{name}.json").read_text())["items"][0])
        value = next(iter(job["specification"]["parameters"].values()))
        job["specification"]["application"] = {"name": "shell", "version": "1"}
        job["specification"]["parameters"] = {"code": {**value, "type": "text", "value": code}}
        job["status"]["resolvedApplication"] = None  # it is looked up at the site
        return {**job, "id": id_, "owner": {"createdBy": "alice", "project": None}}

    def create(self, job: dict[str, Any]) -> Record:
        """UCloud hands it in, and it is in Slurm."""
        answer = self.ucloud.create(job)
        assert answer.status == 200, answer.text
        record = self.adapter.site.store.get(job["id"])
        assert answer.json == {"responses": [{"id": record.slurm_name}]}
        until(lambda: self.adapter.now(record).slurm_id is not None, f"job {record.id} is not in Slurm")
        return self.adapter.now(record)

    def until_state(self, id_: str, state: str) -> None:
        """Wait until UCloud holds it for this."""

        def look() -> bool:
            now = self.ucloud.state(id_)
            assert now == state or now not in FINAL, (now, self.ucloud.updates(id_), self.errors(id_))
            return now == state

        until(look, f"job {id_} is not {state}")

    def errors(self, id_: str) -> str:
        """What the job has complained of."""
        return self.adapter.errors(self.adapter.site.store.get(id_))

    def told(self, id_: str) -> list[tuple[str | None, str]]:
        """The states and texts that UCloud was told of a job, in order."""
        return [(each["state"], each["status"]) for each in self.ucloud.updates(id_)]


def until(look: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Wait until it is so; the gateway makes the passes."""
    limit = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < limit, what
        time.sleep(0.1)


@contextmanager
def prepared(make_adapter: LiveSiteMaker, folder: Path, more: str = "", gateway: str = "") -> Iterator[Served]:
    """A site that can be served, and a UCloud; with more keys of [ucloud] and of [gateway]."""
    port = free_port()
    with Ucloud() as double:
        ucloud = (
            f'[ucloud]\nurl = "{double.url}"\nkey = "{double.write_key(folder / "ucloud.pem")}"\n'
            f'refresh_token = "{double.write_refresh_token(folder / "refresh-token")}"\n{more}'
        )
        own = f"[gateway]\nport = {port}\n{gateway}{ucloud}"
        yield Served(make_adapter(more=own, first_id=FIRST_ID_BESIDE_UCLOUD), double, port)


@contextmanager
def served(make_adapter: LiveSiteMaker, folder: Path, more: str = "", gateway: str = "") -> Iterator[Served]:
    """The same, and it is served."""
    with prepared(make_adapter, folder, more, gateway) as site, serving(site.adapter.config_file, site.port) as url:
        site.ucloud.provider = url
        yield site


@pytest.fixture
def site(make_adapter: LiveSiteMaker, tmp_path: Path) -> Iterator[Served]:
    with served(make_adapter, tmp_path) as site:
        yield site


@pytest.mark.scenario(14, 15, 66)
def test_the_documents_job_is_told_from_its_queue_to_its_end_once(site: Served, cluster: Cluster) -> None:
    """Its machine has four processors and 4 GiB here; what UCloud sells by that name has one and 2 GiB."""
    job: dict[str, Any] = json.loads(DOCUMENTS_JOB.read_bytes())["items"][0]
    job["owner"]["createdBy"] = "alice"
    job["specification"]["product"]["id"] = "example-compute-4"
    invocation = job["status"]["resolvedApplication"]["invocation"]
    invocation["tool"]["tool"]["description"]["backend"] = "NATIVE"
    programs = f"{site.adapter.site.config.shared_dir}/programs"
    invocation["environment"] = {"PATH": {"type": "word", "word": f"{programs}:/usr/bin:/bin"}}
    program = f"#!/bin/sh\nprintf '<%s>\\n' \"$@\"; {UNTIL_TOLD}; echo two\n"
    write = f"mkdir -m 755 {programs}; cat >{programs}/acme-batch; chmod 755 {programs}/acme-batch"
    cluster.ask("sh", "-c", write, user="ucloud", stdin=program.encode())
    record = site.create(job)
    site.until_state("54112", "RUNNING")
    record = site.adapter.now(record)
    shown = cluster.show(str(record.slurm_id))
    assert "54112" in shown["JobName"]
    assert (shown["TimeLimit"], shown["NumNodes"], shown["NumCPUs"]) == ("01:00:00", "1", "1")
    assert shown["MinMemoryNode"] == "2G"
    assert shown["UserId"].startswith("alice(")
    site.adapter.tell(record)
    site.until_state("54112", "SUCCESS")
    assert site.adapter.output(record) == "<--debug>\n<true>\n<Hello, World!>\ntwo\n"
    updates = site.told("54112")
    assert str(record.slurm_id) in updates[0][1]
    assert updates[0][0] is None
    assert [state for state, _ in updates if state] == ["RUNNING", "SUCCESS"]
    assert updates[-1][0] == "SUCCESS"
    # It is final: neither a pass nor its end asked for again tells anything more.
    calls = len(site.ucloud.calls_to("/api/jobs/control/update"))
    assert site.ucloud.terminate("54112", user="alice").json == {"responses": [{}]}
    until(lambda: site.adapter.run("sync").returncode == 0, "a pass beside the gateway's own")
    assert len(site.ucloud.calls_to("/api/jobs/control/update")) == calls
    assert site.told("54112") == updates


@pytest.mark.scenario(15, 37)
def test_a_drive_that_only_ucloud_knows_is_a_folder_of_the_cluster(make_adapter: LiveSiteMaker, tmp_path: Path) -> None:
    with served(make_adapter, tmp_path, "ask_for_drives = true\n") as site:
        home = site.adapter.site.config.jobs.folder.replace("{user}", "alice").removesuffix("/{id}")
        site.adapter.cluster.ask("sh", "-c", 'echo greetings > "$1/letter"', "sh", home, user="alice")
        site.ucloud.have_drive("77", "alice", folder=home)
        checked = site.adapter.run("check").stdout
        assert f"UCloud's drives have folders here (1 of 1): 77 is {home}" in checked
        job = site.job("4101", "54113", f"cat mounts/letter; {UNTIL_TOLD}")
        job["specification"]["resources"] = [{"type": "file", "path": "/77/letter", "readOnly": False}]
        record = site.create(job)
        site.until_state("54113", "RUNNING")
        site.adapter.tell(record)
        site.until_state("54113", "SUCCESS")
        assert site.adapter.output(record) == "greetings\n"
        name = record.folder.rpartition("/")[2]
        assert site.ucloud.job("54113")["output"]["outputFolder"] == f"/77/{name}"
        updates = site.ucloud.updates("54113")
        [at] = [number for number, each in enumerate(updates) if each["outputFolder"]]
        assert (updates[at]["state"], updates[at]["outputFolder"]) == (None, f"/77/{name}")
        assert str(record.slurm_id) in updates[at]["status"]
        assert [each["state"] for each in updates[:at] if each["state"]] == []
        assert [each["state"] for each in updates[at:] if each["state"]] == ["RUNNING", "SUCCESS"]


@pytest.mark.scenario(73, 74, 75)
def test_ucloud_extends_a_job_of_the_size_that_it_sells_and_lets_it_rest(site: Served, cluster: Cluster) -> None:
    job = site.job("4101", "4101", UNTIL_TOLD)
    job["specification"] |= {"replicas": 2, "timeAllocation": {"hours": 5, "minutes": 0, "seconds": 0}}
    job["specification"]["product"]["id"] = "example-gpu"
    job["status"]["resolvedProduct"] |= {"cpu": 1, "memoryInGigs": 3, "gpu": 1}
    number = str(site.create(job).slurm_id)
    site.until_state("4101", "RUNNING")

    def show(*fields: str) -> list[str]:
        shown = cluster.show(number)
        return [shown[field] for field in fields]

    assert show("NumNodes", "NumCPUs", "MinMemoryNode") == ["2", "2", "3G"]
    assert show("TresPerNode") in (["gres:gpu:1"], ["gres/gpu:1"])  # before Slurm 23.11, and from then on

    def extend(hours: int) -> Answer:
        wanted = {"job": site.ucloud.job("4101"), "requestedTime": {"hours": hours, "minutes": 0, "seconds": 0}}
        return site.ucloud.call("/ucloud/example/jobs/extend", {"items": [wanted]}, user="alice")

    with ThreadPoolExecutor(2) as threads:
        assert [each.json for each in threads.map(extend, [1, 1])] == [{"responses": [{}]}] * 2
    assert show("TimeLimit") == ["07:00:00"]
    refused = extend(100)
    assert (refused.status, "2-00:00:00" in refused.json["why"]) == (400, True)
    assert show("TimeLimit") == ["07:00:00"]
    for call, state in (("suspend", "SUSPENDED"), ("unsuspend", "RUNNING")):
        body = {"items": [{"job": site.ucloud.job("4101")}]}
        assert site.ucloud.call(f"/ucloud/example/jobs/{call}", body, user="alice").json == {"responses": [{}]}
        assert show("JobState") == [state]
        site.until_state("4101", state)
    told = [each["newTimeAllocation"] for each in site.ucloud.updates("4101")]
    assert [each for each in told if each is not None] == [21_600_000, 25_200_000]
    assert site.ucloud.terminate("4101", user="alice").json == {"responses": [{}]}
    site.until_state("4101", "SUCCESS")
    assert extend(1).status == 400


@pytest.mark.scenario(11, 39, 70)
def test_a_job_finds_its_peer_by_name_and_is_cancelled_by_ucloud(site: Served) -> None:
    database = site.create(site.job("4101", "4101", f"{UNTIL_TOLD}"))
    site.until_state("4101", "RUNNING")  # before that UCloud refuses a job that names it
    products = site.ucloud.call("/ucloud/example/jobs/retrieveProducts", method="GET").json["responses"]
    told = [
        (native["peers"], native["timeExtension"], native["logs"]) for native in (each["native"] for each in products)
    ]
    assert set(told) == {(True, True, True)}
    machines = site.adapter.site.config.machines
    configured = [(category, id_) for category, products in machines.items() for id_ in products]
    assert [each["product"] for each in products] == [
        {"id": id_, "category": category, "provider": "example"} for category, id_ in configured
    ]
    consumer = site.create(site.job("4150", "4150", "getent hosts database"))
    site.until_state("4150", "SUCCESS")
    address = site.adapter.now(database).addresses[0][0]
    assert site.adapter.output(consumer).split()[:2] == [address, "database"]
    assert site.ucloud.terminate("4101", user="alice").json == {"responses": [{}]}
    site.until_state("4101", "SUCCESS")
    assert [state for state, _ in site.told("4101") if state] == ["RUNNING", "SUCCESS"]
    number = str(site.adapter.now(database).slurm_id)
    site.adapter.cluster.wait_state(number, "CANCELLED")


@pytest.mark.scenario(70)
def test_three_jobs_that_wait_are_cancelled_by_ucloud(site: Served) -> None:
    for id_ in ("1", "2", "3"):
        job = site.job("4101", id_, "true")
        job["specification"]["parameters"]["begin"] = {"type": "text", "value": "now+1hour"}
        site.create(job)
    assert site.ucloud.terminate("1", "2", "3", user="alice").json == {"responses": [{}] * 3}
    for id_ in ("1", "2", "3"):
        site.until_state(id_, "SUCCESS")
        assert [state for state, _ in site.told(id_) if state] == ["SUCCESS"]


@pytest.mark.scenario(69)
def test_a_job_that_nobody_here_knows_is_told_to_be_gone(site: Served) -> None:
    site.create(site.job("4101", "4101", UNTIL_TOLD))
    site.until_state("4101", "RUNNING")
    site.ucloud.know("4102")
    body = {"items": [site.ucloud.job("4101"), site.job("4101", "4102", "true")]}
    answer = site.ucloud.call("/ucloud/example/jobs/verify", body, user="alice")
    assert (answer.status, answer.json) == (200, {})
    assert site.told("4102") == [("FAILURE", "Your job is no longer available")]
    assert site.ucloud.state("4101") == "RUNNING"


@pytest.mark.long
@pytest.mark.scenario(23, 70)
@pytest.mark.parametrize("whose", ["the site's application", "UCloud's application"])
def test_a_thousand_jobs_at_once_are_taken_and_ended_before_ucloud_stops_waiting(site: Served, whose: str) -> None:
    """It waits for five seconds (`tests.ucloud_double.TIMEOUT`). What goes on behind the answer is told, not judged."""
    if whose == "the site's application":
        job = site.job("4101", "0", "true")
        job["specification"]["parameters"]["begin"] = {"type": "text", "value": "now+1hour"}
    else:
        job = json.loads((WIRE / "create-4101.json").read_bytes())["items"][0]
        job["owner"]["createdBy"] = "alice"
        template = "ls {{ dataStore }} && sleep 3600"
        job["status"]["resolvedApplication"]["invocation"]["invocation"] = [{"type": "jinja", "template": template}]
    jobs = [job | {"id": str(number)} for number in range(1, BULK_LIMIT + 1)]
    ids = [job["id"] for job in jobs]
    site.ucloud.know(*ids)
    store = site.adapter.site.store

    def in_slurm() -> int:
        listed = site.adapter.cluster.ask("squeue", "-h", "-a", "-o", "%j", user="ucloud")
        return sum(name.startswith(f"{store.instance}-") for name in listed.splitlines())

    def hand_in() -> None:
        answer = site.ucloud.call("/ucloud/example/jobs", {"items": jobs})
        assert answer.status == 200, answer.text
        tell(f"answered after {answer.seconds:.2f} s")
        given = [each["id"] for each in answer.json["responses"]]
        for job, token in zip(jobs, given, strict=True):
            job["providerGeneratedId"] = token
        # Not by squeue, which with so many jobs takes the time of some sbatch.
        until(lambda: all(job.slurm_id is not None for job in store.active_jobs()), "not all are in Slurm", 300)

    def end() -> None:
        answer = site.ucloud.call("/ucloud/example/jobs/terminate", {"items": jobs}, user="alice")
        assert (answer.status, answer.json) == (200, {"responses": [{}] * BULK_LIMIT}), answer.text
        tell(f"the end answered after {answer.seconds:.2f} s")
        until(lambda: in_slurm() == 0, "not all have left Slurm's queue", 300)

    took = timed(hand_in)
    assert in_slurm() == BULK_LIMIT
    tell(f"in Slurm after {took:.2f} s")
    tell(f"ended in Slurm after {timed(end):.2f} s")
    told = timed(lambda: until(lambda: {site.ucloud.state(id_) for id_ in ids} == {"SUCCESS"}, "not all are told", 300))
    tell(f"told {told:.2f} s later")


def timed(work: Callable[[], object]) -> float:
    """How long it takes, in seconds."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def tell(measured: str) -> None:
    """What was measured, for whoever runs it with `-s`."""
    print(measured)  # noqa: T201
