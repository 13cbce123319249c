"""Decide who may open sessions with a job.

A session acts as the account that runs the job: a shell directly, a web or VNC application by the actions that it
offers. So only the user with that account may open one. To see a job, cancel it or change its time is for all users who
may use the job, as in UCloud.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Forbidden, InvalidInput
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.specification import Owner

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record


def check_sessions(adapter: Adapter, records: Iterable[Record], user: str | None) -> None:
    """Raise `Forbidden` if this user of UCloud may not open sessions with one of these jobs.

    `user` is None if UCloud did not name one. Raise what `Adapter.usable_account_of` raises if the cluster is down.
    """
    gateway = adapter.config.gateway
    if gateway.project_sessions or gateway.url is None:  # without it there are no sessions, which another error reports
        return
    for record in records:
        if why := _refusal(adapter, record, user):
            raise Forbidden(f"job {record.id}: no session was opened: {why}")


def _refusal(adapter: Adapter, record: Record, user: str | None) -> str | None:
    if user is None:
        return "UCloud did not name the user (header Ucloud-Username)"
    if user != record.owner:
        return (
            f"it runs as the account of {for_message(record.owner)}, and a session would act as that account; ask "
            f"{for_message(record.owner)}, or the site (gateway.project_sessions)"
        )
    try:
        account = adapter.usable_account_of(Owner(created_by=user))
    except InvalidInput as error:
        return str(error)
    if account != record.account:
        return f"it runs as {record.account}, and {for_message(user)} now has the account {account} (see [identity])"
    return None
