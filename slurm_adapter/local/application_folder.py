"""The applications of this site: a folder of UCloud's application files, and the packaged one after it.

Files are read when they are first asked for.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidConfig, InvalidInput
from slurm_adapter.core.problems import for_message
from slurm_adapter.local.template_folder import packaged_templates
from slurm_adapter.translation.application_file import lint_application_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from slurm_adapter.core.config import Config
    from slurm_adapter.translation.application import Application


class Catalogue:
    """What can be run, by name and version."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)

    @cached_property
    def _files(self) -> tuple[dict[tuple[str, str], Application], dict[Path, str], tuple[str, ...]]:
        """Return applications (those of earlier folders win), errors by file, and warnings."""
        found: dict[tuple[str, str], Application] = {}
        problems: dict[Path, str] = {}
        warnings: list[str] = []
        for folder in self._folders:
            here: dict[tuple[str, str], Path] = {}
            try:
                paths = sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"})
            except OSError as error:
                raise InvalidConfig(f"{folder}: the folder of applications cannot be read: {error}") from error
            for path in paths:
                try:
                    application, notes = lint_application_file(path.read_text(encoding="utf-8"), str(path))
                except (OSError, UnicodeDecodeError) as error:
                    problems[path] = f"{path}: cannot be read: {error}"
                    continue
                warnings += [f"{path}:{note.line}: {note.message}" for note in notes if not note.error]
                errors = [f"{path}:{note.line}: {note.message}" for note in notes if note.error]
                if application is None or errors:
                    problems[path] = "\n".join(errors)
                    continue
                key = application.name, application.version
                if key in here:
                    problems[path] = f"{path}: {application} is in {here[key]} already"
                    continue
                here[key] = path
                found.setdefault(key, application)
        return found, problems, tuple(warnings)

    @property
    def applications(self) -> tuple[Application, ...]:
        """All of them, by name and version."""
        return tuple(application for _, application in sorted(self._files[0].items()))

    @property
    def problems(self) -> dict[Path, str]:
        """Files that cannot be used, and why."""
        return self._files[1]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines of files that are ignored, or that other readers understand differently."""
        return self._files[2]

    def find(self, name: str, version: str) -> Application:
        """The application of this name and version. Raises `InvalidInput` that names the versions there are."""
        found = self._files[0].get((name, version))
        if found is not None:
            return found
        versions = [application.version for application in self.applications if application.name == name]
        names = sorted({application.name for application in self.applications})
        there = (
            f"its versions here are {', '.join(versions)}" if versions else f"there are {', '.join(names) or 'none'}"
        )
        broken = f"; {len(self.problems)} files cannot be read" if self.problems else ""
        raise InvalidInput(
            f"application: {for_message(f'{name} {version}')}: Unknown application requested; {there}{broken}"
        )


def open_catalogue(config: Config) -> Catalogue:
    """The site's folder of applications before the packaged one."""
    packaged = packaged_templates() / "applications"
    return Catalogue([config.applications, packaged] if config.applications else [packaged])
