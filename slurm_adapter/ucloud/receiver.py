"""UCloud's core over HTTP (contract 3.6 and 4): what it is told of jobs, and asked about them.

An update with a state goes with `expectedDifferentState`, not with `expectedState`: the second would keep a job for
ever in a state that UCloud had lost or mistaken, an ending included, for an update that is not applied is answered with
200 like any other. That nothing arrives twice does not hang on it: what was sent before without an answer is looked for
among the updates that UCloud has of the job.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from slurm_adapter.core.errors import AdapterError, Unknown
from slurm_adapter.ucloud.interface import Told

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.core.messages import Message
    from slurm_adapter.ucloud.client import (
        Client,
    )


AT_ONCE = 1000
"""The most jobs that `checkExistence` is asked about."""

MOST_REFUSED = 3
"""Of one bulk; where UCloud refuses more, it is not these updates that are wrong."""

_NOT_OURS = re.compile(r"\(([^()]+)\)\s*$")
"""The job's id in `Not found or permission denied (4101)`."""

_UPDATE = "/api/jobs/control/update"
_EXISTS = "/api/providers/resources/checkExistence"


class UcloudReceiver:
    """See `slurm_adapter.ucloud.interface.Receiver`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._alone = threading.Lock()

    def tell(self, messages: Sequence[Message]) -> Told:
        """See `Receiver.tell`."""
        with self._alone:
            return self._tell(messages)

    def _tell(self, messages: Sequence[Message]) -> Told:
        bulk = _Bulk(self.client)
        bulk.look_for([message for message in messages if not message.fresh])
        try:
            bulk.send([message for message in messages if message.number not in bulk.taken])
        except AdapterError as error:
            if not bulk.taken:
                raise
            bulk.problems.append(str(error))
        return Told(frozenset(bulk.taken), frozenset(bulk.unknown), tuple(bulk.problems))

    def known(self, ids: Sequence[str]) -> frozenset[str]:
        """See `Receiver.known`."""
        found: set[str] = set()
        for start in range(0, len(ids), AT_ONCE):
            with self._alone:
                found |= _known(self.client, ids[start : start + AT_ONCE])
        return frozenset(found)

    def check(self) -> str:
        """See `Receiver.check`."""
        with self._alone:
            return self.client.refresh()

    def close(self) -> None:
        """See `Receiver.close`."""
        self.client.close()


class _Bulk:
    """What comes of one call of `tell`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.taken: set[int] = set()
        self.unknown: set[str] = set()
        self.problems: list[str] = []
        self._held: set[str] = set()
        """Ids of jobs of which UCloud refuses a state."""

    def look_for(self, messages: Iterable[Message]) -> None:
        """Find out which of these have arrived."""
        by_job: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_job[message.job_id].append(message)
        for id_, owned in by_job.items():
            has = _updates(self._client, id_)
            self.taken |= {m.number for m in owned if has[m.state, m.status] > m.copies}

    def send(self, messages: Sequence[Message]) -> None:
        """Send them as one bulk; what UCloud refuses is taken out, and the rest sent again."""
        while wanted := [m for m in messages if m.job_id not in self.unknown and m.job_id not in self._held]:
            answer = self._client.post(_UPDATE, {"items": [_item(message) for message in wanted]})
            if answer.status < 300:
                self.taken |= {message.number for message in wanted}
                return
            ids = list(dict.fromkeys(message.job_id for message in wanted))
            named = _NOT_OURS.search(answer.why) if answer.status == 404 else None
            if named is not None and named[1] in ids:
                # It names the first only. Where many are gone, as many calls are needed without this one.
                self.unknown.add(named[1])
                with contextlib.suppress(Unknown):
                    self.unknown |= set(ids) - _known(self._client, ids)
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
        """A text that UCloud refuses is given up, a state is told without it: it must not keep others from arriving."""
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
            self.problems.append(f"{what}; it was told the state {message.state} without it")
        else:
            self._held.add(message.job_id)
            self.problems.append(f"{what}, even the state {message.state} alone; it is tried again")


def _item(message: Message, *, plain: bool = False) -> dict[str, Any]:
    """As UCloud's decoder takes it: ids are strings, and there is no null timestamp and no float."""
    update: dict[str, Any] = {"timestamp": 0}
    if message.state is not None:
        update |= {"state": message.state.value, "expectedDifferentState": True}
    if not plain:
        update |= {"status": message.status, **message.more}
    return {"id": message.job_id, "update": update}


def _updates(client: Client, id_: str) -> Counter[tuple[str | None, str]]:
    """How often UCloud has each update of a job, by state and text; none of a job that it does not know."""
    answer = client.get("/api/jobs/control/retrieve", {"id": id_, "includeUpdates": "true"})
    if answer.missing:
        return Counter()
    if answer.body.get("id") != id_:
        raise Unknown(f"UCloud at {client.url} was asked for job {id_}, and gave another answer ({answer.status})")
    has = answer.body.get("updates") or []
    return Counter((each.get("state"), each.get("status") or "") for each in has if isinstance(each, dict))


def _known(client: Client, ids: Sequence[str]) -> set[str]:
    answer = client.post(_EXISTS, {"items": [{"type": "job", "id": id_} for id_ in ids]})
    has = answer.body.get("responses")
    if answer.status >= 300 or not isinstance(has, list) or len(has) != len(ids):
        raise Unknown(f"UCloud at {client.url} did not say which jobs it has ({answer.status}: {answer.why})")
    return {id_ for id_, exists in zip(ids, has, strict=True) if exists is True}
