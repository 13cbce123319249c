"""Find the site's templates and the files that come with this program."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from jinja2 import FileSystemLoader

from slurm_adapter.core.errors import InvalidConfig
from slurm_adapter.translation.script import NODE_FILES, Templates, script_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNREADABLE = "{}: a file of this program cannot be read: {}; install the program again"


def packaged_templates() -> Path:
    """Return the folder of packaged templates: in the wheel, or next to the package's sources."""
    package = Path(__file__).parent.parent
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"


def read_helper() -> str:
    """Return the text of the sudo helper, without a site's settings. Raise `InvalidConfig`."""
    path = packaged_templates() / "sudo" / "helper.sh"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidConfig(_UNREADABLE.format(path, error)) from error


@cache
def open_templates(site: Path | None) -> Templates:
    """Return the site's templates, and the packaged ones for those that it lacks. Raise `InvalidConfig`."""
    folders = [folder for folder in (site, packaged_templates()) if folder is not None]
    return Templates(str(folders[0]), script_environment(FileSystemLoader(folders)), _read_node_files())


@cache
def _read_node_files() -> Mapping[str, bytes]:
    folder = packaged_templates() / "node"
    try:
        return MappingProxyType({f"node/{name}": (folder / name).read_bytes() for name in NODE_FILES})
    except OSError as error:
        raise InvalidConfig(_UNREADABLE.format(folder, error)) from error
