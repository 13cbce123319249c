"""Find and read the configuration file."""

from __future__ import annotations

import json
import os
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from slurm_adapter.core.config import Config
from slurm_adapter.core.config_errors import explain, explain_syntax, place, split_key
from slurm_adapter.core.errors import InvalidConfig
from slurm_adapter.core.toml_lines import Key, key_lines, line_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_OF_SITE = Path("/etc/slurm-adapter/config.toml")


def find_config(explicit: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the configuration file: `--config`, `$SLURM_ADAPTER_CONFIG`, or the first usual place with a file.

    Return None if there is none. A given file is returned even if it does not exist, so that the error names it.
    """
    if explicit is not None:
        return explicit
    if named := environment.get("SLURM_ADAPTER_CONFIG"):
        return Path(named)
    home = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config")
    for candidate in (Path("config.toml"), home / "slurm-adapter/config.toml"):
        with suppress(PermissionError):  # after `sudo -u` the folder may still be root's
            if candidate.is_file():
                return candidate
    try:
        return _OF_SITE if _OF_SITE.is_file() else None
    except PermissionError:
        return _OF_SITE  # so that the error names it


def load_config(path: Path) -> Config:
    """Read and check the file. Raise `InvalidConfig` that names the file, the line, the key, and what is allowed."""
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(explain_syntax(path, text, error)) from error
    except RecursionError as error:
        raise InvalidConfig(f"{path}: lists or tables are nested too deeply") from error
    try:
        # As JSON, because pydantic's strict mode then accepts lists, paths and enums, but converts nothing else.
        return Config.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise InvalidConfig(explain(path, text, Config, error)) from error


def locate(path: Path | None, text: str, key: Key = ()) -> str:
    """Return a message with file and line before it if it is about a key: `key`, or the key that it begins with."""
    if path is None:
        return text
    try:
        lines = key_lines(_read(path))
    except (InvalidConfig, tomllib.TOMLDecodeError):
        return text
    about = key or split_key(text, lines)
    return text if not about else f"{place(path, line_of(lines, about))}: {text}"


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        text = content.decode()
    except OSError as error:
        raise InvalidConfig(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidConfig(
            f"{path}:{line}: is not UTF-8 (byte {content[error.start]:#04x}); save the file as UTF-8"
        ) from error
    if text.startswith("\ufeff"):
        raise InvalidConfig(f"{path}:1: begins with a byte order mark; save the file as UTF-8 without one")
    return text.replace("\r\n", "\n")
