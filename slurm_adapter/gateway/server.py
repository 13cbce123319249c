"""`serve`: the application under a server made for it, until somebody ends it.

SIGTERM ends it gently: no new request is taken, and what was accepted is finished first.
"""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import uvicorn

from slurm_adapter.gateway.app import make_app
from slurm_adapter.gateway.logging import log_to_stderr

if TYPE_CHECKING:
    from slurm_adapter.site import Site

GRACE_SECONDS = 30
"""How long requests that are under way are waited for at the end."""

log = logging.getLogger(__name__)


def serve(site: Site) -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = site.config.gateway
    app = make_app(site)
    log_to_stderr()
    for number in (signal.SIGTERM, signal.SIGINT):
        # The server handles them, and raises them once more when it has ended; then nothing is left to do.
        signal.signal(number, lambda *_: None)
    log.info("listening on %s, port %s", settings.listen, settings.port)
    uvicorn.run(
        app,
        host=settings.listen,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="websockets-sansio",
    )
