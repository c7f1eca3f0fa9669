"""The `cloudify` command. Each command's module is imported when it is used, so that `--help` stays fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import NoReturn

import click

from api.cli.standard_streams import check_arguments, give_up, reserve
from api.client.errors import ClientError, ExitCode

# Name → where it is and the line that `cloudify --help` shows for it.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "login": ("api.cli.commands.login:login", "Log in and store a token for this API."),
    "whoami": ("api.cli.commands.whoami:whoami", "Show the account and the API that commands use."),
    "deploy": ("api.cli.commands.deploy:deploy", "Deploy a git repository and follow its log."),
    "logs": ("api.cli.commands.logs:logs", "Print a deployment's log; -f follows it."),
    "events": ("api.cli.commands.events:events", "Follow the status of all deployments as it changes."),
    "ls": ("api.cli.commands.ls:ls", "List projects, or a project's deployments."),
    "inspect": ("api.cli.commands.inspect:inspect", "Show all that is known of a deployment."),
    "cancel": ("api.cli.commands.cancel:cancel", "Cancel a deployment that isn't finished."),
    "rollback": ("api.cli.commands.rollback:rollback", "Make production serve an earlier deployment again."),
    "promote": ("api.cli.commands.promote:promote", "Make production serve a deployment that is ready."),
    "open": ("api.cli.commands.open_site:open_site", "Print a site's address and open it in the browser."),
    "env": ("api.cli.commands.env:env", "Environment variables of a project's builds."),
    "settings": ("api.cli.commands.settings:settings", "A project's branch, directory, commands and network."),
    "credentials": ("api.cli.commands.credentials:credentials", "Credentials of a project's repository."),
    "queue": ("api.cli.commands.queue:queue", "Show the queue; pause pools, retry or drop dead letters."),
    "workers": ("api.cli.commands.workers:workers", "List the platform's processes and their state."),
    "up": ("api.cli.commands.up:up", "Run the whole platform on this machine."),
    "router": ("api.cli.commands.router:router", "Run a site router on this machine."),
    "api": ("api.cli.commands.processes:api", "Run the HTTP API."),
    "worker": ("api.cli.commands.processes:worker", "Run one worker pool."),
    "reconciler": ("api.cli.commands.processes:reconciler", "Run the reconciler."),
    "exporter": ("api.cli.commands.processes:exporter", "Serve the metrics of the queue and the database."),
    "egress": ("api.cli.commands.processes:egress", "Run the proxy that build pods of a cluster share."),
    "migrate": ("api.cli.commands.processes:migrate", "Bring the database to this version."),
    "doctor": ("api.cli.commands.processes:doctor", "Examine the platform from this machine."),
    "admin": ("api.cli.commands.processes:admin", "Commands for the platform's administrator."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports only the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cloudify")
def cli() -> None:
    """A git repository in, a live site out.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not authenticated or not allowed, 4 not found, 5 cancelled,
    6 the API can't be reached, 130 stopped watching.
    """


def main() -> None:
    reserve()
    try:
        check_arguments(sys.argv[1:])
        cli.main(prog_name="cloudify")
    except ClientError as error:
        _stop(f"{error.message} {error.advice}".strip(), error.exit_code)
    except OSError as error:
        # What a command doesn't explain itself, such as help that is written to a full disk.
        name = "" if error.filename is None else f": {error.filename}"
        _stop(f"{error.strerror or error}{name}.", ExitCode.FAILED)


def _stop(message: str, code: int) -> NoReturn:
    give_up(sys.stdout)
    try:
        click.echo(f"Error: {message}", err=True)
    except OSError:
        give_up(sys.stderr)
    sys.exit(code)
