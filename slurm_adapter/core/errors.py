"""What can go wrong, as one small tree that every shell translates in one place.

    AdapterError                 anything this program says in one message instead of a traceback
    ├── InvalidInput             the specification, application or request is wrong (exit 65, HTTP 400)
    ├── InvalidConfig            the site's configuration is wrong (exit 78)
    ├── Refused                  Slurm, or the state of a job, does not allow it (exit 1, HTTP 400)
    │   ├── NotOffered           this site, or this program, does not do that (HTTP 400 with UCloud's error code)
    │   └── Duplicate            the same job runs already, and the site refuses such (HTTP 409)
    ├── NotFound                 no such job, or not for this user (exit 1, HTTP 404)
    ├── TryAgain                 nothing was done; the same call may succeed later (exit 75, HTTP 503)
    │   └── Later                its turn will come by itself
    ├── NotAuthenticated         it is not known who is asking (HTTP 401); see `slurm_adapter.gateway.authentication`
    ├── Forbidden                it is known, and that one may not (HTTP 403); as above
    └── Unknown                  an answer was lost or unreadable: it says nothing about the jobs (exit 1)

Library code raises these and knows nothing of exit codes; `slurm_adapter.cli.main` maps them (sysexits.h).
A message names what was attempted, on what, what is allowed, and the mend.
"""

from __future__ import annotations


class AdapterError(Exception):
    """The base of everything that a user is told in one message."""


class InvalidInput(AdapterError):
    """The input is wrong, and `why` names the field, its value and what is allowed."""


class InvalidConfig(AdapterError):
    """The configuration is wrong; the message names the file and the key."""


class Refused(AdapterError):
    """The cluster or the job's state does not allow it; Slurm's own words are in the message."""


class NotOffered(Refused):
    """This is not done here; UCloud's `FEATURE_NOT_SUPPORTED_BY_PROVIDER` (contract 1.2)."""


class Duplicate(Refused):
    """A job with the same specification has not ended yet (contract 1.7)."""


class NotFound(AdapterError):
    """There is no such job, or the caller may not see it."""


class TryAgain(AdapterError):
    """Nothing was done, and the same call may succeed later."""


class Later(TryAgain):
    """Nothing was done yet, because others come first. Nothing is wrong."""


class Unknown(AdapterError):
    """An answer was lost, late or unreadable: nothing may be concluded from it."""


class NotAuthenticated(AdapterError):
    """It is not known who is asking (HTTP 401)."""


class Forbidden(AdapterError):
    """It is known who is asking, and that one may not (HTTP 403)."""
