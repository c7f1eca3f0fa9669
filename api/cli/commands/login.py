from __future__ import annotations

import socket

import click

from api.cli.invocation import Invocation, api_command
from api.cli.standard_streams import read_input
from api.client.credentials import is_loopback
from api.client.errors import ClientError, ExitCode


@click.command()
@click.option("--email", help="The account's e-mail address; asked for without it.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin instead of asking.")
@api_command
def login(invocation: Invocation, email: str | None, password_stdin: bool) -> None:
    """Log in and store a token for this API.

    Asks for e-mail address and password and makes an API token; with --token that one is checked and stored.
    The file is readable by you only: ~/.config/cloudify/credentials.json. Logins to other platforms stay in it;
    --profile names this one, and chooses one for any command. A deployed directory remembers its own: inside of it,
    without --api-url and --profile, that one is renewed.
    """
    api_url = invocation.login_target()
    if api_url.startswith("http://") and not is_loopback(api_url):
        invocation.output.warning(f"{api_url} has no encryption; others can read what you type. Use https.")
    token, device = invocation.token_option, None
    if token is None:
        email, password = _ask(invocation, email, password_stdin=password_stdin)
        with invocation.connect(api_url, None) as client:
            name = f"cloudify on {socket.gethostname()}"[:100]
            token = client.create_token(email, password, name, invocation.credential_files.device(api_url)).token
            device = client.device
    token = token.strip()
    with invocation.connect(api_url, token) as client:
        user = client.user()
    profile = invocation.store_login(api_url, token, device)
    path = invocation.credential_files.login_file
    if invocation.as_json:
        invocation.output.result({"apiUrl": api_url, "user": user, "profile": profile, "file": str(path)})
        return
    invocation.output.success(f"Logged in to {api_url} as {user.email}. The token is in {path}, profile {profile}.")


def _ask(invocation: Invocation, email: str | None, *, password_stdin: bool) -> tuple[str, str]:
    if password_stdin:
        password = read_input("The password", is_line=True)
    elif invocation.is_interactive():
        email = email or click.prompt("E-mail", err=True, type=str)
        password = click.prompt("Password", err=True, hide_input=True, type=str)
    else:
        password = ""
    if not email or not password:
        raise ClientError(
            "There is no terminal to ask for e-mail address and password.",
            "Use `cloudify login --email ADDRESS --password-stdin < FILE`, or `cloudify login --token -`.",
            exit_code=ExitCode.USAGE,
        )
    return email, password
