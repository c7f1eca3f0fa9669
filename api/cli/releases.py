"""Waits until production serves a deployment that was rolled back to or promoted."""

from __future__ import annotations

import time
from collections.abc import Callable

from api.client.errors import ClientError
from api.client.http import ApiClient
from schemas.deployments import DeploymentResource

_POLL_SECONDS = 0.2
_LONGEST_SECONDS = 60.0


def wait_until_active(
    client: ApiClient,
    deployment_id: str,
    *,
    pause: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> DeploymentResource:
    """Raises ClientError after a minute."""
    begin = monotonic()
    while True:
        deployment = client.deployment(deployment_id)
        if deployment.is_active:
            return deployment
        if monotonic() - begin > _LONGEST_SECONDS:
            raise ClientError(
                f"Production doesn't serve {deployment_id} after {_LONGEST_SECONDS:.0f} s.",
                f"It may still come, when the workers do: `cloudify inspect {deployment_id}` shows it.",
            )
        pause(_POLL_SECONDS)
