"""Slurm's errors that refuse a job only temporarily, by their words and numbers.

The words and numbers are those of `slurm/slurm_errno.h` and `src/common/slurm_errno.c` from 20.11 to 26.05. The
controller's answers to a submission are in `src/slurmctld/proc_req.c` and `job_mgr.c` (`job_allocate`, `_job_create`,
`_get_job_parts`), and the reasons of an accounting policy in `acct_policy.c`.
`tests/cluster/schedulers/extract_errors.py` reads the tables from Slurm's sources, and a test compares this one with
every version. All other errors are final, until somebody changes the job or the site.
"""

from __future__ import annotations

import errno
import os
import re
from types import MappingProxyType

PASSING = MappingProxyType(
    {
        os.strerror(errno.EAGAIN): errno.EAGAIN,  # MaxJobCount of slurm.conf, up to 25.11
        "Unable to create job record, try again": 2007,  # ESLURM_ERROR_ON_DESC_TO_RECORD_COPY, up to 25.11
        "MaxJobCount limit reached": 2007,  # ESLURM_MAX_JOB_COUNT, from 26.05 on
        "Requested nodes are busy": 2016,  # ESLURM_NODES_BUSY
        "I/O error writing script/environment to file": 2019,  # ESLURM_WRITING_TO_FILE: StateSaveLocation is full
        "Requested operation is presently disabled": 2037,  # ESLURM_DISABLED
        "Licenses currently unavailable": 2040,  # ESLURM_LICENSES_UNAVAILABLE, from 23.02 on
        "Requested reservation is in use": 2055,  # ESLURM_RESERVATION_BUSY
        "Requested reservation not usable now": 2056,  # ESLURM_RESERVATION_NOT_USABLE
        "Required ports are in use": 2059,  # ESLURM_PORTS_BUSY
        "Required node not available (down, drained or reserved)": 2068,  # ESLURM_NODE_NOT_AVAIL
        "Required partition not available (inactive or drain)": 2070,  # ESLURM_PARTITION_NOT_AVAIL
        "Requested account has breached requested QOS usage threshold": 2074,  # ESLURM_QOS_THRES: usage decays
        "Switch resources currently not available": 2079,  # ESLURM_INTERCONNECT_BUSY, up to 25.05
        "Waiting for burst buffer": 2100,  # ESLURM_BURST_BUFFER_WAIT
        "Partition in DOWN state": 2101,  # ESLURM_PARTITION_DOWN
        "System submissions disabled": 2105,  # ESLURM_SUBMISSIONS_DISABLED
        "Job can not start due to maintenance reservation.": 2118,  # ESLURM_RESERVATION_MAINT
        "Max powered up nodes reached": 2177,  # ESLURM_MAX_POWERED_NODES, from 24.05 on
    }
)
"""The number of each error by its words."""

POLICY = ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", 2050)
"""ESLURM_ACCOUNTING_POLICY: the reason on an earlier line decides."""

PASSING_REASONS = (
    "AssocGrpSubmitJobsLimit",
    "AssocMaxSubmitJobLimit",
    "MaxSubmitJobsPerAccount",
    "QOSGrpSubmitJobsLimit",
    "QOSMaxSubmitJobPerUserLimit",
)
"""Reasons of a policy that count the jobs in the queue. The others compare the job itself with a limit."""


def passes(words: str, before: str) -> bool:
    """Return whether Slurm's error refuses the job only temporarily; `before` has Slurm's words before it.

    A policy without a reason is that of the plugin job_submit/throttle, which counts jobs per hour.
    """
    number = _number(words)
    if words == POLICY[0] or number == POLICY[1]:
        reasons = [reason for reason in PASSING_REASONS if re.search(rf"\b{reason}\b", before)]
        return bool(reasons) or "sbatch: error: " not in before
    return words in PASSING or number in PASSING.values()


def is_slurms_own(words: str) -> bool:
    """Return whether only Slurm's controller gives this answer.

    Words of errno(3) and of a plugin's failure are not the controller's own: they may mean that its answer was lost.
    """
    return words not in _ERRNO and words != "Unspecified error" and not words.startswith("Unknown ")


def _number(words: str) -> int | None:
    """Return the number of an error without words: an error of a newer controller, or of a site's plugin."""
    match = re.fullmatch(r"Unknown error (-?\d+)", words, re.ASCII)
    return int(match[1]) if match else None


_ERRNO = frozenset(map(os.strerror, errno.errorcode))
