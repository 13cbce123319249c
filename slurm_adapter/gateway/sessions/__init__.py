"""Shell, web and VNC sessions with jobs."""
