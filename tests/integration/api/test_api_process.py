"""The API as a process: starts, answers, stops on SIGTERM, refuses settings it can't use."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

from shared.accounts.login_throttle import PER_ADDRESS
from shared.settings import ObjectStoreSettings
from tests.support.ports import free_ports

MAXIMUM_RESIDENT_BYTES = 110 * 1024 * 1024
TIMEOUT_SECONDS = 120.0


@pytest.fixture
def environment(database_url: str, redis_url: str, object_store_settings: ObjectStoreSettings) -> dict[str, str]:
    port, metrics_port = free_ports(2)
    return {
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
        "CLOUDIFY_API_PORT": str(port),
        "CLOUDIFY_METRICS_PORT": str(metrics_port),
    }


def wait_for(url: str) -> httpx.Response:
    """Asks until it answers well."""
    deadline, pause = time.monotonic() + TIMEOUT_SECONDS, threading.Event()
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            response = httpx.get(url, timeout=TIMEOUT_SECONDS)
            if response.status_code == 200:
                return response
        pause.wait(0.1)
    raise AssertionError(f"{url} never answered")


def test_the_process_starts_answers_and_stops(environment: dict[str, str]) -> None:
    base = f"http://127.0.0.1:{environment['CLOUDIFY_API_PORT']}/api"
    process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment)
    try:
        wait_for(f"{base}/health/live")
        wait_for(f"{base}/health")
        body = {"email": "ada@example.com", "password": "correct horse battery"}
        registered = httpx.post(f"{base}/auth/register", json=body, timeout=TIMEOUT_SECONDS)
        headers = {"Authorization": f"Bearer {registered.json()['data']['accessToken']}"}
        project = httpx.post(
            f"{base}/projects", json={"name": "x", "repositoryUrl": "https://git.example.com/x.git"}, headers=headers,
            timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
        made = httpx.post(
            f"{base}/deployments",
            json={"projectId": project.json()["data"]["id"]},
            headers=headers,
            timeout=TIMEOUT_SECONDS,
        )
        assert made.status_code == 201
        metrics = wait_for(f"http://127.0.0.1:{environment['CLOUDIFY_METRICS_PORT']}/api/metrics/prometheus")
        assert 'route="/api/projects"' in metrics.text
        assert httpx.get(f"{base}/metrics/prometheus", timeout=TIMEOUT_SECONDS).status_code == 404
        assert psutil.Process(process.pid).memory_info().rss < MAXIMUM_RESIDENT_BYTES

        stream_path = f"{base}/deployments/{made.json()['data']['id']}/logs/stream"
        with httpx.stream("GET", stream_path, headers=headers, timeout=TIMEOUT_SECONDS) as stream:
            lines = stream.iter_lines()
            assert next(lines)
            process.send_signal(signal.SIGTERM)
            assert any("reconnect" in line for line in lines), "the stream says that it ends"
        assert process.wait(timeout=TIMEOUT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def test_people_behind_a_trusted_proxy_have_limits_and_sessions_of_their_own(environment: dict[str, str]) -> None:
    base = f"http://127.0.0.1:{environment['CLOUDIFY_API_PORT']}/api"
    trusting = {**environment, "CLOUDIFY_TRUSTED_PROXIES": "127.0.0.1/32"}
    process = subprocess.Popen([sys.executable, "-m", "api.main"], env=trusting)

    def post(path: str, account: str, address: str) -> httpx.Response:
        body = {"email": f"{account}@example.com", "password": "correct horse battery"}
        headers = {"X-Forwarded-For": f"203.0.113.66, {address}"}
        return httpx.post(f"{base}/auth/{path}", json=body, headers=headers, timeout=TIMEOUT_SECONDS)

    try:
        wait_for(f"{base}/health/live")
        access_token = post("register", "ada", "192.0.2.2").json()["data"]["accessToken"]
        guesses = [post("login", f"nobody{number}", "192.0.2.1").status_code for number in range(PER_ADDRESS + 1)]
        assert guesses == [401] * PER_ADDRESS + [429]
        assert post("login", "ada", "192.0.2.2").status_code == 200
        headers = {"Authorization": f"Bearer {access_token}"}
        sessions = httpx.get(f"{base}/auth/sessions", headers=headers, timeout=TIMEOUT_SECONDS).json()["data"]
        assert [session["address"] for session in sessions] == ["192.0.2.2"] * 2
    finally:
        process.kill()
        process.wait()


def test_settings_that_cant_be_used_are_all_named(environment: dict[str, str]) -> None:
    environment |= {"CLOUDIFY_API_PORT": "many", "CLOUDIFY_SECRET_KEY": "short"}
    finished = subprocess.run(
        [sys.executable, "-m", "api.main"], env=environment, capture_output=True, timeout=TIMEOUT_SECONDS
    )
    assert finished.returncode == 2
    assert b"CLOUDIFY_API_PORT" in finished.stderr
    assert b"CLOUDIFY_SECRET_KEY" in finished.stderr
    assert b"Traceback" not in finished.stderr
