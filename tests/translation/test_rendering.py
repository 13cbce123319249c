"""Jinja in its sandbox: its functions, quoting, and what templates cannot use."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.interfaces import Interface
from slurm_adapter.local.render_process import CPU_SECONDS, ConfinedRenderer, render_confined
from slurm_adapter.translation.rendering import Source, Task, render

if TYPE_CHECKING:
    from collections.abc import Iterator


def task(text: str, **variables: Any) -> Task:
    return Task(variables=variables, safe={"_load": "a; b"}, srun='srun -N "$N"', body=(Source(text, "app", 10),))


def words(shell: str) -> list[str]:
    """Return the words that bash reads from a line of arguments."""
    script = f"printf '%s\\0' {shell}\n".encode()
    done = subprocess.run(["bash"], input=script, capture_output=True, check=True, env={})
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ s }}", "'a b'"),
        ("{{ i }} {{ f }} {{ t }} {{ g }}", "5 1 true 0.25"),
        ("x{{ n }}y", "xy"),
        ("{{ s | safe }} {{ s | e }} {{ s | e | e }}", "a b 'a b' 'a b'"),
        ("{{ _load }} {{ srun() }} x", 'a; b srun -N "$N" x'),
        ("{{ t | flag('--v') }}{{ n | flag('--v') }}{{ n | flag('--v', '--no v') }}", "--v'--no v'"),
        ("{{ s | option('--d') }} {{ s | option('--d=') }} {{ s | option('-d', false) }}",
         "--d 'a b' '--d=a b' '-da b'"),
        ("{{ s | option('--d=', true) }}|{{ n | option('--d') }}|", "--d= 'a b'||"),
        ("{{ ternary(t, s, 1) }} {{ ternary(n, s, 1) }}", "'a b' 1"),
        ("{{ s is match('a.b') }} {{ s is match('a') }} {{ s is search('B', ignorecase=true) }}", "true false true"),
        ("{{ 'x\\na' is match('x') }} {{ 'x\\na' is search('^a$', multiline=true) }}", "false true"),
        ("{{ ['x', s] | join(',') }} {{ s | upper }} {{ s ~ 1 }}", "'x,a b' 'A B' 'a b1'"),
        ("{% macro m(x) %}--x {{ x }}{% endmacro %}{{ m(s) }}", "--x 'a b'"),
        ("{% set q %}-q {{ s }}{% endset %}{{ q }} {{ q | upper }}", "-q 'a b' '-Q '\"'\"'A B'\"'\"''"),
        ("{% for c in s if c != ' ' %}{{ loop.index }}{{ c }}{% if not loop.last %};{% endif %}{% endfor %}", "1a;2b"),
        ("{% do sbatch('mem', '4G') %}x{{ sbatch('requeue') }}", "x"),
        ("{{ {'a': [1]} | tojson }}", "'{\"a\": [1]}'"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("line\n\n  {{ i }}\n", "line\n\n  5\n"),
    ],
)  # fmt: skip
def test_vocabulary(text: str, expected: str) -> None:
    found = render(task(text, s="a b", i=5, f=1.0, g=0.25, t=True, n=None))
    assert found.body == expected


@pytest.mark.parametrize("run", [render, render_confined])
def test_further_interfaces_are_declared_and_print_nothing(run: Any) -> None:
    text = """{% for i in range(2) %}{{ dynamicInterface(i, "WEB", "App " ~ i ~ " 'æ'", 7681 + i) }}{% endfor %}x{% do
    dynamicInterface(rank | default(0), 'VNC', 'desk', port) %}"""
    found = run(task(text, port=5900))
    assert found.body == "x"
    assert found.interfaces == (
        Interface(0, "WEB", "App 0 'æ'", 7681),
        Interface(1, "WEB", "App 1 'æ'", 7682),
        Interface(0, "VNC", "desk", 5900),
    )
    assert [interface.status for interface in found.interfaces][0::2] == [
        """Target: {"rank":0,"type":"WEB","target":"App 0 'æ'","port":7681,"defaultName":null}""",
        """Target: {"rank":0,"type":"VNC","target":"desk","port":5900,"defaultName":null}""",
    ]


def test_every_text_is_one_word_of_bash(weird: str) -> None:
    body = render(task("{{ w }} {{ w | option('-o') }} {{ w | option('--o=') }}", w=weird)).body
    assert words(body) == [weird, "-o", weird, f"--o={weird}"]
    assert "\r\n" not in body


def test_directives_and_plain_values_are_not_quoted() -> None:
    found = render(
        Task(
            variables={"n": 3, "s": "a b", "none": None},
            body=(Source("{{ sbatch('ntasks', n) }}{{ sbatch('mem', s) }}", "app"),),
            environment={"COUNT": Source("{{ s }}-{{ n }}", "env"), "NONE": Source("{{ none }}", "env")},
            sbatch={"array": Source("1-{{ n }}", "sbatch")},
        )
    )
    assert found.environment == {"COUNT": "a b-3", "NONE": ""}
    assert found.sbatch == {"array": "1-3"}
    assert found.calls == (("ntasks", 3), ("mem", "a b"))


def test_a_child_renders_the_same() -> None:
    whole = task("{{ w }} {{ sbatch('mem', 1.5) }}{{ sbatch('x', none) }} {{ _load }}", w="a\r\n'b' ü\ud7ff", n=2**62)
    assert render_confined(whole) == render(whole)


@pytest.fixture(scope="module")
def child() -> Iterator[ConfinedRenderer]:
    with ConfinedRenderer() as renderer:
        yield renderer


@pytest.mark.scenario(35)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\n{{ nope }}", "app, line 12: 'nope' is undefined"),
        ("{{ ''.__class__ }}", "app, line 10: access to attribute '__class__'"),
        ("{{ ''['__class__'] }}", "app, line 10: "),
        ("{{ sbatch.__globals__ }}", "app, line 10: access to attribute '__globals__'"),
        ("{{ '{0.__class__}'.format(1) }}", "app, line 10: access to attribute '__class__'"),
        ("{{ ''|attr('__class__') }}", "app, line 10: "),
        ("{{ self.__init__.__globals__ }}", "app, line 10: "),
        ("\n{% include '/etc/passwd' %}", "app, line 11: include, import and extends are not available"),
        ("{% import 'x' as x %}", "app, line 10: include, import and extends are not available"),
        ("{% extends 'x' %}", "app, line 10: include, import and extends are not available"),
        ("{% if %}", "app, line 10: Expected an expression"),
        ("\n{{ 1 / 0 }}", "app, line 11: division by zero"),
        ("{{ [1] }}", "a value of type list cannot be printed"),
        ("{{ srun }}", "a value of type function cannot be printed"),
        ("{{ sbatch('mem', [1]) }}", "a value of type list cannot be printed"),
        ("{% for i in range(1001) %}{{ sbatch('mem', '1M') }}{% endfor %}", "sbatch(): more than 1000 calls"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ script('/bin/sh') }}", "script() is not available here"),
        ("{{ dynamicInterface(-1, 'WEB', 'x', 8080) }}", "app, line 10: dynamicInterface(): rank: -1: must be"),
        ("{{ dynamicInterface(true, 'WEB', 'x', 8080) }}", "dynamicInterface(): rank: True: must be"),
        ("{{ dynamicInterface(0, 'web', 'x', 8080) }}", "dynamicInterface(): type: 'web': must be WEB or VNC"),
        ("{{ dynamicInterface(0, 'WEB', '', 8080) }}", "dynamicInterface(): target: '': must be"),
        ("{{ dynamicInterface(0, 'WEB', 'x\\ny', 8080) }}", "dynamicInterface(): target: "),
        ("{{ dynamicInterface(0, 'WEB', 'x' * 101, 8080) }}", "dynamicInterface(): target: "),
        ("{{ dynamicInterface(0, 'WEB', 'x', 0) }}", "dynamicInterface(): port: 0: must be"),
        ("{{ dynamicInterface(0, 'WEB', 'x', 65536) }}", "dynamicInterface(): port: 65536: must be"),
        ("{{ dynamicInterface(0, 'WEB', 'x', '80') }}", "dynamicInterface(): port: '80': must be"),
        ("{{ dynamicInterface(0, 'WEB', 'x', nope) }}", "'nope' is undefined"),
        (
            "{{ dynamicInterface(0, 'WEB', 'x', 8080) }}\n{{ dynamicInterface(0, 'VNC', 'x', 8081) }}",
            "line 11: dynamicI",
        ),
        ("{% for i in range(101) %}{{ dynamicInterface(i, 'WEB', 'x', 8080) }}{% endfor %}", "at most 100"),
        ("{{ dynamicInterface }}", "a value of type function cannot be printed"),
        ("{{ cfg.x }}", "'cfg' is undefined"),
        ("{{ range(10 ** 9) }}", "Range too big"),
        ("{{ 'a' * 10 ** 9 }}", "a repetition is longer"),
        ("{{ [0] * 10 ** 9 }}", "a repetition is longer"),
        ("{{ 2 ** (10 ** 9) }}", "a power is greater than 1000"),
        ("{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", "gives more than 1048576 characters"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ 'a' is match('(') }}", "app, line 10: "),
        ("{{ 5 is match('5') }}", "app, line 10: "),
        ("{{ none is match('5') }}", "app, line 10: "),
    ],
)
def test_an_error_names_the_template_and_the_line(child: ConfinedRenderer, text: str, said: str) -> None:
    for run in (render, child.render):
        with pytest.raises(InvalidInput) as error:
            run(task(text))
        assert said in str(error.value)
        assert str(error.value).isprintable()


@pytest.mark.scenario(35)
@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' | center(10 ** 10) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ],
)
def test_a_child_that_needs_too_much_memory_is_ended(text: str) -> None:
    with pytest.raises(InvalidInput) as error:
        render_confined(task(text))
    assert "or too much memory" in str(error.value) or "MemoryError" in str(error.value)


@pytest.mark.scenario(35)
def test_one_child_serves_many_jobs_each_with_the_whole_of_the_limits() -> None:
    burns = "{% for i in range(99999) %}{% for j in range(2) %}{% endfor %}{% endfor %}{{ n }}"
    with ConfinedRenderer() as renderer:
        assert [renderer.render(task(burns, n=number)).body for number in range(15)] == [str(n) for n in range(15)]
        with pytest.raises(InvalidInput, match="'nope' is undefined"):
            renderer.render(task("{{ nope }}"))
        with pytest.raises(InvalidInput, match=f"takes more than {CPU_SECONDS} seconds"):
            renderer.render(task("{{ ('a' * 40) is match('(a+)+b') }}"))
        assert renderer.render(task("{% set x = 1 %}{{ x }}")).body == "1"
        with pytest.raises(InvalidInput, match="'x' is undefined"):
            renderer.render(task("{{ x }}"))


def test_a_child_has_nothing_of_this_process() -> None:
    assert render_confined(task("{{ x | default('nothing') }}")).body == "nothing"
