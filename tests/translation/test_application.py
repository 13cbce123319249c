"""Applications: UCloud's files, applications inside jobs, and a site's folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.core.errors import InvalidConfig, InvalidInput
from slurm_adapter.core.specification import Job
from slurm_adapter.local.application_folder import Catalogue, open_catalogue
from slurm_adapter.translation.application import (
    Application,
    Option,
    Parameter,
    Template,
    Workflow,
    resolve_application,
)
from slurm_adapter.translation.application_file import lint_application_file, read_application_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.core.config import Config

WHOLE = """\
application: v2
name: acme
version: 1.10
title: Acme
software:
  type: Native
  load:
  - {name: gcc, version: 12.1}
features: {multiNode: true, links: false, jobLinking: true}
parameters:
  zeta: {type: Text, optional: true, defaultValue: hello}
  alpha: {type: Integer, optional: false, defaultValue: 4, min: 2, max: 10, step: 2}
  ratio: {type: FloatingPoint, optional: false, min: 0.5}
  mode:
    type: Enumeration
    optional: true
    defaultValue: f
    options:
    - {title: Fast, value: f}
    - {value: s}
  flow:
    type: Workflow
    optional: true
    job: |
      run {{ extra }}
    parameters:
      extra: {type: File, optional: true}
sbatch:
  ntasks: 4
environment:
  COUNT: "{{ alpha }}"
invocation: |
  acme {{ zeta }}
web: {enabled: true, port: 8080}
ssh: {mode: Optional}
extensions: [.txt]
vnc: {enabled: true, password: secret}
"""


def errors(text: str) -> list[str]:
    with pytest.raises(InvalidInput) as error:
        read_application_file(text, "app.yaml")
    return str(error.value).splitlines()


def test_a_whole_file() -> None:
    application, problems = lint_application_file(WHOLE, "app.yaml")
    assert problems == ()
    assert application == Application(
        name="acme",
        version="1.10",
        title="Acme",
        source="app.yaml",
        trusted=True,
        backend="NATIVE",
        parameters=(
            Parameter("zeta", "text", optional=True, default="hello"),
            Parameter("alpha", "integer", default=4, minimum=2, maximum=10, step=2),
            Parameter("ratio", "floating_point", minimum=0.5),
            Parameter(
                "mode", "enumeration", optional=True, default="f", options=(Option("Fast", "f"), Option("s", "s"))
            ),
            Parameter(
                "flow",
                "workflow",
                optional=True,
                default=Workflow(
                    Template("run {{ extra }}\n", 25), parameters=(Parameter("extra", "input_file", optional=True),)
                ),
            ),
        ),
        invocation=(Template("acme {{ zeta }}\n", 33),),
        environment=(("COUNT", Template("{{ alpha }}", 31)),),
        sbatch=(("ntasks", Template("4", 29)),),
        load=(("gcc", "12.1"),),
        web_port=8080,
        vnc_port=5900,
        vnc_password="secret",
        ssh="OPTIONAL",
        multi_node=True,
        links=False,
        job_linking=True,
        extensions=(".txt",),
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("application: v2", "application: v1", "app.yaml:1: application: 'v1': must be one of v2"),
        ("application: v2", "application: [", "app.yaml:3: not YAML:"),
        ("name: acme\n", "", "app.yaml:1: name is missing; it is required"),
        ("name: acme\n", "name: a b\n", "app.yaml:2: name: 'a b': must not contain white space"),
        ("version: 1.10", "version: {}", "app.yaml:3: version: must be a text"),
        ("title: Acme", "name: again", "app.yaml:4: name stands twice"),
        ("title: Acme", "<<: {name: x}", "app.yaml:4: the file: a key must be a plain text"),
        ("title: Acme", "ucx: {}", "app.yaml:4: ucx: does not run on a Slurm cluster"),
        ("type: Native", "type: Podman", "app.yaml:6: software.type: 'Podman': must be one of Native"),
        ("version: 12.1", "v: 1", "app.yaml:8: software.load[0].version is missing"),
        ("multiNode: true", "multiNode: 1", "app.yaml:9: features.multiNode: 1: must be true or false"),
        ("type: Text,", "type: Txt,", "app.yaml:11: parameters.zeta.type: 'Txt': must be one of File"),
        ("zeta: {", "srun: {", "app.yaml:11: parameters.srun: this name has another meaning in templates"),
        ("defaultValue: 4", "defaultValue: 1", "app.yaml:12: parameters.alpha.defaultValue: 1 is below min, 2"),
        ("defaultValue: 4", "defaultValue: 12", "app.yaml:12: parameters.alpha.defaultValue: 12 is above max, 10"),
        ("defaultValue: 4", "defaultValue: x", "app.yaml:12: parameters.alpha.defaultValue: 'x': must be an integer"),
        ("defaultValue: 4", "defaultValue: 4.0", "app.yaml:12: parameters.alpha.defaultValue: 4.0: must be an integer"),
        ("max: 10", "max: 1", "app.yaml:12: parameters.alpha.min: 2 is above max, 1"),
        ("step: 2", "step: 0", "app.yaml:12: parameters.alpha.step: 0: must be more than 0"),
        ("min: 0.5", "min: .inf", "app.yaml:13: parameters.ratio.min"),
        ("defaultValue: f", "defaultValue: Fast", "app.yaml:17: parameters.mode.defaultValue: 'Fast': must be the"),
        ("port: 8080", "port: 0", "app.yaml:34: web.port: 0: must be 1 to 65535"),
        ("mode: Optional", "mode: 5", "app.yaml:35: ssh.mode: '5': must be one of Mandatory"),
        ("[.txt]", ".txt", "app.yaml:36: extensions: must be a list of texts"),
        ("sbatch:\n  ntasks: 4", "sbatch: [x]", "app.yaml:28: sbatch must be a mapping"),
    ],
)
def test_an_error_has_its_line_and_key(old: str, new: str, said: str) -> None:
    assert old in WHOLE
    assert any(line.startswith(said) for line in errors(WHOLE.replace(old, new, 1))), errors(WHOLE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: Acme", "titel: Acme", (4, "titel: is ignored")),
        ("title: Acme", "modules: {}", (4, "modules: is ignored; load modules with `module load`")),
        ("type: File, optional: true", "type: File", (27, "parameters.flow.parameters.extra.optional: is missing")),
        ("type: Native", "type: Container", (6, "software.type: Container does not run on a Slurm cluster")),
    ],
)
def test_a_warning_does_not_refuse_the_file(old: str, new: str, said: tuple[int, str]) -> None:
    application, [problem] = lint_application_file(WHOLE.replace(old, new, 1), "app.yaml")
    assert application is not None
    assert not problem.error
    assert problem.line == said[0]
    assert problem.message.startswith(said[1])


def test_nothing_to_run_is_an_error_unless_a_workflow_may_bring_it() -> None:
    text = WHOLE.replace("invocation: |\n  acme {{ zeta }}\n", "")
    assert read_application_file(text, "f").invocation == (Template(""),)
    assert any("invocation is missing" in line for line in errors(text.replace("type: Workflow", "type: Text")))


@pytest.mark.parametrize(
    "text", ["", "[]", "x", "? [a]\n: b", "a: &x [*x]", "!!python/object:os.system {}", "\0", "[" * 5000]
)
def test_texts_that_are_not_application_files(text: str) -> None:
    assert errors(text)


def test_aliases_that_would_fill_the_memory() -> None:
    layers = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))
    application, problems = lint_application_file(f"{WHOLE}a0: &a0 [x]\n{layers}\n", "app.yaml")
    assert application is not None
    assert len(problems) == 40


@given(st.text())
def test_no_text_gives_anything_but_a_message(text: str) -> None:
    for whole in (text, f"{WHOLE}description: {text}", f"application: v2\nparameters: {text}"):
        lint_application_file(whole, "f")


@pytest.mark.parametrize("name", ["acme-database", "acme-web-app"])
def test_the_shipped_applications_are_without_problems(name: str, config: Config) -> None:
    application = open_catalogue(config).find(name, "1.0.0")
    text = Path(application.source).read_text(encoding="utf-8")
    assert lint_application_file(text, application.source) == (application, ())
    assert application.template


def test_the_form_inside_a_job(wire: Callable[[str], bytes]) -> None:
    job = Job.model_validate(json.loads(wire("create-4101.json"))["items"][0])
    assert job.status.resolved_application is not None
    application = resolve_application(job.status.resolved_application)
    assert str(application) == "acme-database 1.0.0"
    assert application.backend == "NATIVE"
    assert application.parameters == (Parameter("dataStore", "input_directory"),)
    assert not application.template
    assert not application.trusted
    assert application.multi_node is application.job_linking is application.folders is None
    assert (application.web_port, application.vnc_port, application.vnc_password) == (None, None, None)
    document = job.status.resolved_application
    document["invocation"] |= {"applicationType": "VNC", "vnc": {"password": "secret", "port": 5901}}
    desktop = resolve_application(document)
    assert (desktop.web_port, desktop.vnc_port, desktop.vnc_password) == (None, 5901, "secret")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "status.resolvedApplication.metadata: is missing"),
        (
            {"metadata": {"name": "a", "version": "1"}, "invocation": {"invocation": [{"type": "magic"}]}},
            "status.resolvedApplication.invocation.invocation[0].type: 'magic'",
        ),
        (
            {
                "metadata": {"name": "a", "version": "1"},
                "invocation": {"parameters": [{"type": "text", "name": "a"}] * 2},
            },
            "two parameters named 'a'",
        ),
    ],
)
def test_a_form_that_cannot_be_read(document: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        resolve_application(document)
    assert said in str(error.value)


def test_the_sites_folder_goes_before_the_packaged_one(tmp_path: Path, config: Config) -> None:
    (tmp_path / "mine.yml").write_text(WHOLE.replace("name: acme\n", "name: acme-database\n").replace("1.10", "1.0.0"))
    (tmp_path / "new.yaml").write_text(WHOLE)
    (tmp_path / "twice.yaml").write_text(WHOLE)
    (tmp_path / "broken.yaml").write_text("name: 1\n")
    (tmp_path / "notes.txt").write_text("not looked at")
    catalogue = open_catalogue(config.model_copy(update={"applications": tmp_path}))
    assert catalogue.find("acme-database", "1.0.0").title == "Acme"
    assert catalogue.find("acme", "1.10").source.endswith("new.yaml")
    assert [str(application) for application in catalogue.applications] == [
        "acme 1.10",
        "acme-database 1.0.0",
        "acme-web-app 1.0.0",
    ]
    assert {path.name for path in catalogue.problems} == {"broken.yaml", "twice.yaml"}
    with pytest.raises(InvalidInput, match=r"'acme 2': Unknown application requested; known versions: 1\.10; 2 "):
        catalogue.find("acme", "2")
    with pytest.raises(InvalidInput, match="known applications: acme, acme-database, acme-web-app"):
        catalogue.find("nope\n", "2")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        Catalogue([tmp_path / "gone"]).find("a", "1")


def test_whether_an_application_runs_once_or_on_every_node() -> None:
    application = read_application_file(WHOLE, "f")
    assert application.template
    assert not replace(application, invocation=()).template
