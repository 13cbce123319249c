"""Locks between processes of this machine: files that are locked with flock(2).

The lock goes with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def acquire(file: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Return a descriptor that holds the lock until it is closed; None if another process has it.

    `shared`: as many processes as like may have it, while none has it for itself. Raises `OSError`.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor
