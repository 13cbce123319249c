"""Text for bash: the one place where a value is quoted for the shell."""

from __future__ import annotations

import shlex


def quote(text: str) -> str:
    """One word of bash that is exactly `text`.

    A carriage return is written in ANSI-C quoting: sbatch refuses a script that holds CRLF anywhere, quoted or not.
    So is the end of a line before a `#`, that no line of a value looks like a directive.
    """
    return shlex.quote(text).replace("\r", "'$'\\r''").replace("\n#", "'$'\\n''#")


def plain(value: object) -> str:
    """A parameter's value as an argument's text: `true`, `5`, `0.5`; none is nothing.

    A floating point number without a fraction is written without a point, as UCloud writes it.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)
