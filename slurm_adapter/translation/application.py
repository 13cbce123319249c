"""Applications: parameters, and the parts from which a command is made.

An `Application` comes from a job of UCloud (`resolve_application`), or from a file `application: v2` of UCloud
(`slurm_adapter.translation.application_file`). Both are handled alike, except that only files of the site's own folder
are `trusted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message, join_problems, list_problems
from slurm_adapter.core.specification import Line, Listed, NameAndVersion, Text, Wire

if TYPE_CHECKING:
    from collections.abc import Iterable

ParameterType = Literal[
    "input_file",
    "input_directory",
    "text",
    "textarea",
    "integer",
    "boolean",
    "enumeration",
    "floating_point",
    "peer",
    "license_server",
    "ingress",
    "network_ip",
    "workflow",
    "readme",
    "modules",
    "private_network",
]


@dataclass(frozen=True, slots=True)
class Option:
    """Option of an enumeration: users choose `name`, and the application gets `value`."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Workflow:
    """Job text of a workflow parameter, with its own parameters."""

    job: Template | None
    init: str = ""
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """Parameter of an application."""

    name: str
    type: ParameterType
    optional: bool = False
    default: Any = None
    """Plain value, `{"type": ..., "value": ...}`, `Workflow`, or None."""
    minimum: int | float | None = None
    maximum: int | float | None = None
    step: int | float | None = None
    true_value: str = "true"
    false_value: str = "false"
    options: tuple[Option, ...] = ()
    modules: tuple[str, ...] = ()
    """Modules to choose from; empty if all are allowed."""


@dataclass(frozen=True, slots=True)
class Word:
    """One argument."""

    text: str


@dataclass(frozen=True, slots=True)
class Variable:
    """Arguments from parameters. Parameters without a value give none."""

    names: tuple[str, ...]
    prefix_global: str = ""
    suffix_global: str = ""
    prefix_variable: str = ""
    suffix_variable: str = ""
    prefix_joined: bool = False
    suffix_joined: bool = False


@dataclass(frozen=True, slots=True)
class EnvironmentVariable:
    """Argument with the value that an environment variable has in the job."""

    name: str


@dataclass(frozen=True, slots=True)
class BoolFlag:
    """Argument that is present if a boolean parameter is true."""

    name: str
    flag: str


@dataclass(frozen=True, slots=True)
class Template:
    """Text in Jinja."""

    text: str
    line: int = 1
    """First line in its file, for messages."""


Part = Word | Variable | EnvironmentVariable | BoolFlag | Template


@dataclass(frozen=True, slots=True)
class Application:
    """Application from a file or from UCloud."""

    name: str
    version: str
    title: str
    source: str
    """Name of the file, or UCloud; for messages."""
    trusted: bool
    """True for files of the site's own folder, because an administrator has read their templates."""
    backend: str
    """Type of its software. Only `NATIVE` runs on a Slurm cluster."""
    parameters: tuple[Parameter, ...] = ()
    invocation: tuple[Part, ...] = ()
    environment: tuple[tuple[str, Part], ...] = ()
    sbatch: tuple[tuple[str, Part], ...] = ()
    """Directives, by long name."""
    load: tuple[tuple[str, str], ...] = ()
    """Name and version of software for `{- applicationLoad -}`."""
    required_modules: tuple[str, ...] = ()
    web_port: int | None = None
    vnc_port: int | None = None
    vnc_password: str | None = None
    """Password of the VNC server, for users with access to the job. The author of the application sets it."""
    ssh: Literal["DISABLED", "OPTIONAL", "MANDATORY"] = "DISABLED"
    inference: Literal["NONE", "OPTIONAL", "MANDATORY"] = "NONE"
    multi_node: bool | None = None
    """False if forbidden; None, here and in the next four, if not specified."""
    links: bool | None = None
    ip_addresses: bool | None = None
    folders: bool | None = None
    job_linking: bool | None = None
    job_audit_log: bool | None = None
    extensions: tuple[str, ...] = ()
    """File name extensions for "Open with"."""

    def __str__(self) -> str:
        """Return name and version."""
        return f"{self.name} {self.version}"

    @property
    def template(self) -> bool:
        """Return whether the invocation is Jinja, which runs once. A command runs on all nodes."""
        return any(isinstance(part, Template) for part in self.invocation)


class _WireOption(Wire):
    name: Text
    value: Text


class _WireModule(Wire):
    name: Text


class WireParameter(Wire):
    """Parameter as UCloud sends it, also in workflows."""

    type: ParameterType
    name: Text = Field(min_length=1)
    optional: bool = False
    default_value: Any = None
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    true_value: Text = ""
    false_value: Text = ""
    options: Listed[_WireOption] = ()
    supported_modules: Listed[_WireModule] = ()

    def freeze(self) -> Parameter:
        """Return the parameter."""
        return Parameter(
            name=self.name,
            type=self.type,
            optional=self.optional,
            default=None if self.default_value == "null" else self.default_value,
            minimum=self.min,
            maximum=self.max,
            step=self.step,
            true_value=self.true_value or "true",
            false_value=self.false_value or "false",
            options=tuple(Option(option.name, option.value) for option in self.options),
            modules=tuple(module.name for module in self.supported_modules),
        )


class _WirePart(Wire):
    type: Literal["word", "var", "env", "bool_flag", "jinja"]
    word: Text = ""
    variable_names: Listed[Text] = ()
    prefix_global: Text = ""
    suffix_global: Text = ""
    prefix_variable: Text = ""
    suffix_variable: Text = ""
    is_prefix_variable_part_of_arg: bool = False
    is_suffix_variable_part_of_arg: bool = False
    variable: Text = ""
    variable_name: Text = ""
    flag: Text = ""
    template: Text = ""

    def freeze(self) -> Part:
        match self.type:
            case "word":
                return Word(self.word)
            case "var":
                return Variable(
                    names=self.variable_names,
                    prefix_global=self.prefix_global.strip(),
                    suffix_global=self.suffix_global.strip(),
                    prefix_variable=self.prefix_variable.strip(),
                    suffix_variable=self.suffix_variable.strip(),
                    prefix_joined=self.is_prefix_variable_part_of_arg,
                    suffix_joined=self.is_suffix_variable_part_of_arg,
                )
            case "env":
                return EnvironmentVariable(self.variable)
            case "bool_flag":
                return BoolFlag(self.variable_name, self.flag.strip())
            case "jinja":
                return Template(self.template)


class _WireLoad(Wire):
    type: Text = "Native"
    applications: Listed[NameAndVersion] = ()


class _WireToolDescription(Wire):
    backend: Line = ""
    required_modules: Listed[Text] = ()
    load_instructions: _WireLoad = _WireLoad()


class _WireTool(Wire):
    description: _WireToolDescription = _WireToolDescription()


class _WireToolReference(Wire):
    tool: _WireTool = _WireTool()


class _WirePort(Wire):
    port: int = Field(default=0, ge=0, le=65535)
    password: Text | None = None


class _WireSsh(Wire):
    mode: Literal["DISABLED", "OPTIONAL", "MANDATORY"] = "DISABLED"


class _WireInference(Wire):
    mode: Text = ""


class _WireInvocation(Wire):
    tool: _WireToolReference = _WireToolReference()
    invocation: Listed[_WirePart] = ()
    parameters: Listed[WireParameter] = ()
    application_type: Line = "BATCH"
    web: _WirePort | None = None
    vnc: _WirePort | None = None
    ssh: _WireSsh = _WireSsh()
    inference: _WireInference = _WireInference()
    ucx: Any = None
    environment: dict[Text, _WirePart] = Field(default_factory=dict)
    sbatch: dict[Text, _WirePart] = Field(default_factory=dict)
    allow_additional_mounts: bool | None = None
    allow_additional_peers: bool | None = None
    allow_multi_node: bool | None = None
    allow_public_ip: bool | None = None
    allow_public_link: bool | None = None
    job_audit_log_is_enabled: bool | None = None
    file_extensions: Listed[Text] = ()


class _WireMetadata(Wire):
    name: Line = Field(min_length=1)
    version: Line = Field(min_length=1)
    title: Line = ""


class _WireApplication(Wire):
    metadata: _WireMetadata
    invocation: _WireInvocation


def resolve_application(resolved: dict[str, Any]) -> Application:
    """Return the application of a job, `status.resolvedApplication`. Raise `InvalidInput` that names wrong fields."""
    try:
        found = _WireApplication.model_validate(resolved)
    except ValidationError as error:
        raise InvalidInput(join_problems(list_problems(error, ("status", "resolvedApplication")))) from error
    invocation = found.invocation
    tool = invocation.tool.tool.description
    mode = invocation.inference.mode.upper()
    vnc = invocation.vnc if invocation.application_type == "VNC" else None
    return Application(
        name=found.metadata.name,
        version=found.metadata.version,
        title=found.metadata.title or found.metadata.name,
        source="UCloud",
        trusted=False,
        backend="UCX" if invocation.ucx is not None else tool.backend.upper(),
        parameters=freeze_parameters(invocation.parameters),
        invocation=tuple(part.freeze() for part in invocation.invocation),
        environment=tuple((name, part.freeze()) for name, part in invocation.environment.items()),
        sbatch=tuple((name, part.freeze()) for name, part in invocation.sbatch.items()),
        load=tuple((item.name, item.version) for item in tool.load_instructions.applications),
        required_modules=tool.required_modules,
        web_port=invocation.web.port if invocation.web and invocation.application_type == "WEB" else None,
        vnc_port=vnc.port if vnc else None,
        vnc_password=(vnc.password or None) if vnc else None,
        ssh=invocation.ssh.mode,
        inference="MANDATORY" if mode == "MANDATORY" else "OPTIONAL" if mode == "OPTIONAL" else "NONE",
        multi_node=invocation.allow_multi_node,
        links=invocation.allow_public_link,
        ip_addresses=invocation.allow_public_ip,
        folders=invocation.allow_additional_mounts,
        job_linking=invocation.allow_additional_peers,
        job_audit_log=invocation.job_audit_log_is_enabled,
        extensions=invocation.file_extensions,
    )


def freeze_parameters(parameters: Iterable[WireParameter]) -> tuple[Parameter, ...]:
    """Return parameters in order. Raise `InvalidInput` if two have the same name."""
    frozen: dict[str, Parameter] = {}
    for parameter in parameters:
        if parameter.name in frozen:
            raise InvalidInput(f"the application has two parameters named {for_message(parameter.name)}")
        frozen[parameter.name] = parameter.freeze()
    return tuple(frozen.values())
