"""README and the example are true: commands are those of `--help`, configuration is that of the models."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from slurm_adapter.cli.main import cli
from slurm_adapter.core import config, config_tables, durations
from slurm_adapter.local import configuration_file
from tests.cli.test_demo import STORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "config.example.toml").read_text(encoding="utf-8")


def _commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each command with its arguments, and its help."""
    for name, command in group.commands.items():
        arguments: list[str] = []
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            arguments = command.collect_usage_pieces(click.Context(command))[1:]
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join((prefix + name, *arguments)), (command.help or "").split("\n\n")[0].replace("\n", " ")


def _block(name: str) -> str:
    """Return the code block after a comment."""
    found = re.search(rf"^( *)<!-- {name} -->\n *```\w*\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    assert found
    return re.sub(rf"^{found[1]}", "", found[2], flags=re.MULTILINE)


def test_the_commands_are_those_of_help() -> None:
    table = README.partition("<!-- commands -->")[2].partition("\n\n")[0]
    shown = re.findall(r"^\| `(.+)` \| (.+) \|$", table.replace("\\|", "|"), re.MULTILINE)
    assert shown == list(_commands(cli))


def test_the_output_of_the_demo_is_the_demos_story() -> None:
    assert re.search("(?s)" + ".*?".join(STORY), _block("demo output"))


def test_the_configuration_of_the_steps_can_be_read(tmp_path: Path) -> None:
    site, ucloud = _block("configuration"), _block("configuration for UCloud")
    first_id, tables = ucloud.split("\n\n", 1)
    path = tmp_path / "config.toml"
    path.write_text(site)
    assert configuration_file.load_config(path).ucloud is None
    path.write_text(f"{first_id}\n{site}\n{tables}")
    assert configuration_file.load_config(path).ucloud is not None


MODELS: dict[str, type[BaseModel]] = {
    "": config.Config,
    "clusters.main": config_tables.Cluster,
    "clusters.main.ssh": config_tables.Ssh,
    "identity": config_tables.Identity,
    "command_line": config_tables.CommandLine,
    "jobs": config_tables.Jobs,
    "machines.example-compute.example-compute": config_tables.Machine,
    "[drives]": config_tables.Drive,
    "drive_pattern": config_tables.DrivePattern,
    "peers": config_tables.Peers,
    "retention": config_tables.Retention,
    "ucloud": config_tables.Ucloud,
    "gateway": config_tables.GatewayConfig,
}


def _example_keys() -> dict[str, dict[str, str]]:
    """Every key of the example, commented out or not, by table."""
    tables: dict[str, dict[str, str]] = {"": {}}
    table = ""
    for line in EXAMPLE.splitlines():
        if match := re.fullmatch(r"(?:# )?\[(.+)\]", line):
            table = match[1]
            tables[table] = {}
        elif match := re.fullmatch(r"(?:# )?([a-z_]+) = (.+)", line):
            tables[table][match[1]] = match[2]
    return tables


@pytest.mark.parametrize("table", MODELS)
def test_the_example_shows_every_key(table: str) -> None:
    nested = {table.strip("[]").split(".")[0] for table in MODELS} | {"states"}
    keys = set(MODELS[table].model_fields) - (nested if not table else {"ssh"} if table == "clusters.main" else set())
    assert set(_example_keys()[table]) == keys


def test_the_example_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(EXAMPLE)
    assert configuration_file.load_config(path).provider == "example"


def test_the_example_with_every_optional_key_can_be_read(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=([a-z_]+ = |\[))", "", EXAMPLE, flags=re.MULTILINE)
    text = re.sub(r'^(transport) = "local"', r'\1 = "ssh"', text, flags=re.MULTILINE)
    text = re.sub(r"^service_user = .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^first_id = .*$", f"first_id = {config.FIRST_ID_BESIDE_UCLOUD}", text, flags=re.MULTILINE)
    text = text.replace("# PREEMPTED", "PREEMPTED")
    path = tmp_path / "config.toml"
    path.write_text(text)
    loaded = configuration_file.load_config(path)
    assert loaded.cluster.ssh is not None
    assert loaded.states == {"PREEMPTED": "FAILURE"}


@pytest.mark.parametrize("table", MODELS)
def test_the_example_shows_the_defaults(table: str) -> None:
    model = MODELS[table]
    for key, text in _example_keys()[table].items():
        default = model.model_fields[key].default
        if model.model_fields[key].is_required() or default is None or re.search(rf"^{key} = ", EXAMPLE, re.MULTILINE):
            continue
        shown = tomllib.loads(f"value = {text}")["value"]
        if isinstance(default, int) and isinstance(shown, str):
            shown = durations.parse_duration(shown)
        assert (tuple(shown) if isinstance(shown, list) else shown) == default, key


def test_every_command_block_is_marked() -> None:
    assert README.count("<!-- test command -->") == 1
    assert README.count("<!-- demo command -->") == 1
    assert README.index("<!-- fast test command -->") < README.index("<!-- test command -->")


def test_no_line_of_its_prose_is_longer_than_120() -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", README, flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []
