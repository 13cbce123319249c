"""Ways to run a command on the cluster: here, or over SSH."""
