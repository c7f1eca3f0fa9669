"""How the server's connections are shared, and which one ends when there is no room."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from api.edge.places import Places, connections_for

LOOPBACK = "127.0.0.1"


@dataclass(eq=False)
class Holder:
    host: str
    is_idle: bool = True
    given_way: list[str] = field(default_factory=list)

    def give_way(self) -> None:
        self.given_way.append(self.host)


def taken(places: Places, hosts: list[str]) -> int:
    return sum(places.take(Holder(host), host) for host in hosts)


@pytest.mark.parametrize(
    ("hosts", "count"),
    [
        (["192.0.2.1"] * 10, 3),
        (["192.0.2.1", "::ffff:192.0.2.1"] * 5, 3),
        ([f"192.0.2.{number}" for number in range(100)], 100),
        ([f"2001:db8::{number:x}" for number in range(10)], 3),
        ([f"2001:db8:0:{number:x}::1" for number in range(100)], 12),
        ([f"2001:db8:{number:x}::1" for number in range(100)], 100),
        ([LOOPBACK, "::1", "::ffff:127.0.0.1", "", "fe80::1%eth0"] * 3, 15),
    ],
)
def test_an_address_and_a_site_have_so_many(hosts: list[str], count: int) -> None:
    assert taken(Places(most_of_an_address=3), hosts) == count


def test_a_place_that_is_given_back_can_be_taken_again() -> None:
    places = Places(most=3, most_of_an_address=3)
    holders = [Holder("2001:db8::1") for _ in range(3)]
    assert all(places.take(holder, holder.host) for holder in holders)
    places.give_back(holders[0])
    places.give_back(holders[0])
    assert taken(places, ["2001:db8::2"] * 2) == 1


@pytest.mark.parametrize(
    ("held", "newcomer", "given_way"),
    [
        (["192.0.2.1"] * 4, "192.0.2.2", ["192.0.2.1"]),
        (["192.0.2.1"] * 4, LOOPBACK, ["192.0.2.1"]),
        (["192.0.2.1"] * 4, "192.0.2.1", None),
        (["192.0.2.1"] * 2 + ["192.0.2.2"] * 2, "192.0.2.2", None),
        (["192.0.2.1"] * 3 + ["192.0.2.2"], "192.0.2.2", ["192.0.2.1"]),
        ([f"192.0.2.{number}" for number in range(4)], "192.0.2.9", None),
        ([f"2001:db8:0:{number}::1" for number in range(4)], "192.0.2.9", ["2001:db8:0:0::1"]),
        ([LOOPBACK] * 4, "192.0.2.1", None),
    ],
)
def test_the_holder_of_the_most_connections_makes_room(
    held: list[str], newcomer: str, given_way: list[str] | None
) -> None:
    places = Places(most=4)
    holders = [Holder(host) for host in held]
    assert all(places.take(holder, holder.host) for holder in holders)
    assert places.take(Holder(newcomer), newcomer) == (given_way is not None)
    assert [host for holder in holders for host in holder.given_way] == (given_way or [])


@pytest.mark.parametrize(("idle", "ended"), [([False, True, True], 1), ([False, False, False], 2)])
def test_an_idle_connection_ends_before_a_busy_one(idle: list[bool], ended: int) -> None:
    places = Places(most=3)
    holders = [Holder("192.0.2.1", is_idle) for is_idle in idle]
    assert all(places.take(holder, holder.host) for holder in holders)
    assert places.take(Holder("192.0.2.2"), "192.0.2.2")
    assert [bool(holder.given_way) for holder in holders].index(True) == ended


def test_a_flood_from_many_addresses_leaves_everybody_a_place() -> None:
    """However places are taken and given back, there are never more than there are, and a newcomer gets one."""
    generator = random.Random(5)
    places, holders = Places(most=50, most_of_an_address=20), []
    for _ in range(5000):
        holders = [holder for holder in holders if not holder.given_way]
        if holders and generator.random() < 0.3:
            places.give_back(holders.pop(generator.randrange(len(holders))))
        host = f"192.0.2.{int(generator.expovariate(0.5))}"
        holder = Holder(host)
        held = Counter(other.host for other in holders)
        is_new_to_a_crowd = not held[host] and max(held.values(), default=0) > 1
        if places.take(holder, host):
            holders.append(holder)
        else:
            assert not is_new_to_a_crowd
        assert sum(not holder.given_way for holder in holders) <= 50


@pytest.mark.parametrize(("files", "connections"), [(1024, 896), (128, 64), (65_536, 16_384)])
def test_other_files_stay_free(files: int, connections: int) -> None:
    assert connections_for(files) == connections
