"""Whole scripts: compared with golden files, and run by a real bash with Slurm's variables only."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import InvalidConfig, InvalidInput
from slurm_adapter.core.interfaces import Interface
from slurm_adapter.core.states import FENCED
from slurm_adapter.local.template_folder import packaged_templates
from slurm_adapter.translation.application import EnvironmentVariable, Template, Variable, Word

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.translation.cases import Case

PEER = {"type": "peer", "hostname": "Database", "jobId": "4101"}


def everything(case: Case) -> dict[str, Any]:
    """Return a job that uses every field."""
    del case
    return {
        "product": {"id": "gpu", "category": "example-compute", "provider": "example"},
        "name": "it's\tmine".replace("\t", " "),
        "replicas": 2,
        "labels": {"Team": "x"},
        "parameters": {
            "value": {"type": "text", "value": "a'b"},
            "db": {"type": "peer", "hostname": "cache", "jobId": "4102"},
            "modules": {"type": "modules", "modules": ["mpi"]},
        },
        "resources": [PEER, {"type": "file", "path": "/123/my data"}, {"type": "file", "path": "/archive"}],
        "timeAllocation": {"hours": 1, "minutes": 30, "seconds": 1},
        "openedFile": "/hers/it's.txt",
    }


def test_a_job_that_asks_for_everything(case: Case, golden: Callable[[str, str], None]) -> None:
    rich = case.with_application(
        required_modules=("gcc/12",),
        environment=(
            ("COUNT", Template("{{ value }} of {{ ucloud.nodes }}")),
            ("WORD", Word("a b")),
            ("VALUE", Variable(("value",))),
            ("WHERE", EnvironmentVariable("HOME")),
        ),
        sbatch=(("ntasks-per-node", Word("1")), ("mail-user", Template("{{ value }}")), ("requeue", Word(""))),
        web_port=8080,
    )
    found = rich.translate(**everything(case))
    golden("everything.sbatch", found.script)
    golden("everything.settings", found.files["node/settings"].content.decode())
    golden("everything.peers", found.files["node/peers"].content.decode())
    assert found.labels == {"team": "x"}
    assert (found.seconds, found.replicas) == (91 * 60, 2)
    assert found.notes == (
        "/123/my data is at /home/alice/ucloud-jobs/4150/mounts/my data",
        "/archive is at /home/alice/ucloud-jobs/4150/mounts/archive",
        (
            "acme-batch 1.0.0 has a web interface on port 8080: other jobs reach it with a resource of type peer, "
            "and users with a session, if the site's gateway offers sessions"
        ),
    )
    assert [path.cluster for path in found.paths] == [
        "/shared/data/123/my data",
        "/archive",
        "/shared/data/hers/it's.txt",
    ]


def test_a_template(case: Case, golden: Callable[[str, str], None]) -> None:
    text = (
        "{- systemLoad -}\n{{ sbatch('ntasks-per-node', ucloud.machine.cpu) }}{{ sbatch('gpus-per-task', 0) }}\n"
        "{{ srun() }} {{ value | option('--value=') }} {{ ucloud.machine.nodes }} {{ ucloud.application.name }}\n"
        "{- systemUnload -}\n"
    )
    parameters = {"value": {"type": "text", "value": "a b"}, "modules": {"type": "modules", "modules": ["mpi"]}}
    golden("template.sbatch", case.with_template(text).translate(replicas=2, parameters=parameters).script)


def test_further_interfaces_are_on_ranks_that_the_job_has(case: Case) -> None:
    template = case.with_template("{{ dynamicInterface(1, 'WEB', 'b', 8081) }}sleep 5\n")
    found = template.translate(replicas=2)
    assert found.interfaces == (Interface(1, "WEB", "b", 8081),)
    assert 'Target: {"rank":1,"type":"WEB","target":"b","port":8081,"defaultName":null}' in found.notes
    with pytest.raises(InvalidInput, match=r"dynamicInterface\(\): rank: 1: the job has the ranks 0 to 0"):
        template.translate(replicas=1)


@pytest.mark.parametrize("name", ["acme-database", "acme-web-app"])
def test_the_shipped_applications(case: Case, name: str, golden: Callable[[str, str], None], catalogue: Any) -> None:
    given: dict[str, Any] = {"resources": [PEER]}
    if name == "acme-database":
        given = {"parameters": {"dataStore": {"type": "file", "path": "/123/acme-database"}}}
    golden(f"{name}.sbatch", replace(case, application=catalogue.find(name, "1.0.0")).translate(**given).script)


@pytest.mark.scenario(36)
def test_the_same_job_is_the_same_bytes(case: Case) -> None:
    assert case.translate(**everything(case)) == case.translate(**everything(case))


def test_only_the_file_of_peers_holds_a_peers_name(case: Case) -> None:
    found = case.translate(resources=[PEER])
    assert found.files.pop("node/peers").content == b"4101 database\n"
    assert not [name for name, file in found.files.items() if b"atabase" in file.content]
    assert "names=yes\n" in found.files["node/settings"].content.decode()


@pytest.mark.parametrize(
    ("fields", "peers", "expected"),
    [
        ({}, {}, {"names": "no", "replicate": "no", "view": "/shared/ucloud/peers/4150", "cpus": "1", "wait": "600"}),
        ({}, {"always": True, "allow_env": True}, {"names": "yes", "allow_env": "yes"}),
        ({}, {"private": True, "wait": 5}, {"view": "/home/alice/ucloud-jobs/4150/hosts", "wait": "5"}),
        ({}, {"methods": ("bwrap", "unshare")}, {"methods": "bwrap unshare"}),
        ({}, {"address": "{node}-ib0"}, {"address": "{node}-ib0"}),
        ({"replicas": 2}, {}, {"names": "yes", "replicate": "yes"}),
        ({"timeAllocation": {"seconds": 61}}, {}, {"time_limit": "120"}),
    ],
)  # fmt: skip
def test_settings(case: Case, fields: dict[str, Any], peers: dict[str, Any], expected: dict[str, str]) -> None:
    config = case.config.model_copy(update={"peers": case.config.peers.model_copy(update=peers)})
    text = replace(case, config=config).translate(**fields).files["node/settings"].content.decode()
    found = dict(line.split("=", 1) for line in text.splitlines())
    assert {name: found[name] for name in expected} == expected
    assert {"format": "1", "job_id": "4150"}.items() <= found.items()


def test_a_template_runs_once_and_its_processors_are_the_applications_own(case: Case) -> None:
    found = case.with_template("{{ sbatch('cpus-per-task', 1) }}run").translate(
        replicas=2, product={"id": "gpu", "category": "example-compute", "provider": "example"}
    )
    text = found.files["node/settings"].content.decode()
    assert "replicate=no\n" in text
    assert "cpus=1\n" in text


def test_files_and_their_modes(case: Case) -> None:
    files = case.translate(resources=[PEER]).files
    assert {name: file.mode for name, file in files.items()} == {
        "job.sbatch": 0o700,
        "node/batch.sh": 0o700,
        "node/join.sh": 0o700,
        "node/holder.sh": 0o700,
        "node/srun": 0o700,
        "node/settings": 0o600,
        "node/peers": 0o600,
    }


def test_a_sites_own_template_goes_first(case: Case, tmp_path: Path) -> None:
    (tmp_path / "job.sbatch.j2").write_text("#!/bin/sh\n{{ payload }}\n")
    config = case.config.model_copy(update={"templates": tmp_path})
    assert replace(case, config=config).translate().script == "#!/bin/sh\nacme-batch\n"


@pytest.mark.parametrize("text", ["{% if %}", "{{ nope }}", "{{ payload.__class__ }}"])
def test_an_error_in_a_sites_template_is_the_sites(case: Case, tmp_path: Path, text: str) -> None:
    (tmp_path / "job.sbatch.j2").write_text(f"#!/bin/sh\n{text}\n")
    config = case.config.model_copy(update={"templates": tmp_path})
    with pytest.raises(InvalidConfig, match=r"job\.sbatch\.j2"):
        replace(case, config=config).translate()


@pytest.mark.edge_case(23)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n#!/bin/sh\n", "line 1 of the script is not"),
        ("#!/bin/sh\n  #SBATCH --mem=1G\n{{ payload }}\n", "line 2 of the script: an indented #SBATCH"),
        (
            "#!/bin/sh\n{{ payload }}\n#SBATCH --mem=1G\n",
            "line 3 of the script: '#SBATCH --mem=1G' is after the first command",
        ),
        ("#!/bin/sh\n#SBATCH --comment=a b\n{{ payload }}\n", "line 2 of the script: '#SBATCH --comment=a b'"),
    ],
)
def test_a_sites_template_that_sbatch_would_misread(case: Case, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "job.sbatch.j2").write_bytes(text.encode())
    config = case.config.model_copy(update={"templates": tmp_path})
    with pytest.raises(InvalidInput, match=said):
        replace(case, config=config).translate()


@pytest.mark.edge_case(23)
def test_a_sites_template_with_crlf_gives_a_script_without(case: Case, tmp_path: Path) -> None:
    (tmp_path / "job.sbatch.j2").write_bytes(b"#!/bin/sh\r\n{{ payload }}\r\n")
    config = case.config.model_copy(update={"templates": tmp_path})
    assert replace(case, config=config).translate().script == "#!/bin/sh\nacme-batch\n"


def test_templates_are_beside_the_package_or_inside_it() -> None:
    assert (packaged_templates() / "job.sbatch.j2").is_file()


@pytest.fixture
def here(case: Case, tmp_path: Path) -> Case:
    """A job's folder on this machine, and an application that prints its arguments."""
    folder = tmp_path / 'it\'s a "folder" $x'
    (folder / "node").mkdir(parents=True)
    (folder / "node/batch.sh").write_text('exec /bin/bash "$1/job.sbatch" payload\n')
    words = (Word("printf"), Word("%s\\0"), Variable(("value",)))
    return replace(case.with_application(invocation=words), folder=str(folder))


def start(case: Case, slurm_id: str = "17", *, environment: dict[str, str] | None = None, **fields: Any) -> Any:
    """Run the script as slurmd does."""
    path = Path(case.folder, "job.sbatch")
    if not path.exists():
        path.write_bytes(case.translate(**fields).script.encode())
    own = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": slurm_id, **(environment or {})}
    return subprocess.run(["bash", path], capture_output=True, check=False, env=own)


@pytest.mark.scenario(31)
@pytest.mark.edge_case(23)
def test_every_text_arrives_byte_for_byte(here: Case, weird: str, tmp_path: Path) -> None:
    done = start(here, parameters={"value": {"type": "text", "value": weird}})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{weird}\0"
    assert Path(here.folder, "owner").readlink() == Path("17")
    assert [path.name for path in tmp_path.rglob("*pwned*")] == []


@pytest.mark.edge_case(24)
def test_the_environment_arrives_byte_for_byte(here: Case, weird: str) -> None:
    shows = here.with_application(
        invocation=tuple(map(Word, ("printenv", "-0", "TEXT", "UCLOUD_JOB_ID", "UCLOUD_DIR", "SLURM_EXPORT_ENV"))),
        environment=(("TEXT", Template("{{ value }}")),),
    )
    done = start(shows, parameters={"value": {"type": "text", "value": weird}})
    assert done.stdout.decode().split("\0") == [weird, "4150", f"{here.folder}/ucloud/0", "ALL", ""]


def test_the_applications_environment_does_not_reach_the_batch_script(here: Case) -> None:
    Path(here.folder, "node/batch.sh").write_text('echo "${LD_PRELOAD-none} $UCLOUD_JOB_ID"\n')
    assert start(here.with_application(environment=(("LD_PRELOAD", Word("x")),))).stdout == b"none 4150\n"


def test_the_fence_lets_one_slurm_job_run(here: Case) -> None:
    assert start(here).stdout == b"\0"
    loser = start(here, "18")
    assert (loser.returncode, loser.stdout) == (FENCED, b"")
    assert loser.stderr.decode() == "slurm-adapter: 17 holds this job's folder; Slurm job 18 runs nothing\n"
    assert start(here).stdout == b"\0"  # a requeue


def test_the_tasks_of_an_array_share_the_fence(here: Case) -> None:
    for task in ("20", "21"):
        assert start(here, task, environment={"SLURM_ARRAY_JOB_ID": "20"}).stdout == b"\0"
    assert start(here, "22").stdout == b""


@pytest.mark.parametrize("target", ["closed", "cancelled", "/", "node"])
def test_a_job_that_is_over_runs_nothing(here: Case, target: str) -> None:
    Path(here.folder, "owner").symlink_to(target)
    done = start(here)
    assert (done.returncode, done.stdout) == (FENCED, b"")
    assert done.stderr.count(b"\n") == 1


def test_without_its_folder_nothing_runs(here: Case, tmp_path: Path) -> None:
    gone = replace(here, folder=str(tmp_path / "gone"))
    done = subprocess.run(
        ["bash"], input=gone.translate().script.encode(), capture_output=True, check=False,
        env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "17"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (66, b"")
    assert done.stderr.count(b"\n") == 1


def test_an_owner_that_is_no_link_fails_closed(here: Case) -> None:
    Path(here.folder, "owner").mkdir()
    done = start(here)
    assert (done.returncode, done.stdout) == (1, b"")


def test_without_slurm_nothing_runs(here: Case) -> None:
    done = start(here, "")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"runs under sbatch only" in done.stderr


def test_without_its_node_files_nothing_runs(here: Case) -> None:
    Path(here.folder, "node/batch.sh").unlink()
    done = start(here)
    assert done.returncode != 0
    assert done.stdout == b""


def test_files_are_linked_by_their_names(here: Case) -> None:
    done = start(here, resources=[{"type": "file", "path": "/123/a 'b\n"}, {"type": "file", "path": "/archive"}])
    assert done.returncode == 0
    mounts = Path(here.folder, "mounts")
    assert {link.name: str(link.readlink()) for link in mounts.iterdir()} == {
        "a 'b\n": "/shared/data/123/a 'b\n",
        "archive": "/archive",
    }


def test_modules_are_loaded_before_the_application_and_must_load(here: Case) -> None:
    module = Path(here.folder, "bin/module")
    module.parent.mkdir()
    module.write_text('#!/bin/sh\necho "$*"\n[ "$2" != bad ]\n')
    module.chmod(0o700)
    path = {"PATH": f"{here.folder}/bin:{os.environ['PATH']}"}
    modules = here.with_application(required_modules=("gcc/12",), invocation=(Word("echo"), Word("run")))
    assert start(modules, environment=path).stdout == b"purge\nload gcc/12\nrun\n"
    Path(here.folder, "job.sbatch").unlink()
    failed = start(modules.with_application(required_modules=("bad",)), environment=path)
    assert (failed.returncode, failed.stdout) == (1, b"purge\nload bad\n")
