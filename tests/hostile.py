"""A starter that leaves behind all that a process can inherit: signals, a mask, a umask, limits, descriptors."""

from __future__ import annotations

import os
import resource
import signal
import sys

for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM, signal.SIGRTMIN})
os.umask(0o077)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
os.dup2(os.open("/dev/null", os.O_RDONLY), 77, inheritable=True)
os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606  # what it is for
