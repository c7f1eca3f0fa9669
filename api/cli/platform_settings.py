"""The settings of commands for the platform's administrator."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from shared.settings import Settings, SettingsError, load_settings


def platform_settings() -> Settings:
    """Raises ClickException."""
    try:
        return load_settings(platform_environment())
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def platform_environment(*, is_needed: bool = True) -> dict[str, str]:
    """The environment; where it names no database, with what `cloudify up` wrote into its folder.

    Raises ClickException if there is nothing and it `is_needed`.
    """
    environment = dict(os.environ)
    home = Path(environment.get("CLOUDIFY_HOME") or ".cloudify")
    written = home / "run" / "environment.json"
    if not environment.get("CLOUDIFY_DATABASE_URL") and "CLOUDIFY_DATABASE_URL_FILE" not in environment:
        try:
            stored = json.loads(written.read_bytes())
            # A version that had this setting may have written the file.
            stored.pop("CLOUDIFY_ALLOW_LOCAL_REPOSITORIES", None)
            environment = stored | environment
        except (OSError, ValueError):
            if not is_needed:
                return environment
            raise click.ClickException(
                "CLOUDIFY_DATABASE_URL is not set, and there is no `cloudify up` in this folder; "
                "set it, or set CLOUDIFY_HOME to the folder of the platform."
            ) from None
    return environment
