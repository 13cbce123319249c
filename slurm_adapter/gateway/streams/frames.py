"""The frames of UCloud's WebSockets: what clients call, and what they are sent (contract 3.7).

A client's frame names a call and a stream of the client's own choice. The answer is any number of messages on that
stream, and one response, after which nothing comes on it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import list_problems
from slurm_adapter.core.specification import Line, Text, Wire, decode_json

if TYPE_CHECKING:
    from pydantic import BaseModel

PING = '{"ping":"pong"}'
"""Sent so that nothing on the way takes a silent stream for a dead one; UCloud takes it for an empty message."""


class Frame(Wire):
    """What a client sends."""

    call: Annotated[Line, Field(max_length=256)]
    stream_id: Annotated[Line, Field(max_length=256)] = ""
    payload: dict[str, Any] = Field(default_factory=dict)
    bearer: Text = ""
    """A token, from those that cannot set a header: browsers."""
    project: Text | None = None


def read_frame(text: str | None, limit: int) -> Frame:
    """A client's frame; None for one that is binary. Raises `InvalidInput`; `limit` is in characters."""
    if text is None:
        raise InvalidInput("the frame is binary; frames are text")
    if len(text) > limit:
        raise InvalidInput(f"the frame has {len(text)} characters, and at most {limit} are taken here")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the frame is no text: it holds half of a surrogate pair") from error
    try:
        return Frame.model_validate(decode_json(data))
    except ValidationError as error:
        raise InvalidInput("\n".join(list_problems(error, ()))) from error


def message(stream_id: str, payload: BaseModel) -> str:
    """One message of a stream."""
    return _frame("message", stream_id, payload.model_dump_json(by_alias=True))


def response(stream_id: str, payload: BaseModel, status: int = 200) -> str:
    """The end of a stream, with the status that HTTP would have."""
    return _frame("response", stream_id, payload.model_dump_json(by_alias=True), f',"status":{status}')


def _frame(type_: str, stream_id: str, payload: str, more: str = "") -> str:
    return f'{{"type":"{type_}","streamId":{json.dumps(stream_id)},"payload":{payload}{more}}}'
