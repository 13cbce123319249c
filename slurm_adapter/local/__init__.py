"""What the pure parts need from this machine: files, templates and processes."""

from __future__ import annotations
