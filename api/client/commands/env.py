from __future__ import annotations

import re
import sys

import click

from api.client.errors import ClientError, ExitCode
from api.client.invocation import Invocation, api_command
from api.client.references import get_project
from schemas.requests import SetVariableRequest

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_TARGETS = ("production", "preview", "development")

_project_option = click.option("--project", metavar="PROJECT", help="Id, slug or name; default: the linked project.")


@click.group()
def env() -> None:
    """Environment variables of a project's builds. Values are stored encrypted and never shown."""


@env.command(name="ls")
@_project_option
@api_command
def list_variables(invocation: Invocation, project: str | None) -> None:
    """List names and targets."""
    variables = invocation.client.variables(get_project(invocation.client, project).id)
    if invocation.as_json:
        invocation.output.result({"variables": variables})
    elif not variables:
        invocation.output.note("There are no variables; `cloudify env set NAME` sets one.")
    else:
        rows = [[item.key, ", ".join(item.targets), f"{item.updated_at:%Y-%m-%d %H:%M}"] for item in variables]
        invocation.output.table(["NAME", "TARGETS", "CHANGED"], rows)


@env.command(name="set")
@click.argument("assignments", nargs=-1, required=True, metavar="NAME[=VALUE]...")
@click.option("--target", "targets", type=click.Choice(_TARGETS), multiple=True, help="Only there; may be given twice.")
@_project_option
@api_command
def set_variables(
    invocation: Invocation, assignments: tuple[str, ...], targets: tuple[str, ...], project: str | None
) -> None:
    """Set variables.

    NAME alone asks for the value, or reads it from stdin, so that it stays out of the shell's history.
    """
    values = [_parse(invocation, assignment, alone=len(assignments) == 1) for assignment in assignments]
    target = get_project(invocation.client, project)
    saved = [
        invocation.client.set_variable(
            target.id, key, SetVariableRequest(value=value, targets=list(targets or _TARGETS))
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
    target = get_project(invocation.client, project)
    for name in names:
        invocation.client.delete_variable(target.id, name)
    if invocation.as_json:
        invocation.output.result({"removed": list(names)})
        return
    invocation.output.success(f"Removed {', '.join(names)} from {target.slug}.")


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
    return key, sys.stdin.read().removesuffix("\n")


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ClientError(
            f"{key!r} can't be the name of a variable.",
            "Names have letters, digits and underscores, and don't begin with a digit.",
            exit_code=ExitCode.USAGE,
        )
