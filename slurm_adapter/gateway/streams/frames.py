"""Frames of UCloud's WebSocket protocol: calls of clients, and their answers.

A client's frame names a call, and a stream that the client chooses. The answer is any number of messages on that stream
and one response, which ends the stream.
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
"""Sent so that no proxy closes a silent stream. UCloud reads it as an empty message."""


class Frame(Wire):
    """A frame of a client."""

    call: Annotated[Line, Field(max_length=256)]
    stream_id: Annotated[Line, Field(max_length=256)] = ""
    payload: dict[str, Any] = Field(default_factory=dict)
    bearer: Text = ""
    """Access token of browsers, which cannot set a header."""
    project: Text | None = None


def read_frame(text: str | None, limit: int) -> Frame:
    """Return a client's frame; `text` is None if it is binary. Raise `InvalidInput`. `limit` is in characters."""
    if text is None:
        raise InvalidInput("the frame is binary; frames are text")
    if len(text) > limit:
        raise InvalidInput(f"the frame has {len(text)} characters; the limit is {limit}")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the frame is not text: it contains half of a surrogate pair") from error
    try:
        return Frame.model_validate(decode_json(data))
    except ValidationError as error:
        raise InvalidInput("\n".join(list_problems(error, ()))) from error


def message(stream_id: str, payload: BaseModel) -> str:
    """Return a message of a stream."""
    return _frame("message", stream_id, payload.model_dump_json(by_alias=True))


def response(stream_id: str, payload: BaseModel, status: int = 200) -> str:
    """Return the end of a stream, with the status that HTTP would have."""
    return _frame("response", stream_id, payload.model_dump_json(by_alias=True), f',"status":{status}')


def _frame(type_: str, stream_id: str, payload: str, more: str = "") -> str:
    return f'{{"type":"{type_}","streamId":{json.dumps(stream_id)},"payload":{payload}{more}}}'
