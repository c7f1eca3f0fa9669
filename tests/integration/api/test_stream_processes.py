"""Streams of API processes: what they share, what is left of one that was killed, and what they write to their logs."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from shared.settings import ObjectStoreSettings
from tests.support.live_api import TIMEOUT_SECONDS, LiveStream
from tests.support.log_rows import eventually
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration


@contextmanager
def api_process(environment: dict[str, str], log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port, metrics_port = free_ports(2)
    environment = {**environment, "CLOUDIFY_API_PORT": str(port), "CLOUDIFY_METRICS_PORT": str(metrics_port)}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment, stdout=output, stderr=output)
    base = f"http://127.0.0.1:{port}/api"

    def answers() -> bool:
        try:
            return httpx.get(f"{base}/health/live", timeout=TIMEOUT_SECONDS).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(answers, TIMEOUT_SECONDS)
        yield process, base
    finally:
        process.kill()
        process.wait()


def test_slots_and_tickets_across_processes(
    database_url: str, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_REDIS_URL": redis_url,
        "CLOUDIFY_S3_ENDPOINT": object_store_settings.endpoint,
        "CLOUDIFY_S3_ACCESS_KEY": object_store_settings.access_key,
        "CLOUDIFY_S3_SECRET_KEY": object_store_settings.secret_key,
        "CLOUDIFY_S3_BUCKET": object_store_settings.bucket,
        "CLOUDIFY_SECRET_KEY": "x" * 32,
        "CLOUDIFY_REGISTRATION_ENABLED": "true",
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(b"1" * 32).decode(),
        "CLOUDIFY_STREAMS_PER_USER": "2",
        "CLOUDIFY_LOG_LEVEL": "debug",
    }
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    with ExitStack() as stack:
        (first, one), (_, two) = (stack.enter_context(api_process(environment, log)) for log in logs)
        account = {"email": "ada@example.com", "password": "correct horse battery"}
        client = stack.enter_context(httpx.Client(timeout=TIMEOUT_SECONDS))
        token = client.post(f"{one}/auth/register", json=account).json()["data"]["accessToken"]
        headers = {"Authorization": f"Bearer {token}"}
        body = {"name": "x", "repositoryUrl": "https://git.example.com/x.git"}
        project = client.post(f"{one}/projects", json=body, headers=headers).json()["data"]["id"]
        made = client.post(f"{one}/deployments", json={"projectId": project}, headers=headers).json()["data"]["id"]
        path = f"/deployments/{made}/logs/stream"

        # A ticket of one process is good for the other, once.
        ticket = client.post(f"{one}/auth/stream-tickets", json={"deploymentId": made}, headers=headers)
        secret = ticket.json()["data"]["ticket"]
        kept = LiveStream(two + path, ticket=secret).opened()
        assert LiveStream(one + path, ticket=secret).answered().status == 401
        redirected = client.get(f"{two}/deployments/{made}/stream", params={"ticket": secret})
        assert redirected.status_code == 308

        # The limit counts both; what a killed process held is free when its leases have run out.
        lost = LiveStream(one + path, headers).opened()

        def is_refused() -> bool:
            stream = LiveStream(two + path, headers).answered()
            # Admitted without being counted, if Redis took longer than a second.
            if stream.status == 200:
                stream.leave()
            return stream.status == 429

        eventually(is_refused, TIMEOUT_SECONDS)
        first.kill()
        first.wait()
        lost.join()
        streams: list[LiveStream] = []

        def is_let_in() -> bool:
            streams.append(LiveStream(two + path, headers).answered())
            return streams[-1].status == 200

        eventually(is_let_in, TIMEOUT_SECONDS)
        assert {stream.status for stream in streams[:-1]} <= {429}
        assert LiveStream(two + path, headers).answered().status == 429
        assert kept.is_open

    for log in logs:
        text = log.read_text()
        assert "/logs/stream" in text
        assert secret not in text
        assert token not in text
