"""The HTTP server: connections, limits, errors, logs and health checks."""
