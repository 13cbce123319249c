"""What this process inherits from its starter (cron, nohup, a service manager), and must not pass on.

Python restores SIGPIPE and SIGXFSZ in its child processes, and closes descriptors there. The rest is here.
"""

from __future__ import annotations

import signal

_TO_DEFAULT = {signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
"""An ignored SIGCHLD hides the exit codes of child processes. The others belong to a terminal's foreground."""


def reset_signals() -> None:
    """Unblock all signals, and let child processes start with the default action for each.

    A signal that this process was told to ignore is still without effect on it: it gets a handler that does nothing,
    since execve(2) resets handlers, and keeps what is ignored. Call it in the main thread, before any other thread
    starts.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number in _TO_DEFAULT else _do_nothing)


def _do_nothing(_number: int, _frame: object) -> None:
    pass
