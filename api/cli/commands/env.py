from __future__ import annotations

import re
from pathlib import Path

import click

from api.cli.env_file import nearest_spelling, spelling
from api.cli.invocation import Invocation, api_command
from api.cli.references import get_project
from api.cli.standard_streams import read_input
from api.client.errors import ClientError, ExitCode
from api.client.private_file import write_private
from schemas.projects import DevelopmentEnvironmentResource, SetVariableRequest

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_PULLED = "# Written by `cloudify env pull`"
_TARGETS = ("production", "preview", "development")
_STAGES = ("install", "build")

_project_option = click.option("--project", metavar="PROJECT", help="Id, slug or name; default: the linked project.")


@click.group()
def env() -> None:
    """Environment variables of a project's builds. Values are stored encrypted; only `pull` shows some."""


@env.command(name="ls")
@_project_option
@api_command
def list_variables(invocation: Invocation, project: str | None) -> None:
    """List names, targets, and which commands see the values."""
    variables = invocation.client.variables(get_project(invocation, project).id)
    if invocation.as_json:
        invocation.output.result({"variables": variables})
    elif not variables:
        invocation.output.note("There are no variables; `cloudify env set NAME` sets one.")
    else:
        rows = [
            [item.key, ", ".join(item.targets), ", ".join(item.stages), f"{item.updated_at:%Y-%m-%d %H:%M}"]
            for item in variables
        ]
        invocation.output.table(["NAME", "TARGETS", "SEEN BY", "CHANGED"], rows)


@env.command(name="set")
@click.argument("assignments", nargs=-1, required=True, metavar="NAME[=VALUE]...")
@click.option("--target", "targets", type=click.Choice(_TARGETS), multiple=True, help="Only there; may be given twice.")
@click.option(
    "--stage",
    "stages",
    type=click.Choice(_STAGES),
    multiple=True,
    help="Whose command sees it; default: build. May be given twice.",
)
@_project_option
@api_command
def set_variables(
    invocation: Invocation,
    assignments: tuple[str, ...],
    targets: tuple[str, ...],
    stages: tuple[str, ...],
    project: str | None,
) -> None:
    """Set variables.

    NAME alone asks for the value, or reads it from stdin, so that it stays out of the shell's history.

    Give --stage install to what the install command needs, such as a private registry's token: scripts of packages run
    then, and could send it anywhere.
    """
    values = [_parse(invocation, assignment, alone=len(assignments) == 1) for assignment in assignments]
    target = get_project(invocation, project)
    saved = [
        invocation.client.set_variable(
            target.id,
            key,
            SetVariableRequest(value=value, targets=list(targets or _TARGETS), stages=list(stages or ("build",))),
        )
        for key, value in values
    ]
    if invocation.as_json:
        invocation.output.result({"variables": saved})
        return
    names = ", ".join(variable.key for variable in saved)
    invocation.output.success(f"Set {names} for {target.slug}; the next deployment sees it.")


@env.command(name="rm")
@click.argument("names", nargs=-1, required=True)
@_project_option
@api_command
def remove_variables(invocation: Invocation, names: tuple[str, ...], project: str | None) -> None:
    """Remove variables."""
    for name in names:
        _check_key(name)
    target = get_project(invocation, project)
    for name in names:
        invocation.client.delete_variable(target.id, name)
    if invocation.as_json:
        invocation.output.result({"removed": list(names)})
        return
    invocation.output.success(f"Removed {', '.join(names)} from {target.slug}.")


@env.command(name="pull")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default=Path(".env.local"))
@click.option("--force", is_flag=True, help="Replace a file that `cloudify env pull` didn't write.")
@_project_option
@api_command
def pull_variables(invocation: Invocation, path: Path, force: bool, project: str | None) -> None:
    """Write the variables that hold for development alone to PATH (.env.local).

    Of variables that builds get as well, only the names are written: their values never leave the platform.
    """
    target = get_project(invocation, project)
    pulled = invocation.client.development_variables(target.id)
    if path.exists() and not force and not path.read_bytes().startswith(_PULLED.encode()):
        raise ClientError(
            f"{path} is there already, and `cloudify env pull` didn't write it.",
            "Give another path, or --force to replace it.",
            exit_code=ExitCode.USAGE,
        )
    ambiguous = [name for name, value in pulled.variables.items() if spelling(value) is None]
    try:
        write_private(path, _env_file(pulled, target.slug))
    except OSError as error:
        raise ClientError(f"{path} can't be written: {error.strerror}.", "Give a path that can be.") from error
    if invocation.as_json:
        written = {
            "path": str(path),
            "written": list(pulled.variables),
            "withheld": pulled.withheld,
            "ambiguous": ambiguous,
        }
        invocation.output.result(written)
        return
    count = len(pulled.variables)
    invocation.output.success(f"Wrote {count} variable{'' if count == 1 else 's'} of {target.slug} to {path}.")
    if ambiguous:
        invocation.output.warning(
            f"dotenv, Vite, Next.js and Node read {', '.join(ambiguous)} differently, and no spelling suits them all; "
            "check the value in your tool."
        )
    if pulled.withheld:
        invocation.output.note(f"Left out, as builds get them too: {', '.join(pulled.withheld)}.")


def _env_file(pulled: DevelopmentEnvironmentResource, slug: str) -> str:
    lines = [_PULLED, f" for {slug}.\n"]
    for name, value in pulled.variables.items():
        spelled = spelling(value)
        if spelled is None:
            spelled = nearest_spelling(value)
            lines.append(f"# Tools read {name} differently: no spelling of its value means the same to all.\n")
        lines.append(f"{name}={spelled}\n")
    lines += [f"# {name} is not only for development; its value stays on the platform.\n" for name in pulled.withheld]
    return "".join(lines)


def _parse(invocation: Invocation, assignment: str, *, alone: bool) -> tuple[str, str]:
    key, has_value, value = assignment.partition("=")
    _check_key(key)
    if has_value:
        return key, value
    if invocation.is_interactive():
        return key, click.prompt(f"Value of {key}", hide_input=True, err=True, type=str)
    if not alone:
        raise ClientError(
            f"{key} has no value.", "Write NAME=VALUE, or set one name at a time.", exit_code=ExitCode.USAGE
        )
    return key, read_input(f"The value of {key}")


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ClientError(
            f"{key!r} can't be the name of a variable.",
            "Names have letters, digits and underscores, and don't begin with a digit.",
            exit_code=ExitCode.USAGE,
        )
