"""Only the stores of a platform on one machine, for commands that need them while nothing else runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from shared.settings import Settings
from shared.stack.caddy import CaddyServer
from shared.stack.home import Home
from shared.stack.platform import Assembly, Platform, PublicPort, assemble, preliminary_settings
from shared.stack.supervisor import Supervisor


@contextmanager
def running_stores(home: Home, environment: Mapping[str, str], say: Callable[[str], None]) -> Generator[Settings]:
    """The settings of the stores in `home`, which run in the block; a new home is prepared.

    Raises StackError, also if a platform runs there, SettingsError and StopRequested.
    """
    supervisor = Supervisor(home, environment, say, Assembly(preliminary_settings, _no_ports, _assemble_stores))
    try:
        yield supervisor.start().settings
    finally:
        supervisor.stop()


def _no_ports(_settings: Settings) -> Sequence[PublicPort]:
    return ()


def _assemble_stores(home: Home, environment: Mapping[str, str]) -> Platform:
    whole = assemble(home, environment)
    stores = tuple(server for server in whole.servers if server.name != CaddyServer.name)
    return replace(whole, servers=stores, programs=())
