from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from api.cli.extras import require_server


@click.command()
@click.option("--no-sample", is_flag=True, help="Don't deploy the sample site.")
def up(*, no_sample: bool) -> None:
    """Run the whole platform on this machine until Ctrl-C.

    Keeps everything in CLOUDIFY_HOME (default: .cloudify here). PostgreSQL, Redis and the object store are embedded
    unless CLOUDIFY_DATABASE_URL, CLOUDIFY_REDIS_URL or CLOUDIFY_S3_ENDPOINT names another.
    """
    require_server()
    from shared.settings import SettingsError
    from shared.stack.errors import BusyPort, StackError
    from shared.stack.home import Home
    from shared.stack.supervisor import StopRequested, Supervisor

    home = Home(Path(os.environ.get("CLOUDIFY_HOME") or ".cloudify").absolute())
    supervisor = Supervisor(home, os.environ, _say)
    code = 0
    try:
        _say(f"Starting Cloudify in {home.directory} …")
        platform = supervisor.start()
        settings = platform.settings
        _say(f"The API answers at http://{settings.api.host}:{settings.api.port} (its description: /api/docs).")
        _say(f"Sites are at {settings.sites.url('<name>')}. A token is in {home.credentials_path}.")
        if no_sample:
            _say("Everything runs; Ctrl-C stops it.")
        supervisor.run(None if no_sample else [sys.executable, "-m", "api.cli.sample", str(home.directory)])
    except StopRequested:
        pass
    except (BusyPort, SettingsError) as error:
        _say(str(error))
        code = 2
    except StackError as error:
        _say(str(error))
        code = 1
    except OSError as error:
        _say(f"Cloudify can't continue: {error}.")
        code = 1
    finally:
        supervisor.stop()
    if code == 0:
        _say("Stopped. The data stays; start again to continue.")
    sys.exit(code)


def _say(line: str) -> None:
    click.echo(line, err=True)
