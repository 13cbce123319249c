"""How fast the adapter is, beside the best of Slurm's own commands and other libraries: `python -m tests.benchmarks`.

Every figure has sides that do the same thing in different ways. All sides of a figure are run in turn, round after
round, so that what else the machine does falls on all alike. Nothing here is a test: a target that is missed is a
result.
"""
