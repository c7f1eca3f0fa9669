from __future__ import annotations

import click
import msgspec

from api.cli.invocation import Invocation, api_command
from api.cli.references import get_project
from api.client.errors import ClientError, ExitCode
from schemas.projects import ProjectResource, UpdateProjectRequest

# Name in JSON → field. A rollback pins a project.
_SETTINGS = {
    field.encode_name: field.name for field in msgspec.structs.fields(UpdateProjectRequest) if field.name != "is_pinned"
}
# What the platform does where a setting has no value.
_UNSET = {
    "repositoryUrl": "none",
    "repositoryBranch": "the repository's default branch",
    "buildNetwork": "the installation's default",
}

_project_option = click.option("--project", metavar="PROJECT", help="Id, slug or name; default: the linked project.")


@click.group()
def settings() -> None:
    """Settings of a project: its repository, branch and directory, and how it is built."""


@settings.command(name="ls")
@_project_option
@api_command
def list_settings(invocation: Invocation, project: str | None) -> None:
    """List the settings and their values."""
    target = get_project(invocation, project)
    if invocation.as_json:
        invocation.output.result(target)
        return
    rows = [[name, _value(target, name)] for name in _SETTINGS]
    invocation.output.table(["SETTING", "VALUE"], rows)


@settings.command(name="set")
@click.argument("name", metavar="SETTING")
@click.argument("value")
@_project_option
@api_command
def set_setting(invocation: Invocation, name: str, value: str, project: str | None) -> None:
    """Give a setting a value. The next deployment has it."""
    changed = _update(invocation, project, name, value)
    if not invocation.as_json:
        invocation.output.success(f"{name} of {changed.slug} is {_value(changed, name)}; the next deployment has it.")


@settings.command(name="unset")
@click.argument("name", metavar="SETTING")
@_project_option
@api_command
def unset_setting(invocation: Invocation, name: str, project: str | None) -> None:
    """Take a setting's value away, so that it is detected, or the platform's own."""
    changed = _update(invocation, project, name, None)
    if not invocation.as_json:
        invocation.output.success(f"{name} of {changed.slug} is {_value(changed, name)}; the next deployment has it.")


def _update(invocation: Invocation, project: str | None, name: str, value: str | None) -> ProjectResource:
    if name not in _SETTINGS:
        raise ClientError(
            f"There is no setting {name!r}.", f"There are {', '.join(_SETTINGS)}.", exit_code=ExitCode.USAGE
        )
    try:
        request = msgspec.convert({name: value}, UpdateProjectRequest, strict=False)
    except msgspec.ValidationError:
        raise ClientError(
            f"{name} always has a value.", "Set another with `cloudify settings set`.", exit_code=ExitCode.USAGE
        ) from None
    changed = invocation.client.update_project(get_project(invocation, project).id, request)
    if invocation.as_json:
        invocation.output.result(changed)
    return changed


def _value(project: ProjectResource, name: str) -> str:
    value = getattr(project, _SETTINGS[name])
    if value is None:
        return f"({_UNSET.get(name, 'detected')})"
    return str(value)
