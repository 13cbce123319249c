"""Every field of a specification is used, or refused with the reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.specification import Job, Owner
from slurm_adapter.local.render_process import render_confined
from slurm_adapter.local.template_folder import open_templates
from slurm_adapter.translation.application import EnvironmentVariable, Parameter, Template, Word, resolve_application
from slurm_adapter.translation.translate import JobContext, translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.core.config import Config
    from slurm_adapter.local.application_folder import Catalogue
    from tests.translation.cases import Case


def refuse(case: Case, **fields: Any) -> str:
    with pytest.raises(InvalidInput) as error:
        case.translate(**fields)
    return str(error.value)


@pytest.mark.scenario(21, 38)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"application": {"name": "other", "version": "1"}}, "application: 'other 1': but the job comes with"),
        ({"product": {"id": "example-compute", "category": "example-compute", "provider": "x"}}, "product.provider: "),
        (
            {"product": {"id": "big", "category": "example-compute", "provider": "example"}},
            "product: 'example-compute/big': is not a machine of this site; its machines are (category/id): ",
        ),
        ({"labels": {"A": "1", "a": "2"}}, "labels['a']: stands twice"),
        ({"labels": {"": "1"}}, "labels['']: a label's name must have 1 to 256 bytes"),
        ({"labels": {"x" * 257: "1"}}, "a label's name must have 1 to 256 bytes"),
        ({"labels": {"ucloud.dk/Init-Script": "rm"}}, "this label is not supported"),
        ({"hostname": "db"}, "hostname: 'db': must be empty"),
        ({"replicas": 0}, "replicas: 0: You must request at least 1 node"),
        ({"replicas": 5}, "replicas: 5: this machine allows at most 4"),
        ({"timeAllocation": {"hours": 0, "minutes": 0, "seconds": 0}}, "Time allocated for job is too short"),
        ({"timeAllocation": {"hours": 25}}, "timeAllocation: 90000 seconds: this machine allows at most 1-00:00:00"),
        ({"restartOnExit": True}, "restartOnExit: true: must be false"),
        ({"sshEnabled": True}, "sshEnabled: true: must be false"),
        ({"openedFile": "/999/x"}, "openedFile: '/999/x': drive '999' is not known here"),
        ({"resources": [{"type": "hologram"}]}, "resources[0]: unknown type of resource: 'hologram'"),
        ({"resources": [{"type": "text", "value": ""}]}, "resources[0]: text: a value of this type belongs"),
        ({"resources": [{"type": "network", "id": "1"}]}, "resources[0]: network: this site has no public IP"),
        ({"resources": [{"type": "ingress", "id": "1"}]}, "resources[0]: ingress: this site has no public links"),
        ({"resources": [{"type": "block_storage", "id": "1"}]}, "resources[0]: block_storage: this site has no block"),
        ({"resources": [{"type": "private_network", "id": "1"}]}, "resources[0]: private_network: this site has no"),
        ({"resources": [{"type": "license_server", "id": "1"}]}, "resources[0]: license_server: this site has no"),
        ({"resources": [{"type": "api_server", "token": "secret"}]}, "resources[0]: api_server: this site gives"),
        ({"resources": [{"type": "peer", "hostname": "a b", "jobId": "1"}]}, "resources[0].hostname: Invalid hostname"),
        ({"resources": [{"type": "file", "path": "/123/../x"}]}, "resources[0].path: '/123/../x'"),
        ({"resources": [{"type": "file", "path": "/123/x", "readOnly": True}]}, "resources[0].readOnly: true"),
        ({"resources": [{"type": "file", "path": "/123/x", "mountPath": "/work"}]}, "resources[0].mountPath: '/work'"),
        (
            {"resources": [{"type": "file", "path": "/123/a/x"}, {"type": "file", "path": "/hers/x"}]},
            "resources[1].path: '/hers/x': two files have the name 'x'",
        ),
    ],
)  # fmt: skip
def test_fields_that_are_refused(case: Case, fields: dict[str, Any], said: str) -> None:
    message = refuse(case, **fields)
    assert said in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": None, "resources": None, "timeAllocation": None, "openedFile": None, "sshEnabled": None},
        {"name": "x (1): ü", "allowDuplicateJob": True, "restartOnExit": False, "sshEnabled": False, "hostname": ""},
        {"resources": [{"type": "file", "path": "/123/x", "mountPath": "/shared/data/123/x"}]},
        {"resources": [{"type": "file", "path": "/archive/x", "readOnly": True}]},
    ],
)  # fmt: skip
def test_fields_that_are_accepted(case: Case, fields: dict[str, Any]) -> None:
    assert "acme-batch" in case.translate(**fields).script


@pytest.mark.parametrize(
    ("change", "fields", "said"),
    [
        ({"backend": "DOCKER"}, {}, "The application is not supported on this machine type: it has the type 'DOCKER'"),
        ({"backend": "VIRTUAL_MACHINE"}, {}, "only NATIVE is supported"),
        ({"ssh": "MANDATORY"}, {}, "sshEnabled"),
        ({"inference": "MANDATORY"}, {}, "needs an inference service"),
        ({"job_audit_log": True}, {}, "needs an audit log"),
        ({"multi_node": False}, {"replicas": 2}, "this application runs on one node only"),
        ({"folders": False}, {"resources": [{"type": "file", "path": "/123/x"}]}, "supports no additional files"),
        (
            {"job_linking": False},
            {"resources": [{"type": "peer", "hostname": "a", "jobId": "1"}]},
            "supports no additional peers",
        ),
        ({"sbatch": (("account", Word("root")),)}, {}, "the directive 'account', which comes from the site's machine"),
        ({"sbatch": (("mem", Word("1\n#SBATCH --uid=0")),)}, {}, "the directive 'mem'"),
        ({"sbatch": (("mem", EnvironmentVariable("X")),)}, {}, "Jinja or environment variables"),
        ({"environment": (("UCLOUD_JOB_ID", Word("1")),)}, {}, "'UCLOUD_JOB_ID', which is reserved or not a name"),
        ({"environment": (("SLURM_CONF", Word("1")),)}, {}, "'SLURM_CONF', which is reserved or not a name"),
        ({"environment": (("a b", Word("1")),)}, {}, "'a b', which is reserved or not a name"),
        ({"environment": (("A", EnvironmentVariable("$(id)")),)}, {}, "not a name of a variable"),
        ({"environment": (("A", Word("x" * 200_000)),)}, {}, "to more than 131071 bytes"),
        ({"required_modules": ("--force",)}, {}, "'--force' is not a name of an environment module"),
        ({"invocation": (Template(" \n"),)}, {}, "has no command"),
        ({"invocation": (Template("{{ nope }}"),)}, {}, "acme-batch.yaml: the application acme-batch"),
        ({"invocation": (Template("{{ sbatch('uid', 0) }}"),)}, {}, "the directive 'uid', which is the job's owner"),
        ({"invocation": (Template("{- applicationLoad -}"),), "load": (("gcc", "1"),)}, {}, "is not supported"),
        ({"invocation": (Template('x\n{- loadApplication("gcc", "1") -}', 5),)}, {}, "invocation, line 6: {- loadApp"),
        ({"invocation": (Template('{- versionResolver("strict") -}'),)}, {}, "is not supported"),
        ({"invocation": (Template("{- myPreamble -}"),)}, {}, "'{- myPreamble -}' is unknown"),
        ({"invocation": (Template("{{ script('x') }}"),)}, {}, "script() is not available here"),
        ({"parameters": (Parameter("srun", "text", optional=True),)}, {}, "a parameter must not have the name srun"),
        ({"invocation": (Template("echo {{ 'a\\r\\nb' | safe }}"),)}, {}, "CRLF"),
        ({"invocation": (Template("run\n#SBATCH --mem=1G"),)}, {}, "'#SBATCH --mem=1G' is after the first"),
    ],
)  # fmt: skip
def test_applications_that_are_refused(case: Case, change: dict[str, Any], fields: dict[str, Any], said: str) -> None:
    assert said in refuse(case.with_application(**change), **fields)


def test_an_application_may_write_another_script(case: Case) -> None:
    text = "cat >again.sbatch <<END\n#!/bin/sh\n#SBATCH --mem=1G\nEND\nsbatch again.sbatch"
    assert case.with_template(text).translate().script.endswith(f"{text}\n")


def test_nothing_to_load_loads_nothing(case: Case) -> None:
    script = case.with_template("{- applicationLoad -}{- applicationUnload -}run").translate().script
    assert script.endswith("names resolve.\nrun\n")


def test_directives_of_an_application(case: Case) -> None:
    sbatch = (("mem", Word("1G")), ("array", Template("1-{{ count }}")), ("hint", Template("{{ value }}")))
    found = case.with_template("{{ sbatch('mem', '2G') }}run", sbatch=sbatch).translate(
        parameters={"count": {"type": "integer", "value": 4}}
    )
    values = {directive.name: directive.value for directive in found.directives}
    assert values["mem"] == "2G"
    assert values["array"] == "1-4"
    assert "hint" not in values


@pytest.mark.scenario(32)
def test_a_jobs_name_never_reaches_its_script(case: Case) -> None:
    assert "marker" not in case.translate(name="marker", labels={"a": "marker"}).script


@pytest.mark.parametrize("name", ["create-4101.json", "create-4150.json"])
def test_jobs_as_ucloud_sends_them(
    name: str, wire: Callable[[str], bytes], config: Config, catalogue: Catalogue, golden: Callable[[str, str], None]
) -> None:
    job = Job.model_validate(json.loads(wire(name))["items"][0])
    assert job.status.resolved_application is not None
    resolved = resolve_application(job.status.resolved_application)
    for application in (resolved, catalogue.find(resolved.name, resolved.version)):
        context = JobContext(
            config=config,
            owner=job.owner,
            job_id=job.id,
            slurm_name=f"i1-ucloud-{job.id}",
            folder=f"/home/alice/ucloud-jobs/{job.id}",
            peers_file=job.id,
            after=(17,) if job.id == "4150" else (),
        )
        found = translate(
            job.specification,
            application,
            context,
            render_confined=render_confined,
            templates=open_templates(config.templates),
        )
        assert [(peer.hostname, peer.job_id) for peer in found.peers] == (
            [("database", "4101")] if job.id == "4150" else []
        )
        golden(f"{job.id}-{'resolved' if application is resolved else 'file'}.sbatch", found.script)


def test_a_job_of_the_older_generation(config: Config) -> None:
    """The example of UCloud's documentation, on a machine of this site."""
    parameter = {"optional": False, "defaultValue": None, "title": "", "description": ""}
    affixes = {
        "suffixGlobal": "", "prefixVariable": "", "suffixVariable": "",
        "isPrefixVariablePartOfArg": False, "isSuffixVariablePartOfArg": False,
    }  # fmt: skip
    application = {
        "metadata": {"name": "acme-batch", "version": "1.0.0", "title": "Acme batch", "website": None},
        "invocation": {
            "tool": {"name": "acme-batch", "version": "1.0.0", "tool": {"description": {
                "container": None, "backend": "NATIVE", "requiredModules": [], "supportedProviders": None}}},
            "invocation": [
                {"type": "word", "word": "acme-batch"},
                {"type": "var", "variableNames": ["debug"], "prefixGlobal": "--debug ", **affixes},
                {"type": "var", "variableNames": ["value"], "prefixGlobal": "", **affixes},
            ],
            "parameters": [
                {"type": "boolean", "name": "debug", "trueValue": "true", "falseValue": "false", **parameter},
                {"type": "text", "name": "value", **parameter},
            ],
            "vnc": None, "web": None, "ssh": None, "container": None, "environment": None, "fileExtensions": [],
            "allowAdditionalPeers": None, "allowMultiNode": False, "modules": None,
        },
    }  # fmt: skip
    job = {
        "id": "54112", "owner": {"createdBy": "user", "project": None}, "output": None, "permissions": None,
        "specification": {
            "application": {"name": "acme-batch", "version": "1.0.0"},
            "product": {"id": "example-compute", "category": "example-compute", "provider": "example"},
            "name": None, "replicas": 1, "allowDuplicateJob": False, "resources": None, "openedFile": None,
            "parameters": {
                "debug": {"type": "boolean", "value": True}, "value": {"type": "text", "value": "Hello, World!"},
            },
            "timeAllocation": {"hours": 1, "minutes": 0, "seconds": 0}, "restartOnExit": None, "sshEnabled": None,
        },
        "status": {"state": "IN_QUEUE", "resolvedApplication": application, "startedAt": None},
    }  # fmt: skip
    found = Job.model_validate(job)
    assert found.status.resolved_application is not None
    context = JobContext(
        config=config,
        owner=Owner(created_by="user"),
        job_id="54112",
        slurm_name="i1-ucloud-54112",
        folder="/home/user/54112",
        peers_file="54112",
    )
    script = translate(
        found.specification,
        resolve_application(found.status.resolved_application),
        context,
        render_confined=render_confined,
        templates=open_templates(config.templates),
    ).script
    assert script.endswith("\nacme-batch --debug true 'Hello, World!'\n")
    assert "--time=0-01:00:00\n" in script
