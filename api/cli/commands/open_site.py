from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

import click

from api.cli.invocation import Invocation, api_command
from api.cli.references import get_project
from api.client.errors import ClientError, ExitCode


@click.command(name="open")
@click.argument("site", required=False)
@click.option("--print", "only_print", is_flag=True, help="Only print the address.")
@api_command
def open_site(invocation: Invocation, site: str | None, only_print: bool) -> None:
    """Print a site's address and open it in the browser, where there is a display.

    SITE is a project's id, slug or name, or a deployment's id; without it, the linked project.
    """
    url = _url(invocation, site)
    if invocation.as_json:
        invocation.output.result({"url": url})
    else:
        invocation.output.text(url)
    if not only_print and not invocation.as_json and invocation.output.stdout_is_terminal and _has_display():
        import webbrowser

        webbrowser.open(url)


def _url(invocation: Invocation, site: str | None) -> str:
    client = invocation.client
    if site is not None and site.startswith("depl_"):
        deployment = client.deployment(site)
        url, advice = deployment.url, f"It is {deployment.status}; `cloudify logs -f {deployment.id}` shows its log."
    else:
        project = get_project(invocation, site)
        url = project.url if project.active_deployment_id is not None else None
        advice = f"Nothing of it is in production yet; `cloudify deploy --project {project.slug}` deploys it."
    if url is None:
        raise ClientError("There is no site to open.", advice, exit_code=ExitCode.NOT_FOUND)
    if urlsplit(url).scheme not in ("http", "https"):
        raise ClientError(f"{url!r} is not the address of a site.")
    return url


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
