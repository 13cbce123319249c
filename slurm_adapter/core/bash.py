"""Quote values for bash. All of the adapter's quoting for bash is done here."""

from __future__ import annotations

import shlex


def quote(text: str) -> str:
    """Return `text` as one word of bash.

    A carriage return is written in ANSI-C quoting, because sbatch refuses a script with CRLF, even if it is quoted. A
    newline before `#` is written so, too: otherwise a line of a value could look like a directive.
    """
    return shlex.quote(text).replace("\r", "'$'\\r''").replace("\n#", "'$'\\n''#")


def plain(value: object) -> str:
    """Return a parameter's value as the text of an argument: `true`, `5`, `0.5`. None gives an empty text.

    A floating point number without a fraction has no decimal point, as in UCloud.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)
