"""Errors that a user reads as one message, without a traceback.

    AdapterError                 base of all errors below
    ├── InvalidInput             the specification, application or request is invalid (exit 65, HTTP 400)
    ├── InvalidConfig            the configuration is invalid (exit 78)
    ├── Refused                  Slurm or the state of the job does not allow it (exit 1, HTTP 400)
    │   ├── NotOffered           this site or this program does not support it (HTTP 400, UCloud's error code)
    │   └── Duplicate            the same job has not ended, and the site refuses duplicates (HTTP 409)
    ├── NotFound                 no such job, or the user may not see it (exit 1, HTTP 404)
    ├── TryAgain                 nothing was done; the same call may succeed later (exit 75, HTTP 503)
    │   └── Later                it is queued, and will be done without another call
    ├── NotAuthenticated         the caller is not known (HTTP 401)
    ├── Forbidden                the caller is known, but has no permission (HTTP 403)
    └── Unknown                  an answer was lost or unreadable, and proves nothing about the jobs (exit 1)

Library code raises these errors. `slurm_adapter.cli.main` maps them to exit codes (sysexits.h), and the gateway to
HTTP. A message says what failed, on which object, what is allowed, and how to fix it.
"""

from __future__ import annotations


class AdapterError(Exception):
    """Base of all errors that a user reads as one message."""


class InvalidInput(AdapterError):
    """The input is invalid. The message names the field, its value and what is allowed."""


class InvalidConfig(AdapterError):
    """The configuration is invalid. The message names the file and the key."""


class Refused(AdapterError):
    """The cluster or the job's state does not allow it. The message quotes Slurm."""


class NotOffered(Refused):
    """The site or the program does not support it: UCloud's `FEATURE_NOT_SUPPORTED_BY_PROVIDER`."""


class Duplicate(Refused):
    """A job with the same specification has not ended."""


class NotFound(AdapterError):
    """There is no such job, or the caller may not see it."""


class TryAgain(AdapterError):
    """Nothing was done. The same call may succeed later."""


class Later(TryAgain):
    """Nothing was done yet, because other work is first in the queue. This is not a failure."""


class Unknown(AdapterError):
    """An answer was lost, late or unreadable. It proves nothing."""


class NotAuthenticated(AdapterError):
    """The caller is not known (HTTP 401)."""


class Forbidden(AdapterError):
    """The caller is known, but has no permission (HTTP 403)."""
