"""Confine a process: nothing is left to it but its memory, and the files that it has open.

The renderer of templates that the site did not write calls `confine` once it has imported all that it needs. A payload
that gets out of Jinja's sandbox then has Python, but no files, no network, no other processes.

| wall | what it takes | what it needs |
|---|---|---|
| limits | new files, sockets and processes (not from root) | nothing |
| Landlock | files by path; from Linux 6.7 on TCP, from 6.12 on signals to other processes | Linux 5.13 |
| seccomp | every system call but those for memory, time, and open files | Linux 3.17, libseccomp |

Each wall stands without the others. Only seccomp takes everything: Landlock leaves `chmod`, for one. See seccomp(2),
landlock(7), setrlimit(2). The module is imported by the renderer: keep it light.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct

SECCOMP = "seccomp"
LANDLOCK = "Landlock"

_LIBSECCOMP = "libseccomp.so.2"

_SYSTEM_CALLS = (
    *("read", "write"),
    *("brk", "madvise", "mmap", "mprotect", "mremap", "munmap"),
    *("clock_gettime", "gettimeofday", "setitimer"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall"),
    *("futex", "getrandom", "sched_yield"),
    *("exit", "exit_group"),
)
"""What Python needs to compute. `read` and `write` reach only what is open already."""

_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION = 1
_SCMP_ACT_ALLOW, _SCMP_ACT_ERRNO = 0x7FFF0000, 0x00050000


def confine() -> tuple[dict[str, str], dict[str, str]]:
    """Give up everything that can be given up, for ever.

    Return the walls that stand, with their versions, and those that this machine lacks, with the reason.
    """
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))
    stand: dict[str, str] = {}
    lacking: dict[str, str] = {}
    library = ctypes.CDLL(None, use_errno=True)
    try:  # before no file can be opened any more
        seccomp = ctypes.CDLL(_LIBSECCOMP, use_errno=True)
    except OSError as error:
        seccomp, lacking[SECCOMP] = None, str(error)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        reason = _reason("prctl(PR_SET_NO_NEW_PRIVS)")
        return {}, {LANDLOCK: reason, SECCOMP: reason}
    try:
        stand[LANDLOCK] = f"ABI {_give_up_paths(library)}"
    except OSError as error:
        lacking[LANDLOCK] = str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if seccomp is not None:
        try:
            _give_up_system_calls(seccomp)
            stand[SECCOMP] = _LIBSECCOMP
        except OSError as error:
            lacking[SECCOMP] = str(error)
    return stand, lacking


def _reason(what: str, number: int | None = None) -> str:
    return f"{what}: {os.strerror(ctypes.get_errno() if number is None else number)}"


def _give_up_paths(library: ctypes.CDLL) -> int:
    """Enforce a ruleset of Landlock without a rule. Return its ABI. Raise `OSError` if the kernel does not offer it."""
    version: int = library.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        raise OSError(_reason("landlock_create_ruleset"))
    files = (1 << 13) - 1 | sum(1 << bit for bit, since in ((13, 2), (14, 3), (15, 5)) if version >= since)
    network = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0
    rules = struct.pack("=QQQ", files, network, scoped)  # an older kernel takes further zeros
    ruleset: int = library.syscall(_LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0 or library.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError(_reason("landlock_restrict_self"))
    os.close(ruleset)
    return version


def _give_up_system_calls(library: ctypes.CDLL) -> None:
    """Allow `_SYSTEM_CALLS` alone; all others fail with EPERM. Raise `OSError` if the kernel does not offer it."""
    library.seccomp_init.restype = ctypes.c_void_p
    rules = library.seccomp_init(ctypes.c_uint32(_SCMP_ACT_ERRNO | errno.EPERM))
    if not rules:
        raise OSError("seccomp_init failed")
    context = ctypes.c_void_p(rules)
    for name in _SYSTEM_CALLS:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # an architecture may have no call of this name
            library.seccomp_rule_add(context, ctypes.c_uint32(_SCMP_ACT_ALLOW), number, ctypes.c_uint(0))
    if (failed := library.seccomp_load(context)) != 0:
        raise OSError(_reason("seccomp_load", -failed))
