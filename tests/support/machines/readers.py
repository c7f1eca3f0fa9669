"""Readers of sites, one at each machine's router, on the machine itself: what is cut off from the others still serves.

Each answer is recorded with what was known of the router then, for the verdict.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.background import BackgroundThread
from tests.support.machines.cluster import ROUTER_PORT, SITES_PORT, Machine
from tests.support.machines.network import enter_network

_PAUSE_SECONDS = 0.05
_TIMEOUT_SECONDS = 10.0
# Each so many rounds the whole page is compared, which is larger.
_PAGE_EVERY = 5
# As long as ready routers may differ.
_YOUNG_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """`healthy_since`: since when the router has been reachable and ready without a break; None if it wasn't."""

    machine: str
    host: str
    began: float
    ended: float
    deployment_id: str
    healthy_since: float | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a reader must not see. `age`: seconds since the machine's router was first ready after its start."""

    machine: str
    host: str
    at: float
    text: str
    is_ready: bool
    age: float

    def __str__(self) -> str:
        state = "ready" if self.is_ready else "not ready"
        return (
            f"{self.at:.2f} {self.machine} ({state} router, first ready {self.age:.1f} s ago) {self.host}: {self.text}"
        )


class _ComeAgain(Exception):
    """503 with Retry-After: the router lacks the site's files. That is no answer of a router that is ready."""


@dataclass
class RouterReader:
    """Reads all of `hosts`, and of `young` ones, again and again. `stop` before the network ends.

    `hosts` have been at every router from the beginning. `young`: host → since when the platform says it is ready,
    which a router that was cut off may not know.
    """

    machine: Machine
    hosts: Sequence[str]
    young: Mapping[str, float]
    readings: list[Reading] = field(default_factory=list[Reading])
    troubles: list[Trouble] = field(default_factory=list[Trouble])
    # (moment, whether it was ready), of each change.
    readiness: list[tuple[float, bool]] = field(default_factory=list[tuple[float, bool]])

    def __post_init__(self) -> None:
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self._thread = BackgroundThread(f"reader-{self.machine.name}", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop(_TIMEOUT_SECONDS)

    def _run(self, stopping: threading.Event) -> None:
        generation, rounds = 0, 0
        first_ready: float | None = None
        ready_since: float | None = None
        while not stopping.wait(_PAUSE_SECONDS):
            path = self.machine.network_path
            if path is None:
                ready_since = first_ready = None
                self._note(is_ready=False)
                continue
            if generation != self.machine.generation:
                self._disconnect()
                ready_since = first_ready = None
                try:
                    enter_network(path)
                except OSError:
                    continue  # it ended a moment ago
                generation = self.machine.generation
            now = time.monotonic()
            if not self._is_ready():
                ready_since = None
            elif ready_since is None:
                ready_since = now
                first_ready = first_ready or now
            self._note(is_ready=ready_since is not None)
            rounds += 1
            if first_ready is not None:
                self._read_all(generation, ready_since, first_ready, with_pages=rounds % _PAGE_EVERY == 0)
        self._disconnect()

    def _read_all(self, generation: int, ready_since: float | None, first_ready: float, *, with_pages: bool) -> None:
        found: list[tuple[str, float, float, str]] = []
        linked_at = self.machine.linked_at if self.machine.is_linked else None
        missing: list[tuple[str, float]] = []
        refused: list[tuple[str, float]] = []
        young = dict(self.young)
        for host in [*self.hosts, *young]:
            began = time.monotonic()
            problem = None
            try:
                status, text = self._get(SITES_PORT, "/.well-known/cloudify/deployment", host)
                if status == http.client.OK:
                    found.append((host, began, time.monotonic(), text.strip()))
                    problem = self._page_problem(host) if with_pages else None
                elif host in young:
                    missing.append((host, began))
                else:
                    problem = f"answers {status}: {text[:80]}"
            except _ComeAgain:
                (missing if host in young else refused).append((host, began))
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
            if host in young and host not in self.young:
                continue  # deleted meanwhile
            # A machine that is killed meanwhile breaks off what it was sending.
            if problem and self.machine.is_running and self.machine.generation == generation:
                self.troubles.append(
                    Trouble(self.machine.name, host, began, problem, ready_since is not None, began - first_ready)
                )
        # Only what was so before and after counts.
        is_ready = ready_since is not None and self._is_ready()
        for host, began in refused if is_ready else ():
            self.troubles.append(
                Trouble(self.machine.name, host, began, "answers 503", is_ready=True, age=began - first_ready)
            )
        is_healthy = (
            is_ready and linked_at is not None and self.machine.is_linked and self.machine.linked_at == linked_at
        )
        healthy_since = max(ready_since or 0.0, linked_at or 0.0) if is_healthy else None
        if healthy_since is not None:
            for host, began in missing:
                if began - max(healthy_since, young[host]) > _YOUNG_SECONDS and host in self.young:
                    self.troubles.append(
                        Trouble(
                            self.machine.name, host, began, "has no such site", is_ready=True, age=began - first_ready
                        )
                    )
        self.readings += [Reading(self.machine.name, *reading, healthy_since) for reading in found]

    def _page_problem(self, host: str) -> str | None:
        status, text = self._get(SITES_PORT, "/", host)
        if status != http.client.OK:
            return f"the page answers {status}"
        lines = set(text.split())
        return None if len(lines) == 1 else f"the page is a mix of {sorted(lines)[:4]}"

    def _is_ready(self) -> bool:
        try:
            return self._get(ROUTER_PORT, "/ready", None)[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def _note(self, *, is_ready: bool) -> None:
        if not self.readiness or self.readiness[-1][1] != is_ready:
            self.readiness.append((time.monotonic(), is_ready))

    def _get(self, port: int, path: str, host: str | None) -> tuple[int, str]:
        connection = self._connections.get(port)
        if connection is None:
            connection = http.client.HTTPConnection(self.machine.address, port, timeout=_TIMEOUT_SECONDS)
            self._connections[port] = connection
        try:
            connection.request("GET", path, headers={} if host is None else {"Host": f"{host}.localhost"})
            answer = connection.getresponse()
            text = answer.read().decode()
            if (
                port == SITES_PORT
                and answer.status == http.client.SERVICE_UNAVAILABLE
                and answer.headers["Retry-After"]
            ):
                raise _ComeAgain
            return answer.status, text
        except (OSError, http.client.HTTPException):
            del self._connections[port]
            connection.close()
            raise

    def _disconnect(self) -> None:
        while self._connections:
            self._connections.popitem()[1].close()
