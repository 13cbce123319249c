"""Ways to talk to Slurm: its commands, or a fake for tests and for trying things out."""
