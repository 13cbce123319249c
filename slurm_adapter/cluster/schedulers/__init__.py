"""Interfaces to Slurm: its commands, pyslurm, and a fake for tests."""
