"""A translated job in sbatch and bash of a real cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.translation.application import Parameter, Variable, Word

if TYPE_CHECKING:
    from tests.sandbox_cluster import Cluster
    from tests.translation.cases import Case

pytestmark = pytest.mark.sandbox


@pytest.mark.scenario(31)
def test_every_text_arrives_byte_for_byte(case: Case, cluster: Cluster, weird_texts: tuple[str, ...]) -> None:
    """One job has all special texts and a folder with a special name, and runs as an ordinary account."""
    texts = list(weird_texts)
    names = [f"p{number}" for number in range(len(texts))]
    home = f"{cluster.shared}/home/alice"
    folder = cluster.ask("mktemp", "-d", f'{home}/odd it\'s "x" #y %j $z-XXXXXX')
    machine = case.config.machines["example-compute"]["example-compute"].model_copy(update={"partition": "main"})
    config = case.config.model_copy(update={"machines": {"example-compute": {"example-compute": machine}}})
    job = replace(case, config=config, folder=folder).with_application(
        parameters=tuple(Parameter(name, "text") for name in names),
        invocation=(Word("printf"), Word("%s\\0"), Variable(tuple(names))),
    )
    found = job.translate(parameters={n: {"type": "text", "value": t} for n, t in zip(names, texts, strict=True)})
    cluster.ask("mkdir", f"{folder}/node")
    batch = b'exec /bin/bash "$1/job.sbatch" payload\n'
    for name, content in (("node/batch.sh", batch), ("job.sbatch", found.script.encode())):
        cluster.ask("sh", "-c", 'cat > "$1"', "sh", f"{folder}/{name}", stdin=content)
    slurm_id = cluster.ask("sbatch", "--parsable", f"{folder}/job.sbatch")
    assert cluster.wait_end(slurm_id) == "COMPLETED"
    output = cluster.run("cat", f"{folder}/stdout.txt").stdout.decode()
    assert output.split("\0")[:-1] == texts
    assert cluster.ask("readlink", f"{folder}/owner") == slurm_id
    assert f"WorkDir={folder}\n" in cluster.ask("scontrol", "show", "job", slurm_id)
    cluster.ask("rm", "-r", folder)
