"""Directives that untrusted text may set: workflows of users, and applications from UCloud."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.allowance import ALLOWED
from slurm_adapter.core.directives import FREE, PROTECTED
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.translation.application import Parameter, Template, Word, Workflow
from slurm_adapter.translation.rendering import render

if TYPE_CHECKING:
    from tests.translation.cases import Case


@pytest.fixture
def case(case: Case) -> Case:
    """Return the same case, rendered without a child process, which is slow."""
    return replace(case, render_confined=render)


GPU = {"id": "gpu", "category": "example-compute", "provider": "example"}
"""16 processors, 64 GiB, 2 GPUs, at most 2 nodes. The other product has 1 processor and 2 GiB, at most 4 nodes."""

SITES = "{{ sbatch('array', '0-9') }}{{ sbatch('exclusive', true) }}{{ sbatch('mem', '0') }}run"


def with_workflow(case: Case, text: str, own: str = "true", **application: Any) -> dict[str, str | None]:
    """Translate a user's workflow after the site's own text, and return the directives."""
    workflow = {"type": "workflow", "specification": {"job": text, "language": "JINJA2"}}
    fields = application.pop("fields", {})
    found = case.with_template(own, **application).translate(parameters={"flow": workflow}, **fields)
    return {each.name: each.value for each in found.directives}


def by_ucloud(case: Case, text: str, **fields: Any) -> dict[str, str | None]:
    """Translate an application that came with the job."""
    found = case.with_template(text, trusted=False).translate(**fields)
    return {each.name: each.value for each in found.directives}


def refused(case: Case, text: str, **fields: Any) -> str:
    """Return the refusal of a text, which is the same for a workflow and for an application from UCloud."""
    with pytest.raises(InvalidInput) as workflow:
        with_workflow(case, text, fields=fields)
    with pytest.raises(InvalidInput) as application:
        by_ucloud(case, text, **fields)
    assert str(workflow.value) == str(application.value)
    return str(workflow.value)


@pytest.mark.parametrize("name", sorted(FREE - ALLOWED.keys()))
def test_directives_that_only_the_site_sets(case: Case, name: str) -> None:
    said = refused(case, f"{{{{ sbatch('{name}', '0-9') }}}}run")
    assert said.startswith(f"the job's text sets the directive '{name}'; text that the site did not write may set ")
    assert "cpus-per-task, distribution, " in said


@pytest.mark.parametrize(
    "name",
    [
        *sorted(PROTECTED),
        "excl",
        "exclus",
        "N",
        "-N4",
        "--exclusive",
        "mem ",
        " mem",
        "MEM",
        "mem=0 --uid",
        "hetjob",
        "",
    ],
)
def test_directives_that_nobody_sets(case: Case, name: str) -> None:
    assert "the application sets the directive" in refused(case, f"{{{{ sbatch({name!r}, '1') }}}}run")


@pytest.mark.parametrize(
    ("calls", "product", "said"),
    [
        ({"mem": "0"}, None, "the directive 'mem' to '0': must be a whole number of M, G or T"),
        ({"mem": "3G"}, None, "the directive 'mem' to 3G: this product has 2G a node"),
        ({"mem": "2049"}, None, "this product has 2G a node"),
        ({"mem": "1T"}, GPU, "this product has 64G a node"),
        ({"mem": "99999999999999G"}, GPU, "must be a whole number of M"),
        ({"mem": "1P"}, None, "must be a whole number of M"),
        ({"mem": "-1"}, None, "must be a whole number of M"),
        ({"mem": "1G --exclusive"}, None, "must be a whole number of M"),
        ({"mem": "0x10"}, None, "must be a whole number of M"),
        ({"mem": "\u0661G"}, None, "must be a whole number of M"),
        ({"mem": True}, None, "the directive 'mem' to ''"),
        ({"mem": ""}, None, "the directive 'mem' to ''"),
        ({"cpus-per-task": 2}, None, "requests 2 processors a node with cpus-per-task: this product has 1"),
        ({"cpus-per-task": 128}, GPU, "requests 128 processors a node with cpus-per-task: this product has 16"),
        ({"cpus-per-task": 0}, GPU, "must be a whole number"),
        ({"cpus-per-task": "1-16"}, GPU, "must be a whole number"),
        ({"cpus-per-task": 1.5}, GPU, "must be a whole number"),
        ({"cpus-per-task": "1e3"}, GPU, "must be a whole number"),
        ({"ntasks": 2}, GPU, "requests 32 processors with ntasks: this product has 16"),
        (
            {"ntasks": 17, "cpus-per-task": 1},
            GPU,
            "requests 17 processors with cpus-per-task, ntasks: this product has 16",
        ),
        ({"ntasks-per-node": 2}, GPU, "requests 32 processors a node with ntasks-per-node: this product has 16"),
        ({"ntasks-per-node": 17, "cpus-per-task": 1}, GPU, "requests 17 processors a node"),
        (
            {"ntasks-per-node": 8, "cpus-per-task": 2, "ntasks": 9},
            GPU,
            "requests 18 processors with cpus-per-task, ntasks, ntasks-per-node: this product has 16",
        ),
        ({"gpus-per-node": 1}, None, "requests 1 GPUs a node with gpus-per-node: this product has 0"),
        ({"gpus-per-node": 8}, GPU, "requests 8 GPUs a node with gpus-per-node: this product has 2"),
        ({"gpus-per-node": "h100:1"}, GPU, "must be a whole number"),
        ({"gpus-per-task": 3}, GPU, "requests 3 GPUs with gpus-per-task: this product has 2"),
        (
            {"gpus-per-task": 1, "ntasks": 4, "cpus-per-task": 1},
            GPU,
            "requests 4 GPUs with cpus-per-task, gpus-per-task, ntasks: this product has 2",
        ),
        ({"signal": "R:USR1@60"}, None, "the directive 'signal' to 'R:USR1@60': must be [B:]SIGNAL[@SECONDS]"),
        ({"signal": "BR:10"}, None, "must be [B:]SIGNAL"),
        ({"distribution": "arbitrary"}, None, "must be block, cyclic"),
        ({"no-requeue": "x"}, None, "must be nothing"),
    ],
)
def test_more_than_the_product(case: Case, calls: dict[str, Any], product: Any, said: str) -> None:
    text = "".join(f"{{{{ sbatch({name!r}, {value!r}) }}}}" for name, value in calls.items())
    fields = {"product": product} if product else {}
    assert said in refused(case, f"{text}run", **fields)


@pytest.mark.parametrize(
    ("calls", "fields"),
    [
        ({"mem": "2G"}, {}),
        ({"mem": 2048}, {}),
        ({"mem": "500M"}, {}),
        ({"cpus-per-task": 1, "ntasks": 4, "ntasks-per-node": 1}, {"replicas": 4}),
        ({"cpus-per-task": 4, "ntasks-per-node": 4.0, "ntasks": 8.0}, {"product": GPU, "replicas": 2}),
        ({"ntasks": 2}, {"product": GPU, "replicas": 2}),
        ({"gpus-per-task": 1, "ntasks": 2, "cpus-per-task": 8}, {"product": GPU}),
        ({"gpus-per-node": 2}, {"product": GPU}),
        ({"gpus-per-task": 0}, {}),
        ({"signal": "B:USR1@60"}, {}),
        ({"signal": "10"}, {}),
        ({"no-requeue": True}, {}),
        ({"distribution": "block:cyclic"}, {}),
        ({"distribution": "plane=4,NoPack"}, {}),
    ],
)
def test_within_the_product(case: Case, calls: dict[str, Any], fields: dict[str, Any]) -> None:
    text = "".join(f"{{{{ sbatch({name!r}, {value!r}) }}}}" for name, value in calls.items()) + "run"
    assert with_workflow(case, text, fields=fields) == by_ucloud(case, text, **fields)


def test_the_map_of_an_application_from_ucloud_is_limited_too(case: Case) -> None:
    for part in (Word("8"), Template("{{ 4 * 2 }}")):
        job = case.with_template("run", trusted=False, sbatch=(("cpus-per-task", part),))
        with pytest.raises(InvalidInput, match=r"requests 8 processors a node with .*: this product has 1"):
            job.translate()
    words = case.with_application(trusted=False, sbatch=(("exclusive", Word("")),))
    with pytest.raises(InvalidInput, match="the job's text sets the directive 'exclusive'"):
        words.translate()


def test_the_sites_own_text_sets_what_it_wants(case: Case) -> None:
    """In an invocation, in a map, and in a workflow of the application."""
    flow = Parameter("flow", "workflow", optional=True, default=Workflow(Template(SITES)))
    jobs = [case.with_template(SITES), case.with_template("true", parameters=(flow,))]
    for job in jobs:
        found = {each.name: each.value for each in job.translate().directives}
        assert (found["array"], found["exclusive"], found["mem"]) == ("0-9", None, "0")


def test_a_workflow_has_no_part_in_what_the_site_set(case: Case) -> None:
    found = with_workflow(case, "{{ sbatch('signal', 'USR1') }}run", own=SITES)
    assert (found["array"], found["mem"], found["signal"]) == ("0-9", "0", "USR1")
    for text in ("{{ sbatch('array', '0-99') }}", "{{ sbatch('exclusive', true) }}", "{{ sbatch('mem', '0') }}"):
        with pytest.raises(InvalidInput):
            with_workflow(case, text, own=SITES)


def test_tasks_of_a_workflow_count_with_the_gpus_of_the_sites_text(case: Case) -> None:
    with pytest.raises(InvalidInput, match=r"requests 16 GPUs with .*: this product has 2"):
        with_workflow(
            case,
            "{{ sbatch('ntasks', 16) }}{{ sbatch('cpus-per-task', 1) }}run",
            own="{{ sbatch('gpus-per-task', 1) }}true",
            fields={"product": GPU},
        )


def test_texts_keep_their_order_and_see_nothing_of_each_other(case: Case) -> None:
    workflow = {"type": "workflow", "specification": {"job": "{% set x = 1 %}second {{ x }}", "language": "JINJA2"}}
    script = case.with_template("first{% set x = 2 %}").translate(parameters={"flow": workflow}).script
    assert script.endswith("first\nsecond 1\n")
    with pytest.raises(InvalidInput, match="'y' is undefined"):
        with_workflow(case, "{{ y }}", own="{% set y = 1 %}true")


def test_interfaces_of_both_texts_are_one_jobs(case: Case) -> None:
    declare = "{{ dynamicInterface(0, 'WEB', 'pages', 8080) }}run"
    with pytest.raises(InvalidInput, match="stands twice for rank 0"):
        with_workflow(case, declare, own=declare)


@pytest.mark.parametrize("port", [1, 22, 80, 1023])
def test_no_interface_on_a_port_below_1024(case: Case, port: int) -> None:
    with pytest.raises(InvalidInput, match="must be an integer from 1024 to 65535"):
        with_workflow(case, f"{{{{ dynamicInterface(0, 'WEB', 'pages', {port}) }}}}run")
    found = case.with_application(web_port=port, vnc_port=port).translate()
    assert (found.web_port, found.vnc_port) == (None, None)
    assert any("there are no sessions with it" in note for note in found.notes)
    found = case.with_application(web_port=1024, vnc_port=5900).translate()
    assert (found.web_port, found.vnc_port) == (1024, 5900)
