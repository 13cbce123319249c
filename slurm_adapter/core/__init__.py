"""Pure models and rules: no files, processes, sockets, clock or environment."""
