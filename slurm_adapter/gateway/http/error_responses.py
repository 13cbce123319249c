"""What goes wrong, as HTTP says it."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus

from slurm_adapter.core.errors import (
    AdapterError,
    Duplicate,
    Forbidden,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotOffered,
    Refused,
)
from slurm_adapter.gateway.api.schemas import Error
from slurm_adapter.gateway.shares import TooMany

_log = logging.getLogger(__name__)

_PATH = re.compile(r"(?<![\w.:/-])/[^\s:;,'\")]+")
"""What no answer shows if something of the site's is amiss: files of the gateway, and folders of accounts."""

_STATUS: tuple[tuple[type[AdapterError], HTTPStatus], ...] = (
    (NotAuthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (Duplicate, HTTPStatus.CONFLICT),
    (InvalidInput, HTTPStatus.BAD_REQUEST),
    (Refused, HTTPStatus.BAD_REQUEST),
    (NotFound, HTTPStatus.NOT_FOUND),
    (AdapterError, HTTPStatus.SERVICE_UNAVAILABLE),  # the cluster, the database or the configuration is to be mended
)


def is_uclouds(path: str) -> bool:
    """Return whether a path is at UCloud's door."""
    return path.startswith("/ucloud/")


def status_of(error: AdapterError, path: str = "") -> HTTPStatus:
    """Return the status of an answer that tells of it, at this path.

    UCloud gets 502 for 503, which it takes for a user who is not connected.
    """
    at_uclouds_door = is_uclouds(path)
    if isinstance(error, TooMany):  # UCloud repeats a request that is answered so, five times within 3 seconds
        return HTTPStatus.SERVICE_UNAVAILABLE if at_uclouds_door else HTTPStatus.TOO_MANY_REQUESTS
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return HTTPStatus.BAD_GATEWAY if at_uclouds_door and status is HTTPStatus.SERVICE_UNAVAILABLE else status


def headers_of(error: AdapterError) -> dict[str, str]:
    """Return the headers that go with that status."""
    if isinstance(error, NotAuthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(error.retry_after)} if isinstance(error, TooMany) else {}


def body_of(error: AdapterError) -> Error:
    """The body of that answer, which both of UCloud's cores read (contract 1.2)."""
    why = str(error)
    if status_of(error) is HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("%s", why)
        why = _PATH.sub("(a path; see the log)", why)
    code = "FEATURE_NOT_SUPPORTED_BY_PROVIDER" if isinstance(error, NotOffered) else None
    return Error(why=why, error_code=code)
