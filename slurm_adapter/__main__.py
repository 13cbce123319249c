"""Makes `python -m slurm_adapter` the same as the console script."""

from slurm_adapter.cli.main import main

main()
