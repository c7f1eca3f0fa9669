from __future__ import annotations

from typing import IO

import click

from api.cli.invocation import Invocation, api_command
from api.cli.references import get_project
from api.cli.standard_streams import decode, read_input
from schemas.projects import RepositoryCredentialsResource, SetRepositoryCredentialsRequest

_project_option = click.option("--project", metavar="PROJECT", help="Id, slug or name; default: the linked project.")


@click.group()
def credentials() -> None:
    """What a project's private repository is cloned with: a token or a deploy key, stored encrypted, never shown."""


@credentials.command(name="set")
@click.option("--key", type=click.File("rb"), metavar="FILE", help="A deploy key's private half, for ssh; - is stdin.")
@click.option("--username", help="The user that the host wants with the token.")
@_project_option
@api_command
def set_credentials(invocation: Invocation, key: IO[bytes] | None, username: str | None, project: str | None) -> None:
    """Set the credentials of the project's repository, in place of those that it has.

    A token is asked for, or read from stdin, so that it stays out of the shell's history. They are sent to the host of
    the project's repository alone.
    """
    target = get_project(invocation, project)
    if key is not None:
        request = SetRepositoryCredentialsRequest(
            kind="sshKey", username=username, private_key=decode("The key", key.read())
        )
    else:
        request = SetRepositoryCredentialsRequest(kind="token", username=username, token=_read_token(invocation))
    saved = invocation.client.set_repository_credentials(target.id, request)
    if invocation.as_json:
        invocation.output.result(saved)
        return
    invocation.output.success(f"{target.slug} is cloned from {saved.host} with {_described(saved)} from now on.")
    if saved.public_key:
        invocation.output.note(f"The public half, for the repository's deploy keys: {saved.public_key}")


@credentials.command(name="show")
@_project_option
@api_command
def show_credentials(invocation: Invocation, project: str | None) -> None:
    """Show which there are and what host they are for, without the secret."""
    target = get_project(invocation, project)
    found = invocation.client.repository_credentials(target.id)
    if invocation.as_json:
        invocation.output.result(found)
        return
    changed = f"{found.updated_at:%Y-%m-%d %H:%M}"
    invocation.output.table(["CREDENTIALS", "HOST", "CHANGED"], [[_described(found), found.host, changed]])


@credentials.command(name="rm")
@_project_option
@api_command
def remove_credentials(invocation: Invocation, project: str | None) -> None:
    """Remove them, and forget the SSH host key that was seen."""
    target = get_project(invocation, project)
    invocation.client.delete_repository_credentials(target.id)
    if invocation.as_json:
        invocation.output.result({"removed": True})
        return
    invocation.output.success(f"Removed the credentials of {target.slug}'s repository.")


def _described(credentials: RepositoryCredentialsResource) -> str:
    if credentials.kind == "sshKey":
        return f"the deploy key {credentials.fingerprint}"
    return f"a token of {credentials.username}" if credentials.username else "a token"


def _read_token(invocation: Invocation) -> str:
    if invocation.is_interactive():
        return click.prompt("Token", hide_input=True, err=True, type=str)
    return read_input("The token").strip()
