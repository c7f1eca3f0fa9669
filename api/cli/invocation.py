"""What every user command shares: its options, its client, its way of failing."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click
import httpx

from api.cli.output import Output
from api.cli.standard_streams import give_up, read_input
from api.cli.work_tree import WorkTree
from api.client.credentials import CredentialFiles, Credentials, Link, is_loopback
from api.client.errors import ApiError, ClientError, ExitCode
from api.client.http import ApiClient

P = ParamSpec("P")


class Invocation:
    """One run of a command. `client` is made at its first use, so that usage errors need no API."""

    def __init__(
        self,
        *,
        api_url: str | None,
        token: str | None,
        as_json: bool,
        profile: str | None = None,
        http_transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http_transport = http_transport
        self.output = Output(as_json=as_json)
        self.credential_files = CredentialFiles(os.environ, Path.home(), Path.cwd())
        # Where the work tree is whose link to an API counts.
        self.directory = Path.cwd()
        self._api_url = api_url
        self.profile_option = profile
        self._token = read_input("The token", is_line=True) if token == "-" else token
        self._client: ApiClient | None = None

    @property
    def as_json(self) -> bool:
        return self.output.as_json

    @property
    def token_option(self) -> str | None:
        return self._token

    def credentials(self) -> Credentials:
        return self.credential_files.find(
            api_url=self._api_url,
            token=self._token,
            profile=self.profile_option,
            link=None if self._names_an_api else self._link(),
        )

    def login_target(self) -> str:
        """The address of the API to log in to."""
        return self.credential_files.login_target(api_url=self._api_url, profile=self.profile_option, link=self._link())

    def store_login(self, api_url: str, token: str, device: str | None) -> str:
        """Returns the profile."""
        return self.credential_files.store(api_url, token, self.profile_option, self._link(), device)

    def linked_project(self, tree: WorkTree) -> str | None:
        """The project that the work tree is linked to, unless it is at another API than this run's."""
        link = tree.linked_api()
        # Without a named API, the link itself chose this run's.
        is_here = link is None or not self._names_an_api or link.api_url == self.credentials().api_url
        return tree.linked_project() if is_here else None

    @property
    def _names_an_api(self) -> bool:
        return bool(self._api_url or self.profile_option or self.credential_files.names_an_api)

    def _link(self) -> Link | None:
        """What the work tree remembers of its API."""
        try:
            tree = WorkTree.find(self.directory)
            return None if tree is None else tree.linked_api()
        except ClientError:
            # Without git, or in somebody else's directory, there is no link.
            return None

    @property
    def client(self) -> ApiClient:
        """Raises ClientError without a token."""
        if self._client is None:
            credentials = self.credentials()
            if credentials.token is None:
                raise ClientError(
                    f"There is no token for the API at {credentials.api_url}.",
                    f"Run `cloudify login --api-url {credentials.api_url}`, set CLOUDIFY_TOKEN, or start the platform "
                    "here with `make run`.",
                    exit_code=ExitCode.NOT_AUTHENTICATED,
                )
            if credentials.api_url.startswith("http://") and not is_loopback(credentials.api_url):
                self.output.warning(f"the token travels to {credentials.api_url} without encryption; use https.")
            self._client = self.connect(credentials.api_url, credentials.token)
        return self._client

    @property
    def renewal(self) -> str | None:
        """What to do where the API refuses the token of `client`; None if that was never made, as in a login."""
        return None if self._client is None else self.credentials().renewal

    def connect(self, api_url: str, token: str | None) -> ApiClient:
        """A client of its own, for the caller to close."""
        return ApiClient(api_url, token, http_transport=self._http_transport)

    def is_interactive(self) -> bool:
        """Whether a question can be asked."""
        return not self.as_json and sys.stdin.isatty() and sys.stderr.isatty()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def api_command(function: Callable[Concatenate[Invocation, P], None]) -> Callable[..., None]:
    """Adds --api-url, --profile, --token and --json, and turns errors into one sentence and an exit code."""

    @click.option("--api-url", metavar="URL", help="The API's address; default CLOUDIFY_API_URL or the stored one.")
    @click.option(
        "--profile", metavar="NAME", help="A stored login; default CLOUDIFY_PROFILE, the link's, or the last."
    )
    @click.option("--token", metavar="TOKEN", help="An API token, `-` reads it from stdin; default CLOUDIFY_TOKEN.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else there.")
    @functools.wraps(function)
    def run(
        *args: Any, api_url: str | None, profile: str | None, token: str | None, as_json: bool, **options: Any
    ) -> None:
        output = Output(as_json=as_json)
        invocation: Invocation | None = None
        try:
            # A program that embeds the commands may pass the transport of their requests as the context's object.
            carrier = click.get_current_context().find_object(httpx.BaseTransport)
            invocation = Invocation(
                api_url=api_url, token=token, as_json=as_json, profile=profile, http_transport=carrier
            )
            function(invocation, *args, **options)
        except ClientError as error:
            if invocation is not None and isinstance(error, ApiError) and error.status == 401:
                error.advice = invocation.renewal or error.advice
            output.error(error)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            output.note("Interrupted.")
            sys.exit(ExitCode.DETACHED)
        except BrokenPipeError:
            # The reader of our output has gone (`| head`).
            give_up(sys.stdout)
            sys.exit(ExitCode.FAILED)
        finally:
            if invocation is not None:
                invocation.close()

    return run
