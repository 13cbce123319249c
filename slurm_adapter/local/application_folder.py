"""Read the applications of the site: application files of UCloud in its own folder and in the packaged one.

Files are read on first use.
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
    """Applications by name and version."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)

    @cached_property
    def _files(self) -> tuple[dict[tuple[str, str], Application], dict[Path, str], tuple[str, ...]]:
        """Return applications (those of earlier folders take precedence), errors by file, and warnings."""
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
                    problems[path] = f"{path}: {here[key]} already has {application}"
                    continue
                here[key] = path
                found.setdefault(key, application)
        return found, problems, tuple(warnings)

    @property
    def applications(self) -> tuple[Application, ...]:
        """Return all applications, sorted by name and version."""
        return tuple(application for _, application in sorted(self._files[0].items()))

    @property
    def problems(self) -> dict[Path, str]:
        """Return files that cannot be used, with their errors."""
        return self._files[1]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return warnings about lines that are ignored, or that other programs read differently."""
        return self._files[2]

    def find(self, name: str, version: str) -> Application:
        """Return the application of this name and version. Raise `InvalidInput` with the known names or versions."""
        found = self._files[0].get((name, version))
        if found is not None:
            return found
        versions = [application.version for application in self.applications if application.name == name]
        names = sorted({application.name for application in self.applications})
        known = (
            f"known versions: {', '.join(versions)}"
            if versions
            else f"known applications: {', '.join(names) or 'none'}"
        )
        broken = f"; {len(self.problems)} files cannot be read" if self.problems else ""
        raise InvalidInput(
            f"application: {for_message(f'{name} {version}')}: Unknown application requested; {known}{broken}"
        )


def open_catalogue(config: Config) -> Catalogue:
    """Return the catalogue of the site's folder of applications, followed by the packaged one."""
    packaged = packaged_templates() / "applications"
    return Catalogue([config.applications, packaged] if config.applications else [packaged])
