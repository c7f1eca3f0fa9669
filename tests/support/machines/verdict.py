"""What must hold after everything has healed, from what readers saw, what users asked for and what is recorded."""

from __future__ import annotations

import bisect
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import msgspec
from redis.exceptions import RedisError

from shared.background import BackgroundThread
from shared.errors import Unavailable
from tests.support.machines.cluster import SITES_PORT, Cluster
from tests.support.machines.load import Account, Load
from tests.support.machines.readers import Reading, RouterReader

_SAMPLE_SECONDS = 0.05
_COLLECT_SECONDS = 2.0
# All routers at once may be about to change their mind for so long.
_NOBODY_READY_SECONDS = 2.0


class LimitWatch:
    """Looks at the slots of all accounts all the time. The users' own counts are in the queue's running sets."""

    def __init__(self, cluster: Cluster, accounts: Sequence[Account]) -> None:
        self._cluster = cluster
        self._accounts = accounts
        self.passed: list[str] = []
        self.greatest = 0
        self._thread = BackgroundThread("limit-watch", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop(10)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(_SAMPLE_SECONDS):
            for account in self._accounts:
                try:
                    slots = self._cluster.queue.running_set(account.tenant_id)
                except (RedisError, OSError, Unavailable):
                    break
                self.greatest = max(self.greatest, len(slots))
                if len(slots) > account.limit:
                    self.passed.append(f"{account.tenant_id} has {len(slots)} slots of {account.limit}: {slots}")


class StallWatch:
    """How long this process didn't get to run, of a machine that is busy with other things: (from, until)."""

    def __init__(self) -> None:
        self.stalls: list[tuple[float, float]] = []
        self._thread = BackgroundThread("stall-watch", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop(1)

    def _run(self, stopping: threading.Event) -> None:
        while True:
            before = time.monotonic()
            if stopping.wait(0.05):
                return
            after = time.monotonic()
            if after - before > 0.15:
                self.stalls.append((before, after))

    def seconds(self, since: float, until: float) -> float:
        return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in self.stalls)


class _Activation(msgspec.Struct, frozen=True):
    number: int
    host: str
    deployment_id: str


class _Row(msgspec.Struct, frozen=True):
    id: str
    status: str
    detail: str | None


class _Run(msgspec.Struct, frozen=True):
    tenant_id: str
    id: str
    began: float
    ended: float


@dataclass
class Lags:
    """`worst`: the longest that a healthy router served what another healthy one had replaced, with what it was."""

    worst: float = 0.0
    what: str = "none"
    too_long: list[str] = field(default_factory=list[str])
    went_back: list[str] = field(default_factory=list[str])


@dataclass
class Span:
    """What a router has surely reached while it was healthy without a break: (moment, number), growing."""

    since: float
    times: list[float] = field(default_factory=list[float])
    numbers: list[int] = field(default_factory=list[int])


class ActivationWatch:
    """Collects the log's activations while it is written, as it keeps only the newest changes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._last = 0
        # Host → deployment → the numbers of the changes that pointed the host at it, ascending.
        self.numbers: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._thread = BackgroundThread("activation-watch", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Collects the last ones, unless the database is away."""
        self._thread.stop(30)
        with contextlib.suppress(Unavailable):
            self._collect()

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(_COLLECT_SECONDS):
            with contextlib.suppress(Unavailable):
                self._collect()

    def _collect(self) -> None:
        rows = self._cluster.database.fetch_all(
            _Activation,
            "SELECT number, host, deployment_id FROM route_changes "
            "WHERE kind = 'activate' AND number > %(last)s ORDER BY number",
            {"last": self._last},
        )
        for row in rows:
            self.numbers[row.host][row.deployment_id].append(row.number)
            self._last = row.number


def lags(readers: Sequence[RouterReader], numbers: dict[str, dict[str, list[int]]], stalls: StallWatch) -> Lags:
    """A deployment may have been activated more than once: a reading counts as the newest of these where a router is
    suspected, and as the oldest possible where it serves as the proof against another.
    """
    result = Lags()
    by_host: dict[str, list[Reading]] = defaultdict(list)
    for reader in readers:
        for reading in reader.readings:
            by_host[reading.host].append(reading)
    for host, readings in by_host.items():
        _compare(host, sorted(readings, key=lambda reading: reading.ended), numbers[host], stalls, result)
    return result


def _compare(
    host: str, readings: Sequence[Reading], numbers: dict[str, list[int]], stalls: StallWatch, result: Lags
) -> None:
    reached: dict[str, int] = defaultdict(int)
    spans: dict[str, Span] = {}
    for reading in readings:
        known = numbers.get(reading.deployment_id)
        if not known:
            result.went_back.append(f"{host} at {reading.machine}: {reading.deployment_id} was never activated")
            continue
        machine = reading.machine
        at_least = next((number for number in known if number >= reached[machine]), None)
        if at_least is None:
            result.went_back.append(
                f"{host} at {machine} went from {reached[machine]} back to {known[-1]} at {reading.began:.2f}"
            )
            continue
        reached[machine] = at_least
        if reading.healthy_since is None:
            spans.pop(machine, None)
            continue
        span = spans.get(machine)
        if span is None or span.since != reading.healthy_since:
            span = spans[machine] = Span(reading.healthy_since)
        if not span.numbers or span.numbers[-1] < at_least:
            span.times.append(reading.ended)
            span.numbers.append(at_least)
        for other, theirs in spans.items():
            newer = bisect.bisect_right(theirs.numbers, known[-1])
            if other == machine or newer == len(theirs.numbers):
                continue
            both_since = max(theirs.times[newer], theirs.since, span.since)
            lag = reading.began - both_since - stalls.seconds(both_since, reading.began)
            what = f"{host} at {machine} behind {other} for {lag:.2f} s at {reading.began:.2f}"
            if lag > result.worst:
                result.worst, result.what = lag, what
            if lag > 1.0:
                result.too_long.append(what)


def nobody_ready(readers: Sequence[RouterReader], since: float, until: float) -> list[str]:
    """Times in which no router at all was ready, longer than a moment."""
    changes = sorted((at, number, state) for number, reader in enumerate(readers) for at, state in reader.readiness)
    states = [False] * len(readers)
    found: list[str] = []
    empty_since: float | None = None
    for at, number, state in [*changes, (until, 0, True)]:
        if at < since:
            states[number] = state
            continue
        if empty_since is not None and (state or at >= until):
            if at - empty_since > _NOBODY_READY_SECONDS:
                found.append(f"{empty_since:.2f} to {at:.2f}")
            empty_since = None
        states[number] = state
        if not any(states):
            empty_since = at
    return found


def problems_of_records(cluster: Cluster, load: Load, watch: LimitWatch) -> list[str]:
    """What PostgreSQL and the queue say after everything has settled."""
    database = cluster.database
    rows = {
        row.id: row
        for row in database.fetch_all(
            _Row, "SELECT id, status::text, error_code || ': ' || error_message AS detail FROM deployments"
        )
    }
    problems = [*watch.passed, *load.problems]
    kept = [project for project in load.projects if not project.is_deleted]
    requested = [deployment for project in kept for deployment in project.requested.values()]
    problems += [f"{id_} is lost" for id_ in requested if id_ not in rows]
    problems += [f"{id_} was never asked for, or twice" for id_ in rows.keys() - set(requested)]
    problems += [f"{row.id} is {row.status}: {row.detail}" for row in rows.values() if row.status != "ready"]
    problems += [
        f"release {row.id} is {row.status}: {row.detail}"
        for row in database.fetch_all(
            _Row,
            "SELECT id, status::text, error_message AS detail FROM releases WHERE status NOT IN ('done', 'superseded')",
        )
    ]
    releases = database.fetch_value(int, "SELECT count(*) FROM releases") or 0
    accepted = sum(project.releases for project in load.projects)
    if releases != accepted:
        problems.append(f"{accepted} rollbacks and promotions were accepted, {releases} are recorded")
    problems += _overlaps(cluster, load)
    for account in load.accounts:
        left = cluster.queue.running_set(account.tenant_id)
        problems += [f"{slot} still has a slot" for slot in left]
    problems += _wrong_routes(cluster)
    problems += _wrong_answers(cluster, load)
    return problems


def _wrong_answers(cluster: Cluster, load: Load) -> list[str]:
    """Every router serves what PostgreSQL has, and nothing of what was deleted."""
    routes = {
        row.id: row.status
        for row in cluster.database.fetch_all(
            _Row, "SELECT host AS id, deployment_id AS status, NULL AS detail FROM routes"
        )
    }
    found = [
        f"{project.slug} has no route"
        for project in load.projects
        if not project.is_deleted and project.slug not in routes
    ]
    for machine in cluster.machines:
        for host in [*routes, *load.deleted]:
            answer = httpx.get(
                f"http://{machine.address}:{SITES_PORT}/.well-known/cloudify/deployment",
                headers={"Host": f"{host}.localhost"},
                timeout=10,
                trust_env=False,
            )
            served = answer.text.strip() if answer.status_code == 200 else None
            if served != routes.get(host):
                found.append(f"{machine.name} serves {served} for {host} at the end, which is {routes.get(host)}")
    return found


def _overlaps(cluster: Cluster, load: Load) -> list[str]:
    """By the records, no account ever ran more deployments at once than its plan allows."""
    runs = cluster.database.fetch_all(
        _Run,
        "SELECT d.tenant_id, d.id, extract(epoch FROM min(r.started_at))::float8 AS began, "
        "extract(epoch FROM max(r.finished_at))::float8 AS ended "
        "FROM deployments d JOIN stage_runs r ON r.deployment_id = d.id "
        "WHERE r.finished_at IS NOT NULL GROUP BY d.tenant_id, d.id",
    )
    found: list[str] = []
    for account in load.accounts:
        own = [run for run in runs if run.tenant_id == account.tenant_id]
        events = sorted([(run.began, 1) for run in own] + [(run.ended, -1) for run in own])
        at_once = greatest = 0
        for _at, step in events:
            at_once += step
            greatest = max(greatest, at_once)
        if greatest > account.limit:
            found.append(f"{account.tenant_id} ran {greatest} deployments at once, allowed are {account.limit}")
    return found


def _wrong_routes(cluster: Cluster) -> list[str]:
    """Production is what is recorded as active."""
    return cluster.database.fetch_values(
        str,
        "SELECT p.slug || ' is routed to ' || COALESCE(r.deployment_id, 'nothing') || ', active is ' || d.id "
        "FROM projects p JOIN deployments d ON d.project_id = p.id AND d.is_active "
        "LEFT JOIN routes r ON r.host = p.slug WHERE r.deployment_id IS DISTINCT FROM d.id",
    )
