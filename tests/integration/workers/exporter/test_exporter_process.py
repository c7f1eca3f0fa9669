"""The exporter as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from shared.settings import ObjectStoreSettings
from tests.support.ports import free_ports
from tests.support.running_platform import wait_for

pytestmark = pytest.mark.integration


def test_it_serves_figures_and_answers_probes_until_it_is_asked_to_stop(
    database_url: str, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    [port] = free_ports(1)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("CLOUDIFY_", "PROMETHEUS_"))},
        "CLOUDIFY_HOME": str(tmp_path),
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_REDIS_URL": redis_url,
        "CLOUDIFY_S3_ENDPOINT": object_store_settings.endpoint,
        "CLOUDIFY_S3_ACCESS_KEY": object_store_settings.access_key,
        "CLOUDIFY_S3_SECRET_KEY": object_store_settings.secret_key,
        "CLOUDIFY_SECRET_KEY": "k" * 32,
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + "A" * 43 + "=",
        "CLOUDIFY_METRICS_PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-m", "workers.exporter.main"], env=environment)
    try:
        url = f"http://127.0.0.1:{port}"

        def status(path: str) -> int | None:
            assert process.poll() is None
            try:
                return httpx.get(f"{url}{path}", timeout=30, trust_env=False).status_code
            except httpx.HTTPError:
                return None

        wait_for(lambda: status("/ready") == 200, what="the exporter is ready")
        assert status("/live") == 200
        text = httpx.get(f"{url}/api/metrics/prometheus", timeout=30, trust_env=False).text
        for dependency in ("database", "redis", "object_store"):
            assert f'cloudify_dependency_up{{dependency="{dependency}"}} 1.0' in text
        assert "cloudify_active_sessions 0.0" in text
        assert 'cloudify_routers{state="ready"} 0.0' in text
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
