"""What the pure parts need from this machine: files, templates and processes."""
