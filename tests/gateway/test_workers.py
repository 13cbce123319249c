"""What waits for Slurm keeps nothing else waiting."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from slurm_adapter.gateway import workers
from tests.gateway.doors import opened

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import httpx
    import pytest


def test_submissions_that_are_slow_do_not_keep_others_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "THREADS", 2)
    monkeypatch.setattr(workers, "CHANGING", 2)
    with opened(tmp_path) as doors, ThreadPoolExecutor(4) as threads:
        alice, inner = doors.token(), doors.slurm.nodes
        made = doors.ask("POST", "/api/jobs", {"items": [doors.item()]}, **alice).json()
        begun, go_on = threading.Semaphore(0), threading.Event()

        def slow() -> Mapping[str, str]:
            begun.release()
            assert go_on.wait(60)
            return inner()

        def submit(_: int) -> httpx.Response:
            return doors.ask("POST", "/api/jobs", {"items": [doors.item()]}, **alice)

        monkeypatch.setattr(doors.slurm, "nodes", slow)
        answers = threads.map(submit, range(4))
        try:
            for _ in range(2):
                assert begun.acquire(timeout=60)
            [job] = made["responses"]
            assert doors.ask("GET", f"/api/jobs/retrieve?id={job['id']}", **alice).status_code == 200
            assert doors.ask("GET", "/healthz").status_code == 200
        finally:
            go_on.set()
        assert {answer.status_code for answer in answers} <= {200, 503}
