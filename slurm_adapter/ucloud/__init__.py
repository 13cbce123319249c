"""Who is told what becomes of jobs: an interface, and one file for each way."""
