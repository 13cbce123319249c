"""`check --job` without a cluster; `test_check_job.py` has the tests with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli.check import check_jobs, probe
from slurm_adapter.cluster.transports.interface import ConnectionLost
from slurm_adapter.jobs import probes
from tests.offline import Offline

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from slurm_adapter.adapter import Adapter


def test_a_connection_that_breaks_at_the_end_leaves_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = Offline(tmp_path)
    monkeypatch.setattr(probe, "START_SECONDS", 0.0)
    breaks = iter([False, True])
    remove = probes.remove

    def fail_once(site: Adapter) -> list[str]:
        if next(breaks, False):
            raise ConnectionLost("the connection broke")
        return remove(site)

    monkeypatch.setattr(probes, "remove", fail_once)
    findings = [finding.text for finding in check_jobs(offline.site, None)]
    assert any("did not start within" in text for text in findings)
    assert findings[-1] == "the probe jobs were removed, with their folders and records"
    assert offline.site.store.of_application(f"{probes.NAME} {probes.VERSION}") == []
