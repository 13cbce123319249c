"""Directives: Slurm's quoting, what an application may set, and checks of scripts."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.core.directives import (
    FREE,
    PROTECTED,
    Directive,
    build_directives,
    check_override,
    check_replicas,
    lint_script,
    quote,
    read_value,
    time_limit,
)
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.specification import SimpleDuration

if TYPE_CHECKING:
    from slurm_adapter.core.config import Config
    from slurm_adapter.core.config_tables import Machine


@pytest.fixture
def machine(config: Config) -> Machine:
    return config.machines["example-compute"]["gpu"]


def scan(line: str) -> list[str]:
    """Return the words after `#SBATCH` by sbatch's grammar, which is not a shell's."""
    words: list[str] = []
    word: str | None = None
    quoted = ""
    characters = iter(line)
    for character in characters:
        if character == "\\":
            word = (word or "") + next(characters)
        elif quoted:
            word, quoted = (word or "", "") if character == quoted else ((word or "") + character, quoted)
        elif character in "\"'":
            word, quoted = word or "", character
        elif character == "#":
            break
        elif character.isspace():
            words += [word] if word is not None else []
            word = None
        else:
            word = (word or "") + character
    return words + ([word] if word is not None else [])


@pytest.mark.scenario(33)
@pytest.mark.edge_case(23)
@given(st.text(alphabet=st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"])))
def test_sbatch_reads_back_every_value(value: str) -> None:
    assert scan(str(Directive("comment", value))) == [f"--comment={value}"]


@pytest.mark.scenario(33)
@given(st.text())
def test_quoting_gives_one_line_or_a_message(value: str) -> None:
    with suppress(InvalidInput):
        assert "\n" not in quote(value)
        return
    assert set("\n\r\0") & set(value)


def test_a_machine_with_everything(machine: Machine) -> None:
    directives = build_directives(
        machine, slurm_name="t", folder='/home/a b/"x" %j', replicas=2, seconds=3660, after=(17, 18),
        trusted=[Directive("mem", "1G"), Directive("ntasks-per-node", "16"), Directive("requeue")],
    )  # fmt: skip
    assert [str(directive) for directive in directives] == [
        "--job-name=t",
        "--comment=t",
        "--partition=gpu",
        "--qos=fast",
        "--account=site",
        "--constraint=a100",
        "--nodes=2",
        "--cpus-per-task=16",
        "--mem=1G",
        "--gres=gpu:a100:2",
        "--exclusive",
        "--time=0-01:01:00",
        '--chdir="/home/a b/\\"x\\" %j"',
        '--output="/home/a b/\\"x\\" %%j/stdout.txt"',
        '--error="/home/a b/\\"x\\" %%j/stderr.txt"',
        "--open-mode=append",
        "--export=NONE",
        "--propagate=NONE",
        "--dependency=after:17:18",
        "--ntasks-per-node=16",
        "--requeue",
    ]


@pytest.mark.parametrize(
    ("folder", "logs"),
    [("/home/%u", "/home/%%u"), ("/home/DOM\\user", "/home/DOM\\\\user"), ("/home/DOM\\%u", "/home/DOM\\\\%u")],
)
def test_a_folder_with_a_backslash_or_a_percent_sign_is_the_same_to_slurm(
    machine: Machine, folder: str, logs: str
) -> None:
    """Account names may have a backslash: sbatch removes one in names of logs, and then replaces no %."""
    told = {
        each.name: each.value
        for each in build_directives(machine, slurm_name="t", folder=folder, replicas=1, seconds=60)
    }
    assert (told["chdir"], told["output"]) == (folder, f"{logs}/stdout.txt")


@pytest.mark.parametrize(
    ("hours", "minutes", "seconds", "expected"),
    [(0, 0, 1, 60), (0, 1, 0, 60), (0, 1, 1, 120), (0, 90, 30, 91 * 60), (4, 0, 0, 14400), (1, -30, 0, 1800)],
)
def test_time_is_whole_minutes_rounded_up(
    machine: Machine, hours: int, minutes: int, seconds: int, expected: int
) -> None:
    assert time_limit(SimpleDuration(hours=hours, minutes=minutes, seconds=seconds), machine, 60) == expected


@pytest.mark.edge_case(20)
def test_one_second_is_a_minute_and_never_no_limit_at_all(machine: Machine) -> None:
    seconds = time_limit(SimpleDuration(seconds=1), machine, 60)
    directives = build_directives(machine, slurm_name="t", folder="/f", replicas=1, seconds=seconds)
    assert [str(each) for each in directives if each.name == "time"] == ["--time=0-00:01:00"]


def test_no_time_means_the_configured_default_within_the_machines_limit(machine: Machine) -> None:
    assert time_limit(None, machine, 7200) == 7200
    assert time_limit(None, machine, 10**9) == machine.max_time


@pytest.mark.edge_case(20)
@pytest.mark.parametrize("seconds", [0, -1, -(10**15)])
def test_no_positive_time(machine: Machine, seconds: int) -> None:
    with pytest.raises(InvalidInput, match="Time allocated for job is too short"):
        time_limit(SimpleDuration(seconds=seconds), machine, 60)


@pytest.mark.parametrize("seconds", [4 * 3600 + 1, 10**15])
def test_more_time_than_the_machine_gives(machine: Machine, seconds: int) -> None:
    with pytest.raises(InvalidInput, match="at most 0-04:00:00"):
        time_limit(SimpleDuration(seconds=seconds), machine, 60)


@pytest.mark.parametrize(
    ("replicas", "multi_node", "said"),
    [(0, None, "at least 1 node"), (-1, True, "at least 1 node"), (3, True, "at most 2"), (2, False, "one node only")],
)
def test_replicas_that_are_refused(machine: Machine, replicas: int, *, multi_node: bool | None, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        check_replicas(replicas, machine, multi_node=multi_node)


@pytest.mark.parametrize("multi_node", [None, True])
def test_replicas_that_are_accepted(machine: Machine, *, multi_node: bool | None) -> None:
    check_replicas(2, machine, multi_node=multi_node)


@pytest.mark.scenario(34)
@pytest.mark.parametrize("name", ["account", "partition", "comment", "uid", "wrap", "dependency", "chdir", "time"])
def test_protected_directives(machine: Machine, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"the application sets the directive '{name}', which"):
        check_override(Directive(name, "x"), machine)


@pytest.mark.parametrize("name", ["accoun", "A", "--account", "Account", "job_name", "", "x\n", "mem "])
def test_only_whole_long_names_are_directives(machine: Machine, name: str) -> None:
    with pytest.raises(InvalidInput, match="not a long name of sbatch"):
        check_override(Directive(name, "x"), machine)


@pytest.mark.parametrize("name", ["constraint", "exclusive"])
def test_what_the_machine_table_sets_stays(machine: Machine, config: Config, name: str) -> None:
    with pytest.raises(InvalidInput, match="machine table"):
        check_override(Directive(name, "x"), machine)
    check_override(Directive(name, "x"), config.machines["example-compute"]["example-compute"])


@pytest.mark.edge_case(23)
@pytest.mark.parametrize("value", ["a\n#SBATCH --uid=0", "a\0", "a\rb", "x" * 5000])
def test_a_value_that_cannot_be_written(machine: Machine, value: str) -> None:
    with pytest.raises(InvalidInput, match="the directive 'mail-user'"):
        check_override(Directive("mail-user", value), machine)


def test_no_directive_is_both_free_and_protected() -> None:
    assert not FREE & PROTECTED.keys()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("mem", "4G", "--mem=4G"),
        ("ntasks", 4, "--ntasks=4"),
        ("ntasks", 4.0, "--ntasks=4"),
        ("requeue", True, "--requeue"),
        ("requeue", "", "--requeue"),
        ("requeue", False, None),
        ("mem", None, None),
        ("gpus-per-task", 0, None),
        ("gpus-per-task", -1, None),
        ("gpus-per-task", 2, "--gpus-per-task=2"),
    ],
)
def test_what_a_template_sets(name: str, value: Any, expected: str | None) -> None:
    found = read_value(name, value)
    assert (None if found is None else str(found)) == expected


@pytest.mark.edge_case(16)
def test_a_job_that_is_named_hetjob_is_a_plain_job(machine: Machine) -> None:
    directives = build_directives(machine, slurm_name="hetjob", folder="/f", replicas=1, seconds=60)
    text = "".join(f"#SBATCH {directive}\n" for directive in directives)
    assert "#SBATCH --job-name=hetjob\n" in text  # sbatch reads `-J hetjob` as the border of a component
    lint_script(f"#!/bin/bash\n{text}run\n")


GOOD = "#!/bin/bash\n#SBATCH --mem=4G\n# a comment\n\n#SBATCH --requeue\nrun\n"


def test_a_good_script() -> None:
    lint_script(GOOD)
    lint_script(GOOD + "cat <<END\n#SBATCH --mem=4G\n  #SBATCH --uid=0\nEND\nrun\n")
    lint_script(GOOD + "cat <<-'A' <<\"B\"\n#SBATCH --mem=4G\n\tA\n#SBATCH --mem=4G\nB\nrun\n")
    lint_script(GOOD + "run # not a directive: #SBATCH --mem=4G\n##SBATCH --mem=4G\n")


@pytest.mark.edge_case(23)
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "line 1 of the script is not #!/"),
        ("\n" + GOOD, "line 1 of the script is not #!/"),
        ("run\n", "line 1 of the script is not #!/"),
        (GOOD.replace("\n", "\r\n"), "line 1 of the script ends in CRLF"),
        (GOOD + "echo 'a\r\nb'\n", "line 7 of the script ends in CRLF"),
        (GOOD + "\0\n", "NUL"),
        (GOOD.rstrip("\n"), "last line"),
        (GOOD.replace("#SBATCH --mem", "  #SBATCH --mem"), "line 2 of the script: an indented #SBATCH"),
        (
            GOOD.replace("\n#SBATCH --requeue", "\nrun\n#SBATCH --requeue"),
            "line 6 of the script: '#SBATCH --requeue' is after",
        ),
        (
            GOOD + "cat <<END\nEND\n#SBATCH --mem=4G\n",
            "line 9 of the script: '#SBATCH --mem=4G' is after the first command",
        ),
        (
            GOOD + "cat <<<END\n#SBATCH --mem=4G\n",
            "line 8 of the script: '#SBATCH --mem=4G' is after the first command",
        ),
        (GOOD.replace("4G", "4 G"), "line 2 of the script: '#SBATCH --mem=4 G'"),
        (GOOD.replace("4G", "4G #x"), "line 2 of the script"),
        (GOOD.replace("--mem=4G", "hetjob"), "line 2 of the script: '#SBATCH hetjob'"),
        (GOOD.replace("4G", "'4G'"), "line 2 of the script"),
        (GOOD.replace("4G", '"4G'), "line 2 of the script"),
        (GOOD.replace("--mem=4G", "-J x"), "line 2 of the script"),
        (GOOD.replace("requeue", "mem=2G"), "line 5 of the script: the directive mem stands twice"),
    ],
)
def test_a_script_that_sbatch_would_refuse_or_misread(script: str, said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        lint_script(script)
    assert said in str(error.value)


@given(st.text())
def test_the_lint_gives_nothing_but_a_message(text: str) -> None:
    with pytest.raises(InvalidInput):
        lint_script("x" + text)
    with suppress(InvalidInput):
        lint_script(f"#!/bin/bash\n{text}")
