"""The commands, one file for each kind. A command parses its options, calls the part that does the work, and prints."""
