"""Sessions with jobs and in folders, for both APIs, and the WebSocket of a browser with a shell.

The browser authenticates by the session's identifier alone. A shell ends with its WebSocket.
"""

from __future__ import annotations

import asyncio
import codecs
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Header, WebSocket
from pydantic import Field, ValidationError

from slurm_adapter.cluster.transports.interface import Terminal
from slurm_adapter.core.errors import InvalidInput, NotAuthenticated, NotFound, NotOffered, Refused, TryAgain
from slurm_adapter.core.problems import for_message, list_problems
from slurm_adapter.core.specification import Text, Wire
from slurm_adapter.gateway.api import provider, users
from slurm_adapter.gateway.api.schemas import (
    Bulk,
    BulkRequest,
    FolderTerminal,
    JobSessionRequest,
    Session,
    SessionRequest,
    ShellMessage,
    UserSession,
)
from slurm_adapter.gateway.authentication import check_grant
from slurm_adapter.gateway.background import StillRunning
from slurm_adapter.gateway.gateway import Shared
from slurm_adapter.gateway.http.incoming import CALLER
from slurm_adapter.gateway.sessions import folder_shell
from slurm_adapter.gateway.sessions.access_grants import read_username
from slurm_adapter.gateway.sessions.entitled import check_sessions
from slurm_adapter.gateway.sessions.sessions import FolderShell
from slurm_adapter.gateway.streams.streams import Conversation, refuse
from slurm_adapter.jobs import shells as job_shells

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
    from contextlib import ExitStack

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.transports.interface import Stream
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.gateway import Gateway
    from slurm_adapter.gateway.sessions.access_grants import AccessGrant
    from slurm_adapter.gateway.sessions.sessions import JobShell
    from slurm_adapter.gateway.streams.frames import Frame

T = TypeVar("T")

FRAME = 256 * 1024
"""Characters of the longest frame of a browser: pasted text comes in one frame."""
WAITING = 1024 * 1024
"""Bytes of input that may wait for a shell that does not read."""

Size = Annotated[int, Field(ge=1, le=1000)]
Username = Annotated[str | None, Header(alias="ucloud-username", include_in_schema=False)]

for_ucloud = APIRouter(route_class=provider.ProviderRoute, tags=["provider"])
for_users = APIRouter(prefix="/api/jobs", route_class=users.UserRoute, tags=["jobs"])
for_browsers = APIRouter()


class _Call(Wire):
    """A message of a browser to a shell."""

    type: Literal["initialize", "input", "resize"]
    session_identifier: Text = ""
    cols: Size = 80
    rows: Size = 24
    data: Text = ""


@for_ucloud.post("/jobs/interactiveSession")
async def open_for_ucloud(
    gateway: Shared, request: BulkRequest[JobSessionRequest], username: Username = None
) -> Bulk[Session]:
    """Open sessions with jobs: shells, and web and VNC interfaces of applications."""
    records = await gateway.pools.database.run(provider.get_all, [item.job for item in request.items])
    await gateway.pools.questions.run(check_sessions, records, read_username(username))
    grants = [gateway.access_grants.add(record.id, username) for record in records]
    owners = [grant.user or record.owner for grant, record in zip(grants, records, strict=True)]
    return Bulk(responses=tuple(map(partial(_session, gateway), records, request.items, grants, owners)))


@for_ucloud.post("/jobs/openTerminalInFolder")
async def open_folder_for_ucloud(
    gateway: Shared, request: BulkRequest[FolderTerminal], username: Username = None
) -> Bulk[Session]:
    """Open sessions with shells in folders, for the user in a header."""
    named = [item.folder for item in request.items]
    folders = await _in_time(gateway, gateway.pools.questions.run(folder_shell.find_for_ucloud, named, username))
    return Bulk(responses=_folder_sessions(gateway, folders))


@for_users.post("/interactiveSession")
async def open_for_users(
    gateway: Shared, owner: users.Requester, grant: users.Grant, request: BulkRequest[SessionRequest]
) -> Bulk[UserSession]:
    """Open sessions with jobs: shells, and web and VNC interfaces of applications."""
    records = await gateway.pools.database.run(users.find_owned, owner, [item.id for item in request.items])
    user = owner.created_by
    await gateway.pools.questions.run(check_sessions, records, user)
    sessions = [_session(gateway, *each, grant, user) for each in zip(records, request.items, strict=True)]
    return Bulk(responses=_for_user(gateway, sessions))


@for_users.post("/openTerminalInFolder")
async def open_folder_for_users(
    gateway: Shared, owner: users.Requester, grant: users.Grant, request: BulkRequest[FolderTerminal]
) -> Bulk[UserSession]:
    """Open sessions with shells on the login node, in folders of this workspace's drives."""
    named = [item.folder for item in request.items]
    folders = await _in_time(gateway, gateway.pools.questions.run(folder_shell.find, owner, named))
    mine = [replace(folder, grant=grant) for folder in folders]
    return Bulk(responses=_for_user(gateway, _folder_sessions(gateway, mine)))


@for_browsers.websocket("/ucloud/{name}/websocket")
async def talk(websocket: WebSocket, name: str) -> None:
    """Serve a browser's WebSocket. Its first message names a session, which authenticates it."""
    gateway: Gateway = websocket.app.state.gateway
    if name != gateway.config.provider or gateway.config.gateway.url is None:
        await refuse(websocket, NotFound(f"this gateway has no shells of a provider {for_message(name)} here"))
        return
    shells: dict[str, _Shell] = {}

    async def answer(conversation: Conversation, frame: Frame) -> None:
        call = _read(frame, f"jobs.compute.{name}.shell.open")
        if call.type == "initialize":
            if shells:
                raise InvalidInput("this WebSocket has a shell already; open another WebSocket")
            identifier = call.session_identifier or websocket.query_params.get("session", "")
            target, share = gateway.sessions.use(identifier, gateway.shells)
            setattr(websocket.state, CALLER, identifier)
            shells[""] = shell = _Shell(gateway, target, Terminal(call.cols, call.rows), share)
            until = time.monotonic() + gateway.limits.session
            check = partial(_check, gateway, target, until)
            conversation.start(frame.stream_id, frame.stream_id, shell.messages(), check)
            return
        if not shells:
            raise NotAuthenticated("no shell was opened on this WebSocket: its first call must be an initialize")
        if call.type == "input":
            shells[""].write(call.data)
        else:
            shells[""].resize(call.cols, call.rows)
        await conversation.acknowledge(frame.stream_id, ShellMessage(type="ack"))

    try:
        await Conversation(websocket, FRAME, gateway.limits).hold(answer)
    finally:
        for shell in shells.values():
            shell.share.close()  # of one that did not begin


class _Shell:
    """A shell, a thread that reads its output, and one that writes its input."""

    def __init__(self, gateway: Gateway, target: JobShell | FolderShell, terminal: Terminal, share: ExitStack) -> None:
        self._gateway = gateway
        self._target = target
        self._terminal = terminal
        self.share = share
        """Of all shells; closed with the shell."""
        self._input: asyncio.Queue[bytes | Terminal] = asyncio.Queue()
        self._waiting = 0
        self._taking = threading.Lock()
        self._stream: Stream | None = None
        self._ended = False

    def write(self, text: str) -> None:
        """Send input. Raise `Refused` if the shell has ended, or if too much input waits."""
        self._put(data := text.encode(errors="replace"), len(data))

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal, after the input so far. Raise `Refused` as `write` does."""
        self._put(Terminal(columns, rows), 1024)

    def _put(self, piece: bytes | Terminal, size: int) -> None:
        # Waiting here would delay the notice that the browser disconnected.
        if self._ended:
            raise Refused("this shell has ended")
        if self._waiting + size > WAITING:
            raise Refused(f"the input was dropped: the shell does not read, and {self._waiting} bytes wait")
        self._waiting += size
        self._input.put_nowait(piece)

    async def messages(self) -> AsyncGenerator[ShellMessage, None]:
        """Give the output of the shell until it ends. The shell ends if the caller stops."""
        writing: asyncio.Task[None] | None = None
        try:
            stream = await self._gateway.pools.questions.run(self._bring_up)
            writing = asyncio.create_task(self._write_on(stream))
            yield ShellMessage(type="initialize")
            # A piece may end within a character; the rest comes with the next piece.
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            while piece := await self._in_thread(stream.read):
                if text := decoder.decode(piece):
                    yield ShellMessage(type="data", data=text)
            if text := decoder.decode(b"", final=True):
                yield ShellMessage(type="data", data=text)
        finally:
            with self._taking:
                self._ended = True
            if writing is not None:
                writing.cancel()
            try:
                if self._stream is not None:
                    await asyncio.shield(self._in_thread(self._stream.close))
            finally:
                self.share.close()

    async def _write_on(self, stream: Stream) -> None:
        while True:
            piece = await self._input.get()
            if isinstance(piece, Terminal):
                self._waiting -= 1024
                await self._in_thread(partial(stream.resize, piece.columns, piece.rows))
            else:
                self._waiting -= len(piece)
                await self._in_thread(partial(stream.write, piece))

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._gateway.shell_threads, work)

    def _bring_up(self, adapter: Adapter) -> Stream:
        """Return the shell. If the browser has disconnected meanwhile, end it here: no event loop may run any more.

        Raise as `jobs.shells` does, and `Refused`.
        """
        stream = _open(adapter, self._target, self._terminal)
        with self._taking:
            if not self._ended:
                self._stream = stream
                return stream
        stream.close()
        raise Refused("this shell has ended")


def _open(adapter: Adapter, target: JobShell | FolderShell, terminal: Terminal) -> Stream:
    _check_grant(adapter, target.grant)
    if isinstance(target, FolderShell):
        return job_shells.open_in_folder(adapter, target.account, target.path, terminal)
    record = adapter.store.get(target.job_id)
    if record.run != target.run:
        raise Refused(f"job {record.id} was requeued after this session was created; open a new one")
    return job_shells.open_shell(adapter, record, target.rank, terminal)


async def _check(gateway: Gateway, target: JobShell | FolderShell, until: float) -> None:
    """Raise an error if a shell may not stay open."""
    if time.monotonic() >= until:
        hours = gateway.limits.session / 3600
        raise NotAuthenticated(f"a shell stays open for {hours:.0f} hours at most; open another one")
    await gateway.pools.database.run(_check_grant, target.grant)


def _check_grant(adapter: Adapter, grant: str | AccessGrant | None) -> None:
    check_grant(adapter.store, grant, adapter.clock())


async def _in_time(gateway: Gateway, looking: Coroutine[Any, Any, list[FolderShell]]) -> list[FolderShell]:
    """Return the folders. Raise `TryAgain` if the cluster or UCloud takes too long."""
    try:
        return await gateway.background.in_time(looking, gateway.limits.answer, "looking for folders")
    except StillRunning:
        raise TryAgain("UCloud or the cluster takes too long to find these folders; try again") from None


def _folder_sessions(gateway: Gateway, folders: Sequence[FolderShell]) -> tuple[Session, ...]:
    """Return sessions in folders. In place of a job each names its folder, as UCloud's own provider does."""
    return tuple(
        Session(type="shell", job_id=each.path.ucloud, rank=0, session_identifier=gateway.sessions.add_folder(each))
        for each in folders
    )


def _for_user(gateway: Gateway, sessions: Sequence[Session]) -> tuple[UserSession, ...]:
    domain = gateway.config.gateway.url or ""
    return tuple(
        UserSession(provider_domain=domain, provider_id=gateway.config.provider, session=each) for each in sessions
    )


def _session(
    gateway: Gateway, record: Record, item: JobSessionRequest | SessionRequest, grant: str | AccessGrant, user: str
) -> Session:
    if item.session_type != "SHELL":
        return gateway.web.open(record, item.rank, item.session_type, item.target, grant, user)
    if gateway.config.gateway.url is None:
        raise NotOffered("Terminal access is not supported by this provider: gateway.url is not set")
    job_shells.check(record, item.rank)
    identifier = gateway.sessions.add(record, item.rank, grant, user)
    return Session(type="shell", job_id=record.id, rank=item.rank, session_identifier=identifier)


def _read(frame: Frame, call: str) -> _Call:
    if frame.call != call:
        raise NotFound(f"the call {for_message(frame.call)} is unknown; this WebSocket supports {call}")
    try:
        return _Call.model_validate(frame.payload)
    except ValidationError as error:
        raise InvalidInput("\n".join(list_problems(error, ("payload",)))) from error
