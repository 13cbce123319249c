"""Access to the cluster: schedulers, transports, job folders and peer files."""
