"""Files, templates and processes of this machine, for the parts that do no I/O."""

from __future__ import annotations
