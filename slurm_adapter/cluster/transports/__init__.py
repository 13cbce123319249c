"""Transports that run commands on the cluster: on this machine, or over SSH."""
