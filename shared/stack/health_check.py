"""`python -m shared.stack.health_check`: the image's HEALTHCHECK. 0 if this container's process is alive, otherwise 1.

A container runs one process, which has one of these listeners. Kubernetes asks them directly.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping

_SECONDS = 3.0


def is_alive(environment: Mapping[str, str]) -> bool:
    """Whether the first listener that accepts a connection answers with 200."""
    for setting, default, path in (
        ("CLOUDIFY_API_PORT", "8000", "/api/health/live"),
        ("CLOUDIFY_ROUTER_INTERNAL_PORT", "0", "/live"),
        ("CLOUDIFY_METRICS_PORT", "9464", "/live"),
    ):
        port = environment.get(setting) or default
        status = _status(int(port), path) if port.isdecimal() and port != "0" else None
        if status is not None:
            return status == http.client.OK
    return False


def _status(port: int, path: str) -> int | None:
    """None if nothing listens there; 0 for a listener that doesn't answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.connect()
    except OSError:
        return None
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_alive(os.environ))
