"""UCloud's core over HTTP: delivers updates of jobs, and asks which jobs exist.

An update with a state carries `expectedDifferentState`, not `expectedState`. With the latter a job could remain forever
in a state that UCloud had lost or mistaken, because UCloud answers 200 to an update that it does not apply. No update
is applied twice: one that was sent before without an answer is looked for among the updates that UCloud has of the job.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from slurm_adapter.core.errors import AdapterError, Unknown
from slurm_adapter.ucloud.interface import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.core.messages import Message
    from slurm_adapter.ucloud.client import Client


AT_ONCE = 1000
"""Maximum number of jobs in one request to `checkExistence`."""

MOST_REFUSED = 3
"""Maximum number of refused updates in one bulk. If UCloud refuses more, the cause is not in these updates."""

_NOT_OURS = re.compile(r"\(([^()]+)\)\s*$")
"""The job's id in `Not found or permission denied (4101)`."""

_UPDATE = "/api/jobs/control/update"
_EXISTS = "/api/providers/resources/checkExistence"


class UcloudReceiver:
    """See `slurm_adapter.ucloud.interface.Receiver`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._requesting = threading.Lock()

    def deliver(self, messages: Sequence[Message]) -> Delivery:
        """See `Receiver.deliver`."""
        with self._requesting:
            return self._deliver(messages)

    def _deliver(self, messages: Sequence[Message]) -> Delivery:
        bulk = _Bulk(self.client)
        bulk.find_arrived([message for message in messages if not message.fresh])
        try:
            bulk.send([message for message in messages if message.number not in bulk.taken])
        except AdapterError as error:
            if not bulk.taken:
                raise
            bulk.problems.append(str(error))
        return Delivery(frozenset(bulk.taken), frozenset(bulk.unknown), tuple(bulk.problems))

    def exists(self, ids: Sequence[str]) -> frozenset[str]:
        """See `Receiver.exists`."""
        found: set[str] = set()
        for start in range(0, len(ids), AT_ONCE):
            with self._requesting:
                found |= _existing(self.client, ids[start : start + AT_ONCE])
        return frozenset(found)

    def check(self) -> str:
        """See `Receiver.check`."""
        with self._requesting:
            return self.client.refresh()

    def close(self) -> None:
        """See `Receiver.close`."""
        self.client.close()


class _Bulk:
    """The progress of one call of `deliver`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.taken: set[int] = set()
        self.unknown: set[str] = set()
        self.problems: list[str] = []
        self._refused: set[str] = set()
        """Ids of jobs with a state that UCloud refuses."""

    def find_arrived(self, messages: Iterable[Message]) -> None:
        """Add those of these messages that have arrived to `taken`."""
        by_job: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_job[message.job_id].append(message)
        for id_, owned in by_job.items():
            has = _updates(self._client, id_)
            self.taken |= {m.number for m in owned if has[m.state, m.status] > m.copies}

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages as one bulk. Take out those that UCloud refuses, and send the rest again."""
        while wanted := [m for m in messages if m.job_id not in self.unknown and m.job_id not in self._refused]:
            answer = self._client.post(_UPDATE, {"items": [_item(message) for message in wanted]})
            if answer.status < 300:
                self.taken |= {message.number for message in wanted}
                return
            ids = list(dict.fromkeys(message.job_id for message in wanted))
            named = _NOT_OURS.search(answer.why) if answer.status == 404 else None
            if named is not None and named[1] in ids:
                # The answer names the first unknown job only. This request finds the others at once.
                self.unknown.add(named[1])
                with contextlib.suppress(Unknown):
                    self.unknown |= set(ids) - _existing(self._client, ids)
            elif answer.status == 404:
                raise Unknown(
                    f"UCloud at {self._client.url} has no {_UPDATE} (404: {answer.why}); is ucloud.url right?"
                )
            elif len(wanted) == 1:
                self._leave_out(wanted[0], answer.why)
                return
            else:
                half = len(wanted) // 2
                self.send(wanted[:half])
                self.send(wanted[half:])
                return

    def _leave_out(self, message: Message, why: str) -> None:
        """Give up a text that UCloud refuses, and deliver its state without it, so that later updates can arrive."""
        if len(self.problems) >= MOST_REFUSED:
            raise Unknown(f"UCloud at {self._client.url} refuses one update after another: {why}")
        what = f"job {message.job_id}: UCloud refuses the update {message.status[:200]!r} ({why})"
        if message.state is None:
            self.taken.add(message.number)
            self.problems.append(f"{what}; it is left out")
            return
        answer = self._client.post(_UPDATE, {"items": [_item(message, plain=True)]})
        if answer.status < 300:
            self.taken.add(message.number)
            self.problems.append(f"{what}; the state {message.state} was delivered without it")
        else:
            self._refused.add(message.job_id)
            self.problems.append(f"{what}, even the state {message.state} alone; it is tried again")


def _item(message: Message, *, plain: bool = False) -> dict[str, Any]:
    """Return an update as UCloud's decoder accepts it: ids are strings; a timestamp is neither null nor a float."""
    update: dict[str, Any] = {"timestamp": 0}
    if message.state is not None:
        update |= {"state": message.state.value, "expectedDifferentState": True}
    if not plain:
        update |= {"status": message.status, **message.more}
    return {"id": message.job_id, "update": update}


def _updates(client: Client, id_: str) -> Counter[tuple[str | None, str]]:
    """Count UCloud's updates of a job by state and text. A job that UCloud does not know has none."""
    answer = client.get("/api/jobs/control/retrieve", {"id": id_, "includeUpdates": "true"})
    if answer.missing:
        return Counter()
    if answer.body.get("id") != id_:
        raise Unknown(
            f"UCloud at {client.url} was asked for job {id_} and gave another answer ({answer.status}); is ucloud.url "
            "right?"
        )
    has = answer.body.get("updates") or []
    return Counter((each.get("state"), each.get("status") or "") for each in has if isinstance(each, dict))


def _existing(client: Client, ids: Sequence[str]) -> set[str]:
    answer = client.post(_EXISTS, {"items": [{"type": "job", "id": id_} for id_ in ids]})
    has = answer.body.get("responses")
    if answer.status >= 300 or not isinstance(has, list) or len(has) != len(ids):
        raise Unknown(f"UCloud at {client.url} did not say which jobs it has ({answer.status}: {answer.why})")
    return {id_ for id_, exists in zip(ids, has, strict=True) if exists is True}
