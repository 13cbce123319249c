"""Pure translation of a job's specification into what sbatch is given."""
