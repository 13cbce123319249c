"""An offline site behind a served gateway, with a UCloud, and short ways to send requests."""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from slurm_adapter.cluster.schedulers.fake import FakeScheduler
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.jobs import user_tokens
from tests.gateway.serving import served
from tests.gateway.tls import TLS
from tests.offline import Offline
from tests.ucloud_double import Ucloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from slurm_adapter.gateway.gateway import Gateway

WIRE = Path(__file__).parent.parent / "translation" / "wire"


class SlowScheduler(FakeScheduler):
    """A scheduler with a slow slurmctld."""

    answering = 0.0
    """Seconds that a list of nodes takes, which is needed before a job is claimed."""

    def nodes(self) -> Mapping[str, str]:
        """See `Scheduler.nodes`."""
        time.sleep(self.answering)
        return super().nodes()


@dataclass
class ApiSite:
    """A site, its gateway, and short ways to send requests."""

    offline: Offline
    slurm: SlowScheduler
    ucloud: Ucloud
    url: str
    gateway: Gateway

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Ask the gateway; a body that is no bytes is sent as JSON, without a Content-Type."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return httpx.request(method, f"{self.url}{path}", content=content, headers=headers, timeout=30, verify=TLS)

    def token(self, user: str = "alice", *projects: str) -> dict[str, str]:
        """Return the header of a user with a new access token."""
        name = f"{user}-{len(self.offline.site.store.tokens())}"
        return {"Authorization": f"Bearer {user_tokens.create(self.offline.site, name, user, projects)}"}

    def as_ucloud(self, user: str | None = None) -> dict[str, str]:
        """Return the headers of UCloud's core, which can name the user who asks it."""
        named = {} if user is None else {"Ucloud-Username": base64.b64encode(user.encode()).decode()}
        return {"Authorization": f"Bearer {self.ucloud.token()}", **named}

    def until_dispatched(self) -> None:
        """Wait until Slurm has all jobs that were taken: those of UCloud are dispatched in the background."""
        active = self.offline.site.store.active
        wait_until(lambda: not any(record.slurm_id is None for record in active()), "Slurm does not get a job")

    def item(self, **fields: Any) -> dict[str, Any]:
        """Return a JobSpecification, as JSON."""
        return {
            "application": {"name": "sleeper", "version": "1"},
            "product": {"provider": "example", "category": "example-compute", "id": "example-compute"},
            **fields,
        }

    def job(self, id_: str, user: str = "alice", **fields: Any) -> dict[str, Any]:
        """Return a Job as UCloud sends it; its application is one of the site."""
        return {
            "id": id_,
            "owner": {"createdBy": user, "project": None},
            "specification": self.item(**fields),
            "status": {"state": "IN_QUEUE"},
        }


def within(**seconds: float) -> pytest.MarkDecorator:
    """Serve the fixtures of a test with these time limits; see `Limits`."""
    return pytest.mark.parametrize("limits", [Limits(**seconds)], ids=["limits"])  # type: ignore[arg-type]


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Wait up to a minute for something; `what` is the error if it does not happen."""
    limit = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


@contextmanager
def opened(
    folder: Path,
    more: Mapping[str, Any] | None = None,
    *,
    ucloud: bool = True,
    asks_for_drives: bool = False,
    limits: Limits | None = None,
) -> Iterator[ApiSite]:
    """Both APIs, or the users' alone, over an offline site."""
    with Ucloud() as double:
        own = double.settings(folder, ask_for_drives=asks_for_drives) if ucloud else {}
        offline = Offline(folder, {**own, **(more or {})})
        offline.slurm = slurm = SlowScheduler()
        offline.site = offline.open()
        app = make_app(offline.open(), limits)
        with served(app, limits=limits) as address:
            double.provider = f"http://{address}"
            yield ApiSite(offline, slurm, double, f"http://{address}", app.state.gateway)
