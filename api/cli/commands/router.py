from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from api.cli.extras import require_server


@click.command()
def router() -> None:
    """Run a site router: the web server of all sites on this machine.

    Needs the platform's CLOUDIFY_DATABASE_URL, CLOUDIFY_REDIS_URL and CLOUDIFY_S3_* settings. It keeps sites in
    CLOUDIFY_HOME (default: .cloudify here) and fetches what isn't there. Any number of routers may run, on one machine
    with a folder and ports each. Behind a load balancer, ask /ready of CLOUDIFY_ROUTER_INTERNAL_PORT.
    """
    require_server()
    from shared.settings import SettingsError
    from shared.stack.errors import BusyPort, StackError
    from shared.stack.home import Home
    from shared.stack.platform import ONE_ROUTER
    from shared.stack.supervisor import StopRequested, Supervisor

    home = Home(Path(os.environ.get("CLOUDIFY_HOME") or ".cloudify").absolute())
    supervisor = Supervisor(home, os.environ, _say, ONE_ROUTER)
    code = 0
    try:
        settings = supervisor.start().settings
        _say(f"Sites are served on {settings.router.web_host}:{settings.web_port}.")
        _say(f"The internal listener is on {settings.router.listen_host}:{settings.router.listen_port}.")
        supervisor.run()
    except StopRequested:
        pass
    except (BusyPort, SettingsError) as error:
        _say(str(error))
        code = 2
    except (StackError, OSError) as error:
        _say(f"The router can't continue: {error}")
        code = 1
    finally:
        supervisor.stop()
    sys.exit(code)


def _say(line: str) -> None:
    click.echo(line, err=True)
