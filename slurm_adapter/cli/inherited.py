"""Reset signals that this process inherits from cron, nohup or a service manager, and must not pass on.

Python itself restores SIGPIPE and SIGXFSZ in child processes, and closes descriptors there.
"""

from __future__ import annotations

import signal

_TO_DEFAULT = {signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
"""Signals that get the default action. An ignored SIGCHLD hides exit codes; the others belong to job control."""


def reset_signals() -> None:
    """Unblock all signals, and let child processes start with the default action for each.

    An ignored signal still has no effect on this process: it gets a handler that does nothing. execve(2) resets
    handlers, but keeps ignored signals. Call this in the main thread, before any other thread starts.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number in _TO_DEFAULT else _do_nothing)


def _do_nothing(_number: int, _frame: object) -> None:
    pass
