"""Floods of requests, one for each kind of route.

`python -m tests.support.floods URL KIND THREADS TOKEN DEPLOYMENT` sends one until its stdin ends, then prints how many
answers of each status came, as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Self

import httpx

TIMEOUT_SECONDS = 120.0

# What one request of a flood does. Arguments: client, headers of the flooding tenant, its deployment, a number.
Shot = Callable[[httpx.Client, dict[str, str], str, int], httpx.Response]


def register(client: httpx.Client, _headers: dict[str, str], _deployment: str, number: int) -> httpx.Response:
    body = {"email": f"flood-{number}@example.com", "password": "correct horse battery"}
    return client.post("/api/auth/register", json=body)


def sign_in(client: httpx.Client, _headers: dict[str, str], _deployment: str, number: int) -> httpx.Response:
    return client.post("/api/auth/login", json={"email": f"nobody-{number}@example.com", "password": "x" * 20})


def put_large(client: httpx.Client, headers: dict[str, str], deployment: str, _number: int) -> httpx.Response:
    shown = client.get(f"/api/deployments/{deployment}", headers=headers)
    if shown.status_code != 200:
        return shown
    path = f"/api/projects/{shown.json()['data']['projectId']}/env/KEY"
    return client.put(path, headers={**headers, "Content-Type": "application/json"}, content=_LARGE)


def post_large_anonymously(client: httpx.Client, _headers: dict[str, str], _d: str, _number: int) -> httpx.Response:
    return client.post("/api/projects", headers={"Content-Type": "application/json"}, content=_LARGE)


def read_log(client: httpx.Client, headers: dict[str, str], deployment: str, _number: int) -> httpx.Response:
    return client.get(f"/api/deployments/{deployment}/logs?limit=1000", headers=headers)


def create_unresolvable(client: httpx.Client, headers: dict[str, str], _deployment: str, number: int) -> httpx.Response:
    body = {"name": "flood", "repositoryUrl": f"https://git-{number}.unresolvable.example/x.git"}
    return client.post("/api/projects", headers=headers, json=body)


def list_everything(client: httpx.Client, headers: dict[str, str], _deployment: str, _number: int) -> httpx.Response:
    return client.get("/api/deployments?limit=100&total=true", headers=headers)


def check_health(client: httpx.Client, _headers: dict[str, str], _deployment: str, _number: int) -> httpx.Response:
    return client.get("/api/health/ready", headers={"Authorization": "Bearer nothing"})


_LARGE = b'{"value":[' + b"[]," * 170_000 + b"[]]}"
FLOODS: Mapping[str, Shot] = {
    "register": register,
    "sign-in": sign_in,
    "large-bodies": put_large,
    "large-bodies-anonymous": post_large_anonymously,
    "logs": read_log,
    "unresolvable-projects": create_unresolvable,
    "lists": list_everything,
    "health": check_health,
}


class Flood:
    """Sends requests of one kind from `threads` threads from the start of the block to its end."""

    def __init__(self, url: str, kind: str, *, threads: int, headers: dict[str, str], deployment: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._url = url
        self._shoot = FLOODS[kind]
        self._headers = headers
        self._deployment = deployment
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            while not self._is_over.is_set():
                try:
                    response = self._shoot(client, self._headers, self._deployment, next(self._numbers))
                    self.statuses[response.status_code] += 1
                except httpx.TransportError:
                    # The server ends connections of those who send what nobody reads.
                    self.statuses[0] += 1


def main() -> None:
    url, kind, threads, token, deployment = sys.argv[1:]
    headers = {"Authorization": f"Bearer {token}"}
    with Flood(url, kind, threads=int(threads), headers=headers, deployment=deployment) as flood:
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        sys.stdin.read()
    sys.stdout.write(json.dumps(flood.statuses) + "\n")


if __name__ == "__main__":
    main()
