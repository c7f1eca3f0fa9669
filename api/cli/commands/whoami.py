from __future__ import annotations

import click

from api.cli.invocation import Invocation, api_command


@click.command()
@api_command
def whoami(invocation: Invocation) -> None:
    """Show the account and the API that commands use."""
    user = invocation.client.user()
    credentials = invocation.credentials()
    if invocation.as_json:
        invocation.output.result(
            {
                "user": user,
                "apiUrl": credentials.api_url,
                "tokenSource": credentials.source,
                "profile": credentials.profile,
                "profiles": invocation.credential_files.profiles(),
            }
        )
        return
    invocation.output.text(f"{user.email} ({user.plan}) at {credentials.api_url}")
    profile = f", profile {credentials.profile}" if credentials.profile else ""
    invocation.output.note(f"Token from {credentials.source}{profile}.")
    others = [name for name in invocation.credential_files.profiles() if name != credentials.profile]
    if others:
        invocation.output.note(f"Other profiles: {', '.join(others)}.")
