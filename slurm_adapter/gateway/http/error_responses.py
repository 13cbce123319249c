"""Errors as HTTP responses."""

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
"""Paths of the gateway and of accounts, which no 503 shows."""

_STATUS: tuple[tuple[type[AdapterError], HTTPStatus], ...] = (
    (NotAuthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (Duplicate, HTTPStatus.CONFLICT),
    (InvalidInput, HTTPStatus.BAD_REQUEST),
    (Refused, HTTPStatus.BAD_REQUEST),
    (NotFound, HTTPStatus.NOT_FOUND),
    (AdapterError, HTTPStatus.SERVICE_UNAVAILABLE),  # the cluster, the database or the configuration must be repaired
)


def is_uclouds(path: str) -> bool:
    """Return whether a path belongs to the provider API."""
    return path.startswith("/ucloud/")


def status_of(error: AdapterError, path: str = "") -> HTTPStatus:
    """Return the HTTP status of an error, on this path.

    UCloud gets 502 instead of 503, which it reads as "the user is not connected".
    """
    for_ucloud = is_uclouds(path)
    if isinstance(error, TooMany):  # UCloud retries after this status, five times within 3 seconds
        return HTTPStatus.SERVICE_UNAVAILABLE if for_ucloud else HTTPStatus.TOO_MANY_REQUESTS
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return HTTPStatus.BAD_GATEWAY if for_ucloud and status is HTTPStatus.SERVICE_UNAVAILABLE else status


def headers_of(error: AdapterError) -> dict[str, str]:
    """Return the headers of an error response."""
    if isinstance(error, NotAuthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(error.retry_after)} if isinstance(error, TooMany) else {}


def body_of(error: AdapterError) -> Error:
    """Return the body of an error response, which both generations of UCloud's core read."""
    why = str(error)
    if status_of(error) is HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("%s", why)
        why = _PATH.sub("(a path; see the log)", why)
    code = "FEATURE_NOT_SUPPORTED_BY_PROVIDER" if isinstance(error, NotOffered) else None
    return Error(why=why, error_code=code)
