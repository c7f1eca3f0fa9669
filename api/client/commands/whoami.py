from __future__ import annotations

import click

from api.client.invocation import Invocation, api_command


@click.command()
@api_command
def whoami(invocation: Invocation) -> None:
    """Show the account and the API that commands use."""
    user = invocation.client.user()
    credentials = invocation.credentials()
    if invocation.as_json:
        invocation.output.result({"user": user, "apiUrl": credentials.api_url, "tokenSource": credentials.source})
        return
    invocation.output.text(f"{user.email} ({user.plan}) at {credentials.api_url}")
    invocation.output.note(f"Token from {credentials.source}.")
