"""`python -m workers.egress.main`: the egress gateway of a cluster's build pods."""

from __future__ import annotations

import os
import socket
import sys
import threading

from shared.logging import configure_logging
from shared.settings import EgressSettings, LogSettings, NetworkSettings, Reader
from shared.stop_signals import on_stop_signals
from workers.egress.gateway import EgressGateway
from workers.egress.policy import EgressPolicy
from workers.egress.upstream import UpstreamProxy


def main() -> int:
    """Runs until SIGTERM or SIGINT. Needs no server: it reads its own settings alone."""
    reader = Reader(os.environ)
    settings, network, logs = reader.part(EgressSettings), reader.part(NetworkSettings), reader.part(LogSettings)
    problems = [*reader.problems]
    if settings is None or not settings.token:
        problems.append("CLOUDIFY_EGRESS_TOKEN is not set; workers have the same one.")
    if problems or settings is None or network is None or logs is None:
        print("\n".join(problems), file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 2
    configure_logging("egress", logs.level)
    stop = threading.Event()
    on_stop_signals(stop.set)
    gateway = EgressGateway(
        socket.create_server((settings.listen_host, settings.listen_port)),
        (settings.listen_host, settings.control_port),
        settings.token,
        EgressPolicy(network.egress_allowed_hosts, network.egress_allowed_networks),
        UpstreamProxy.of(network.egress_proxy),
    )
    stop.wait()
    gateway.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
