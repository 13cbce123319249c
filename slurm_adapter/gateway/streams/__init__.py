"""WebSockets and the logs that they carry."""
