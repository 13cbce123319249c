"""Read UCloud's application files, `application: v2`.

A file is read from YAML's nodes, which have lines, so that each problem is reported with its line. There are errors,
which make the file unusable, and warnings. A warning is about a key that is ignored, or about one that UCloud's program
and its documentation read differently.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import yaml

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message
from slurm_adapter.translation.application import (
    Application,
    Option,
    Parameter,
    ParameterType,
    Part,
    Template,
    Workflow,
)
from slurm_adapter.translation.rendering import TEMPLATE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TYPES: dict[str, ParameterType] = {
    "File": "input_file",
    "Directory": "input_directory",
    "Integer": "integer",
    "FloatingPoint": "floating_point",
    "Boolean": "boolean",
    "Text": "text",
    "TextArea": "textarea",
    "Enumeration": "enumeration",
    "License": "license_server",
    "Job": "peer",
    "PublicIP": "network_ip",
    "Workflow": "workflow",
}
_BACKENDS = {"Native": "NATIVE", "Container": "DOCKER", "VirtualMachine": "VIRTUAL_MACHINE", "UCX": "UCX"}
_RESERVED_NAMES = TEMPLATE_NAMES | {"appVersion"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Error or warning about a file."""

    line: int
    message: str
    error: bool
    """True if the file cannot be used."""


def read_application_file(text: str, filename: str) -> Application:
    """Return the application in a file. Raise `InvalidInput` with file, line and key of every error."""
    application, problems = lint_application_file(text, filename)
    errors = [f"{filename}:{problem.line}: {problem.message}" for problem in problems if problem.error]
    if errors or application is None:
        raise InvalidInput("\n".join(errors))
    return application


def lint_application_file(text: str, filename: str) -> tuple[Application | None, tuple[Problem, ...]]:
    """Return the application, None if the file cannot be read at all, and all problems, sorted by line."""
    problems: list[Problem] = []
    application = None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problems.append(Problem(line, f"not YAML: {error.problem or error.context}", error=True))
    except yaml.YAMLError as error:
        problems.append(Problem(1, f"not YAML: {' '.join(str(error).split())}", error=True))
    except RecursionError:
        problems.append(Problem(1, "nested too deeply", error=True))
    else:
        try:
            application = _read(_Section(node, "the file", problems), filename)
        except RecursionError:
            problems.append(Problem(1, "nested too deeply", error=True))
    return application, tuple(sorted(problems, key=lambda problem: problem.line))


class _Section:
    """One mapping of the file. `finish` warns of keys that were not read."""

    def __init__(self, node: yaml.Node | None, path: str, problems: list[Problem]) -> None:
        self.path = path
        self.line = node.start_mark.line + 1 if node is not None else 1
        self.problems = problems
        self._entries: dict[str, yaml.Node] = {}
        self._lines: dict[str, int] = {}
        self._asked: set[str] = set()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self._add(key, value)
        elif node is not None or path == "the file":
            self.error(self.line, f"{path} must be a mapping of keys to values")

    def _add(self, key: yaml.Node, value: yaml.Node) -> None:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            self.error(line, f"{self.path}: a key must be a plain text; << is not supported")
        elif key.value in self._entries:
            self.error(line, f"{self._name(key.value)} stands twice")
        else:
            self._entries[key.value] = value
            self._lines[key.value] = line

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def _name(self, key: str) -> str:
        return key if self.path == "the file" else f"{self.path}.{key}"

    def error(self, line: int, message: str) -> None:
        self.problems.append(Problem(line, message, error=True))

    def warn(self, key: str, message: str) -> None:
        line = self._lines.get(key, self.line)
        self.problems.append(Problem(line, f"{self._name(key)}: {message}", error=False))

    def wrong(self, key: str, message: str) -> None:
        self.error(self._lines.get(key, self.line), f"{self._name(key)}: {message}")

    def node(self, key: str, *, required: bool = False) -> yaml.Node | None:
        self._asked.add(key)
        found = self._entries.get(key)
        if isinstance(found, yaml.ScalarNode) and found.tag == "tag:yaml.org,2002:null":
            found = None
        if found is None and required:
            self.error(self.line, f"{self._name(key)} is missing; it is required")
        return found

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        """Return a text. Numbers and dates are read as written, so that `1.10` stays `1.10`."""
        found = self.node(key, required=required)
        if found is None:
            return default
        if not isinstance(found, yaml.ScalarNode):
            self.wrong(key, "must be a text")
            return default
        if "\0" in found.value:
            self.wrong(key, "must not contain a NUL character")
        return cast("str", found.value)

    def template(self, key: str, *, required: bool = False) -> Template | None:
        found = self.node(key, required=required)
        if found is None:
            return None
        offset = 2 if isinstance(found, yaml.ScalarNode) and found.style in {"|", ">"} else 1
        return Template(self.text(key), found.start_mark.line + offset)

    def value(self, key: str) -> Any:
        """Return the YAML value of a scalar."""
        found = self.node(key)
        if found is None:
            return None
        if isinstance(found, yaml.ScalarNode):
            try:
                return yaml.SafeLoader("").construct_object(found)
            except (ValueError, yaml.YAMLError):
                pass
        self.wrong(key, "must be a text, a number, true or false")
        return None

    def flag(self, key: str) -> bool | None:
        found = self.value(key)
        if found is None or isinstance(found, bool):
            return found
        self.wrong(key, f"{for_message(found)}: must be true or false")
        return None

    def number(self, key: str, *, whole: bool) -> float | None:
        found = self.value(key)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int if whole else int | float) or not math.isfinite(found):
            self.wrong(key, f"{for_message(found)}: must be {'an integer' if whole else 'a number'}")
            return None
        if whole and not -(2**63) <= found < 2**63:
            self.wrong(key, "must fit 64 bits")
            return None
        return cast("float", found)

    def choice(self, key: str, allowed: Sequence[str], default: str, *, required: bool = False) -> str:
        found = self.text(key, default, required=required)
        if found not in allowed and (found or key in self._entries):
            self.wrong(key, f"{for_message(found)}: must be one of {', '.join(allowed)}")
            return default
        return found

    def section(self, key: str, *, required: bool = False) -> _Section:
        """Return a mapping; an empty one if there is none."""
        return _Section(self.node(key, required=required), self._name(key), self.problems)

    def sections(self, key: str) -> list[_Section]:
        """Return a list of mappings."""
        found = self.node(key)
        if found is None:
            return []
        if not isinstance(found, yaml.SequenceNode):
            self.wrong(key, "must be a list")
            return []
        return [_Section(item, f"{self._name(key)}[{n}]", self.problems) for n, item in enumerate(found.value)]

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        found = self.node(key)
        if found is None:
            return ()
        if isinstance(found, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in found.value):
            return tuple(item.value for item in found.value)
        self.wrong(key, "must be a list of texts")
        return ()

    def templates(self, key: str) -> tuple[tuple[str, Part], ...]:
        """Return a mapping of templates."""
        inner = self.section(key)
        found = [(name, inner.template(name)) for name in inner]
        inner.finish()
        return tuple((name, template) for name, template in found if template is not None)

    def finish(self) -> None:
        """Warn of every key that was not read."""
        for key in self._entries:
            if key not in self._asked:
                self.warn(key, "is ignored")


def _read(top: _Section, filename: str) -> Application:
    top.choice("application", ("v2",), "v2", required=True)
    name = top.text("name", required=True)
    version = top.text("version", required=True)
    for key, value in (("name", name), ("version", version)):
        if value and re.search(r"[\s\x00-\x1f\x7f]", value):
            top.wrong(key, f"{for_message(value)}: must not contain white space")
    for key in ("description", "license", "documentation"):
        top.text(key)
    software = top.section("software", required=True)
    kind = software.choice("type", tuple(_BACKENDS), "Native", required=True)
    load = tuple(_read_load(item) for item in software.sections("load"))
    if kind != "Native":
        software.text("image")
        software.warn("type", f"{kind} does not run on a Slurm cluster; only Native does")
    software.finish()
    invocation = top.template("invocation") or Template("")
    if top.node("ucx") is not None:
        top.wrong("ucx", "does not run on a Slurm cluster")
    web_port, _ = _read_port(top.section("web"), 80)
    vnc_port, vnc_password = _read_port(top.section("vnc"), 5900)
    application = Application(
        name=name,
        version=version,
        title=top.text("title") or name,
        source=filename,
        trusted=True,
        backend=_BACKENDS[kind],
        parameters=_read_parameters(top.section("parameters")),
        invocation=(invocation,),
        environment=top.templates("environment"),
        sbatch=top.templates("sbatch"),
        load=load,
        web_port=web_port,
        vnc_port=vnc_port,
        vnc_password=vnc_password,
        ssh=cast("Any", _read_mode(top.section("ssh"), ("Mandatory", "Optional", "Disabled"), "Disabled")),
        inference=cast("Any", _read_mode(top.section("inference"), ("None", "Optional", "Mandatory"), "None")),
        extensions=top.texts("extensions"),
    )
    application = _read_features(top.section("features"), application)
    if top.node("modules") is not None:
        top.warn("modules", "is ignored; load modules with `module load`")
    if not invocation.text.strip() and not any(item.type == "workflow" for item in application.parameters):
        top.error(top.line, "invocation is missing; only applications with a Workflow parameter need none")
    top.finish()
    return application


def _read_load(section: _Section) -> tuple[str, str]:
    found = section.text("name", required=True), section.text("version", required=True)
    section.finish()
    return found


def _read_mode(section: _Section, allowed: Sequence[str], default: str) -> str:
    mode = section.choice("mode", allowed, default)
    section.finish()
    return mode.upper()


def _read_port(section: _Section, default: int) -> tuple[int | None, str | None]:
    """Return port and password of an interface; both None if it is not enabled."""
    enabled = section.flag("enabled")
    port = section.number("port", whole=True)
    password = section.text("password") or None
    section.finish()
    if port is not None and not 1 <= port <= 65535:
        section.wrong("port", f"{for_message(port)}: must be 1 to 65535")
    return (default if port is None else int(port), password) if enabled else (None, None)


def _read_features(section: _Section, application: Application) -> Application:
    application = replace(
        application,
        multi_node=section.flag("multiNode") or False,
        links=section.flag("links"),
        ip_addresses=section.flag("ipAddresses"),
        folders=section.flag("folders"),
        job_linking=section.flag("jobLinking"),
        job_audit_log=section.flag("jobAuditLog"),
    )
    section.finish()
    return application


def _read_parameters(section: _Section, *, in_workflow: bool = False) -> tuple[Parameter, ...]:
    return tuple(_read_parameter(name, section, in_workflow=in_workflow) for name in section)


def _read_parameter(name: str, parameters: _Section, *, in_workflow: bool) -> Parameter:
    section = parameters.section(name, required=True)
    if name in _RESERVED_NAMES:
        parameters.wrong(name, "this name has another meaning in templates")
    elif not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        parameters.warn(name, "templates cannot use this name; use letters, digits and _")
    kind = section.choice("type", tuple(_TYPES), "Text", required=True)
    section.text("title")
    section.text("description")
    optional = section.flag("optional")
    if optional is None:
        section.warn("optional", "is missing: UCloud reads this as mandatory, but its documentation says optional")
    parameter = Parameter(name=name, type=_TYPES[kind], optional=bool(optional))
    match kind:
        case "Integer" | "FloatingPoint":
            parameter = _read_number(section, parameter, whole=kind == "Integer")
        case "Boolean":
            parameter = replace(parameter, default=section.flag("defaultValue"))
        case "Text" | "TextArea":
            parameter = replace(parameter, default=section.text("defaultValue") or None)
        case "Enumeration":
            parameter = _read_choices(section, parameter)
        case "Workflow" if in_workflow:  # UCloud has none, and an alias could nest it infinitely
            section.wrong("type", "a workflow cannot contain a workflow")
        case "Workflow":
            parameter = replace(parameter, default=_read_workflow(section))
    section.finish()
    return parameter


def _read_number(section: _Section, parameter: Parameter, *, whole: bool) -> Parameter:
    default, low, high, step = (section.number(key, whole=whole) for key in ("defaultValue", "min", "max", "step"))
    if low is not None and high is not None and low > high:
        section.wrong("min", f"{low} is above max, {high}")
    if default is not None and low is not None and default < low:
        section.wrong("defaultValue", f"{default} is below min, {low}")
    if default is not None and high is not None and default > high:
        section.wrong("defaultValue", f"{default} is above max, {high}")
    if step is not None and step <= 0:
        section.wrong("step", f"{step}: must be more than 0")
    return replace(parameter, default=default, minimum=low, maximum=high, step=step)


def _read_choices(section: _Section, parameter: Parameter) -> Parameter:
    options = []
    for item in section.sections("options"):
        value = item.text("value", required=True)
        options.append(Option(item.text("title") or value, value))
        item.finish()
    if not options:
        section.wrong("options", "must have at least one option")
    default = section.text("defaultValue") or None
    if default is not None and default not in [option.value for option in options]:
        section.wrong("defaultValue", f"{for_message(default)}: must be the value of one of the options")
    return replace(parameter, default=default, options=tuple(options))


def _read_workflow(section: _Section) -> Workflow | None:
    job = section.template("job")
    init = section.text("init")
    section.text("readme")
    parameters = _read_parameters(section.section("parameters"), in_workflow=True)
    return Workflow(job, init, parameters) if job is not None or init or parameters else None
