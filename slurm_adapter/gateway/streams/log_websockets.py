"""Following jobs over WebSockets: UCloud follows as it follows any provider, and users as they follow UCloud itself."""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError

from slurm_adapter.cluster.transports.interface import MEBIBYTE
from slurm_adapter.core.errors import AdapterError, InvalidInput, NotFound
from slurm_adapter.core.problems import for_message, list_problems
from slurm_adapter.core.specification import Wire
from slurm_adapter.gateway import authentication
from slurm_adapter.gateway.api import job_json
from slurm_adapter.gateway.api.provider import get_own
from slurm_adapter.gateway.api.schemas import FindById, Followed, FollowRequest, LogView, StreamedLog
from slurm_adapter.gateway.api.users import Flags, find_owned, view
from slurm_adapter.gateway.http.incoming import CALLER
from slurm_adapter.gateway.streams.follower import LogText
from slurm_adapter.gateway.streams.streams import Conversation, refuse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record, Update
    from slurm_adapter.core.specification import Owner
    from slurm_adapter.gateway.api.schemas import JobView
    from slurm_adapter.gateway.gateway import Gateway
    from slurm_adapter.gateway.streams.frames import Frame

W = TypeVar("W", bound=Wire)

USER_FRAME = 64 * 1024
"""Characters of the longest frame of a client that may not be authenticated yet."""

_ALL = Flags(include_product=True, include_support=True)
"""Optional parts of a job in the first message to a follower, as UCloud sends them."""

provider = APIRouter()
users = APIRouter()


@provider.websocket("/ucloud/jobs.provider.{name}/websocket")
async def follow_for_ucloud(websocket: WebSocket, name: str) -> None:
    """Serve logs to UCloud. The token is in the header, and the call contains the whole job."""
    gateway: Gateway = websocket.app.state.gateway
    try:
        key = gateway.key
        if key is None or name != gateway.config.provider:
            raise NotFound(f"this gateway serves no provider {for_message(name)}")
        authorization, began = websocket.headers.get("authorization"), time.time()
        key.verify(authorization, began)
    except AdapterError as error:
        await refuse(websocket, error)
        return
    setattr(websocket.state, CALLER, "UCloud")

    async def check() -> None:
        # A token of UCloud expires after ten minutes, and it follows for hours by one. So only the key is checked.
        key.verify(authorization, began)

    async def answer(conversation: Conversation, frame: Frame) -> None:
        request = _read(FollowRequest, frame, f"jobs.provider.{name}.follow")
        if request.type == "cancel":
            await conversation.stop(request.stream_id or frame.stream_id, frame.stream_id)
            return
        if request.job is None:
            raise InvalidInput("payload.job: is required")
        record = await gateway.pools.database.run(get_own, request.job)
        stream = secrets.token_hex(8)
        conversation.start(frame.stream_id, stream, _for_ucloud(gateway, record, stream), check)

    await Conversation(websocket, gateway.config.gateway.body_limit * MEBIBYTE, gateway.limits, pings=True).hold(answer)


@users.websocket("/api/jobs")
async def follow_for_users(websocket: WebSocket) -> None:
    """Serve logs to users. The access token is in the header or, for browsers, in each call."""
    gateway: Gateway = websocket.app.state.gateway
    authorization, project = websocket.headers.get("authorization"), websocket.headers.get("project")
    try:
        if authorization is not None:
            await gateway.admit(authorization, project, websocket.scope["state"])
            setattr(websocket.state, CALLER, "")
    except AdapterError as error:
        await refuse(websocket, error)
        return

    async def answer(conversation: Conversation, frame: Frame) -> None:
        request = _read(FindById, frame, "jobs.follow")
        token = f"Bearer {frame.bearer}" if frame.bearer else authorization
        workspace = project if frame.project is None else frame.project
        await gateway.admit(token, workspace, websocket.scope["state"])
        found = await gateway.pools.database.run(_find, token, workspace, request.id, names_work=gateway.names_work)
        setattr(websocket.state, CALLER, found[0])
        check = partial(gateway.pools.database.run, _check, token, workspace)
        conversation.start(frame.stream_id, frame.stream_id, _for_user(gateway, *found[1:]), check)

    await Conversation(websocket, USER_FRAME, gateway.limits).hold(answer)


async def _for_ucloud(gateway: Gateway, record: Record, stream: str) -> AsyncGenerator[StreamedLog, None]:
    with gateway.following.follow(record) as follower:
        async for event in follower:
            if isinstance(event, LogText):
                yield StreamedLog(stream_id=stream, rank=event.rank, **_text(event))


async def _for_user(
    gateway: Gateway, record: Record, job: JobView, updates: Sequence[Update]
) -> AsyncGenerator[Followed, None]:
    yield Followed(initial_job=job)
    last = updates[-1].number if updates else 0
    status = job_json.job(record).status
    resolved = {name: getattr(job.status, name) for name in ("resolved_product", "resolved_support")}
    with gateway.turns.counted(record.owner), gateway.following.follow(record) as follower:
        async for event in follower:
            if isinstance(event, LogText):
                yield Followed(log=(LogView(rank=event.rank, **_text(event)),))
                continue
            news = [update for update in await gateway.pools.database.run(_updates, record.id) if update.number > last]
            last = news[-1].number if news else last
            now = job_json.job(event, news)
            new_status = now.status.model_copy(update=resolved) if now.status != status else None
            if news or new_status is not None:
                yield Followed(updates=now.updates, new_status=new_status)
            status = now.status


def _text(output: LogText) -> dict[str, str]:
    return {"stderr" if output.is_error else "stdout": output.text}


def _check(adapter: Adapter, authorization: str | None, project: str | None) -> Owner:
    return authentication.authenticate(adapter.store, authorization, project, adapter.clock())


def _find(
    adapter: Adapter, authorization: str | None, project: str | None, id_: str, *, names_work: bool
) -> tuple[str, Record, JobView, Sequence[Update]]:
    owner = authentication.authenticate(adapter.store, authorization, project, adapter.clock())
    record = find_owned(adapter, owner, [id_])[0]
    updates = adapter.store.updates(id_)
    return owner.created_by, record, _with_updates(view(adapter, record, _ALL, names_work=names_work), updates), updates


def _with_updates(job: JobView, updates: Sequence[Update]) -> JobView:
    return job.model_copy(update={"updates": tuple(map(job_json.update, updates))})


def _updates(adapter: Adapter, id_: str) -> list[Update]:
    return adapter.store.updates(id_)


def _read(model: type[W], frame: Frame, call: str) -> W:
    """Return the payload of a call. Raise `NotFound` for another call than this one."""
    if frame.call != call:
        raise NotFound(f"the call {for_message(frame.call)} is unknown; this WebSocket supports {call}")
    try:
        return model.model_validate(frame.payload)
    except ValidationError as error:
        raise InvalidInput("\n".join(list_problems(error, ("payload",)))) from error
