"""Runs UCloud jobs on a Slurm cluster, once each, and lets them find each other by name."""

__version__ = "0.1.0"
