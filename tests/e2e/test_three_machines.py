"""Three machines in network namespaces, the stores on a fourth: killed, cut off, healed and restarted under load."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.git_server import GitServer
from tests.support.machines import network, verdict
from tests.support.machines.cluster import STORES, Cluster, Machine
from tests.support.machines.load import Load
from tests.support.machines.network import Network
from tests.support.machines.readers import RouterReader
from tests.support.machines.stores_program import OBJECT_STORE_PORTS
from tests.support.ports import free_ports

T = TypeVar("T")

_PLANS = (("FREE", 1), ("FREE", 1), ("PRO", 3))
_PROJECTS_OF_EACH = 2
# A machine that comes back has to start up to ten processes, on a busy machine.
_BACK_SECONDS = 120.0


class Chaos:
    """The accidents, in a seeded order. `seconds` is how long each takes; a cut is longer than a lease."""

    def __init__(self, cluster: Cluster, chance: random.Random, *, seconds: float, rest_seconds: float) -> None:
        self._cluster = cluster
        self._chance = chance
        self._seconds = seconds
        self._rest_seconds = rest_seconds
        self.told: list[tuple[float, str]] = []

    def short_round(self) -> None:
        """A part of the accidents, a different one for each seed."""
        cut, killed, either = self._shuffled(self._cluster.machines)
        is_silent = self._chance.random() < 0.5
        name = self._chance.choice(STORES)
        accidents = [
            lambda: self.cut(cut, is_silent=is_silent),
            lambda: self.kill(killed),
            self._chance.choice([lambda: self.cut(either, is_silent=not is_silent), lambda: self.kill(either)]),
            self.restart_stores,
            lambda: self.stop(name),
            self._chance.choice([lambda: self.stop(*STORES), self.cut_stores]),
        ]
        for accident in self._shuffled(accidents):
            accident()

    def one_round(self) -> None:
        accidents: list[Callable[[], None]] = [
            *(lambda machine=machine: self.kill(machine) for machine in self._cluster.machines),
            *(
                lambda machine=machine, number=number: self.cut(machine, is_silent=number % 2 == 0)
                for number, machine in enumerate(self._shuffled(self._cluster.machines))
            ),
            self.restart_stores,
            *(lambda name=name: self.stop(name) for name in STORES),
            lambda: self.stop(*STORES),
            self.cut_stores,
        ]
        for accident in self._shuffled(accidents):
            accident()

    def kill(self, machine: Machine) -> None:
        self._tell(f"{machine.name} is killed")
        machine.kill()
        self._wait(self._chance.uniform(0.2, 1.0) * self._seconds)
        self._tell(f"{machine.name} starts")
        machine.start()
        self._wait_back(machine)

    def cut(self, machine: Machine, *, is_silent: bool) -> None:
        self._tell(f"{machine.name} is cut off, {'silently' if is_silent else 'by its cable'}")
        machine.cut(is_silent=is_silent)
        self._wait(self._seconds)
        machine.heal()
        self._tell(f"{machine.name} is healed")
        self._wait_back(machine)

    def restart_stores(self) -> None:
        stores = self._cluster.stores
        self._tell("the stores are killed")
        stores.kill()
        self._wait(self._chance.uniform(0.0, 0.5) * self._seconds)
        stores.start()
        self._tell("the stores start")
        self._wait_back(*self._cluster.machines)

    def stop(self, *programs: str) -> None:
        self._tell(f"{', '.join(programs)} stopped")
        for program in programs:
            self._cluster.stores.signal_all(program, signal.SIGSTOP)
        self._wait(self._seconds)
        for program in programs:
            self._cluster.stores.signal_all(program, signal.SIGCONT)
        self._tell(f"{', '.join(programs)} continue")
        self._wait_back(*self._cluster.machines)

    def cut_stores(self) -> None:
        self._tell("the stores are cut off")
        self._cluster.stores.cut(is_silent=self._chance.random() < 0.5)
        self._wait(self._seconds)
        self._cluster.stores.heal()
        self._tell("the stores are healed")
        self._wait_back(*self._cluster.machines)

    def _wait_back(self, *machines: Machine) -> None:
        """Until their routers are ready again."""
        deadline = time.monotonic() + _BACK_SECONDS
        while not all(self._cluster.is_ready(machine) for machine in machines):
            assert time.monotonic() < deadline, f"not ready again: {[machine.name for machine in machines]}"
            time.sleep(0.1)
        self._tell(f"{', '.join(machine.name for machine in machines)} ready")
        self._wait(self._rest_seconds)

    def _wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def _shuffled(self, items: Sequence[T]) -> list[T]:
        return self._chance.sample(items, len(items))

    def _tell(self, text: str) -> None:
        self.told.append((time.monotonic(), text))
        print(f"{self.told[-1][0]:.2f} {text}", flush=True)


@pytest.mark.timeout(14_400)
def test_three_machines(tmp_path: Path):
    reason = network.why_not()
    if reason is not None:
        pytest.skip(reason)
    seed = int(os.environ.get("CLOUDIFY_MACHINES_SEED") or 1)
    outage_seconds = float(os.environ.get("CLOUDIFY_MACHINES_OUTAGE_SECONDS") or 5)
    # A part of one if it is 0.
    rounds = int(os.environ.get("CLOUDIFY_MACHINES_ROUNDS") or 0)
    lease_seconds = min(30.0, max(3.0, outage_seconds / 2))
    print(f"seed {seed}, outages of {outage_seconds:.0f} s, {rounds} rounds")
    s3_port = _consecutive_ports(OBJECT_STORE_PORTS)
    net = Network()
    with net.entered():
        git = GitServer(tmp_path / "repositories", net.address)
        git.root.mkdir()
        threading.Thread(target=git.serve_forever, daemon=True).start()
        cluster = Cluster(net, tmp_path, seed, lease_seconds=lease_seconds, s3_port=s3_port)
        try:
            with cluster.running():
                cluster.wait_until_up(_BACK_SECONDS)
                _run(cluster, Load(cluster, git.root, git.url(""), seed), seed, outage_seconds, rounds)
        finally:
            git.shutdown()
            git.server_close()


def _consecutive_ports(count: int) -> int:
    """The first of so many ports in a row that no other process that runs tests has."""
    ports = free_ports(count)
    while ports[-1] - ports[0] != count - 1:
        ports = [*ports[1:], *free_ports(1)]
    return ports[0]


def _run(cluster: Cluster, load: Load, seed: int, outage_seconds: float, rounds: int) -> None:
    started = time.monotonic()
    load.prepare(_PLANS, _PROJECTS_OF_EACH)
    readers = [RouterReader(machine, load.hosts, load.young) for machine in cluster.machines]
    limits = verdict.LimitWatch(cluster, load.accounts)
    stalls = verdict.StallWatch()
    activations = verdict.ActivationWatch(cluster)
    watches = [*readers, limits, stalls, activations]
    for watch in watches:
        watch.start()
    load.start()
    chaos = Chaos(cluster, random.Random(seed), seconds=outage_seconds, rest_seconds=0.5)
    began = time.monotonic()
    try:
        time.sleep(2)
        if rounds == 0:
            chaos.short_round()
        for _ in range(rounds):
            chaos.one_round()
        ended = time.monotonic()
        load.stop(_BACK_SECONDS)
        load.wait_until_settled(2 * _BACK_SECONDS)
        settled = time.monotonic()
        time.sleep(2)
    finally:
        for watch in watches:
            watch.stop()
        load.stop(_BACK_SECONDS)
        load.api.close()
    lags = verdict.lags(readers, activations.numbers, stalls)
    troubles = [trouble for reader in readers for trouble in reader.troubles]
    problems = [
        *verdict.problems_of_records(cluster, load, limits),
        *map(str, troubles),
        *lags.too_long,
        *lags.went_back,
        *(f"no router was ready: {time_}" for time_ in verdict.nobody_ready(readers, began, ended)),
    ]
    print(
        f"{began - started:.0f} s until the first sites are ready, {ended - began:.0f} s of accidents, "
        f"{settled - ended:.0f} s until all is done; "
        f"{sum(len(project.requested) for project in load.projects)} deployments, "
        f"{sum(project.releases for project in load.projects)} rollbacks and promotions; "
        f"{sum(len(reader.readings) for reader in readers)} readings; at most {limits.greatest} slots; "
        f"the longest difference between two ready routers was {lags.worst:.2f} s ({lags.what})"
    )
    assert problems == [], "\n".join(problems[:60])
