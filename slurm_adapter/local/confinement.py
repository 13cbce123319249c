"""Confine a process to its memory and its open files.

The process that renders untrusted templates calls `confine` after its imports. A template that escapes from Jinja's
sandbox then has Python, but no files, no network, and no other processes.

| restriction | what it forbids | what it needs |
|---|---|---|
| limits | new files, sockets and processes (not for root) | nothing |
| Landlock | files by path; from Linux 6.7 on TCP, from 6.12 on signals to other processes | Linux 5.13 |
| seccomp | all system calls except those for memory, time, and open files | Linux 3.17, libseccomp |

The restrictions are independent. Only seccomp forbids everything: Landlock allows `chmod`, for example. See seccomp(2),
landlock(7), setrlimit(2). The renderer imports this module, so keep it light.
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
"""System calls that Python needs to compute. `read` and `write` reach only files that are already open."""

_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION = 1
_SCMP_ACT_ALLOW, _SCMP_ACT_ERRNO = 0x7FFF0000, 0x00050000


def confine() -> tuple[dict[str, str], dict[str, str]]:
    """Apply all restrictions permanently.

    Return the active restrictions with their versions, and those that this machine lacks with the reason.
    """
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))
    active: dict[str, str] = {}
    lacking: dict[str, str] = {}
    library = ctypes.CDLL(None, use_errno=True)
    try:  # now, because no file can be opened afterwards
        seccomp = ctypes.CDLL(_LIBSECCOMP, use_errno=True)
    except OSError as error:
        seccomp, lacking[SECCOMP] = None, str(error)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        reason = _reason("prctl(PR_SET_NO_NEW_PRIVS)")
        return {}, {LANDLOCK: reason, SECCOMP: reason}
    try:
        active[LANDLOCK] = f"ABI {_forbid_paths(library)}"
    except OSError as error:
        lacking[LANDLOCK] = str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if seccomp is not None:
        try:
            _forbid_system_calls(seccomp)
            active[SECCOMP] = _LIBSECCOMP
        except OSError as error:
            lacking[SECCOMP] = str(error)
    return active, lacking


def _reason(what: str, number: int | None = None) -> str:
    return f"{what}: {os.strerror(ctypes.get_errno() if number is None else number)}"


def _forbid_paths(library: ctypes.CDLL) -> int:
    """Enforce a Landlock ruleset without rules. Return its ABI. Raise `OSError` if the kernel does not support it."""
    version: int = library.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        raise OSError(_reason("landlock_create_ruleset"))
    files = (1 << 13) - 1 | sum(1 << bit for bit, since in ((13, 2), (14, 3), (15, 5)) if version >= since)
    network = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0
    rules = struct.pack("=QQQ", files, network, scoped)  # older kernels accept additional zeros
    ruleset: int = library.syscall(_LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0 or library.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError(_reason("landlock_restrict_self"))
    os.close(ruleset)
    return version


def _forbid_system_calls(library: ctypes.CDLL) -> None:
    """Allow only `_SYSTEM_CALLS`; others fail with EPERM. Raise `OSError` if the kernel does not support it."""
    library.seccomp_init.restype = ctypes.c_void_p
    rules = library.seccomp_init(ctypes.c_uint32(_SCMP_ACT_ERRNO | errno.EPERM))
    if not rules:
        raise OSError("seccomp_init failed")
    context = ctypes.c_void_p(rules)
    for name in _SYSTEM_CALLS:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # an architecture may lack a call
            library.seccomp_rule_add(context, ctypes.c_uint32(_SCMP_ACT_ALLOW), number, ctypes.c_uint(0))
    if (failed := library.seccomp_load(context)) != 0:
        raise OSError(_reason("seccomp_load", -failed))
