"""The database and its locks."""
