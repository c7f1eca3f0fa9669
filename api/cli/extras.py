"""The parts of Cloudify that are installed on request: the command alone needs none of the servers' packages."""

from __future__ import annotations

from importlib import util

import click

# One package of each side that the extra `server` brings: the API's and the workers'.
_SERVER_PACKAGES = ("litestar", "dramatiq")


def require_server() -> None:
    """Raises ClickException, with what to install, where the extra `server` is not installed."""
    if any(util.find_spec(name) is None for name in _SERVER_PACKAGES):
        raise click.ClickException(
            "This command runs a part of the platform, which is not installed. Run `pip install 'cloudify[server]'`, "
            "or `pip install 'cloudify[server,embedded]'` for `cloudify up`."
        )
