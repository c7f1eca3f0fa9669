from __future__ import annotations

from workers.egress.accounts import ReachedHost, Traffic
from workers.stages.build.network import summary


def test_the_largest_hosts_are_named() -> None:
    hosts = tuple(ReachedHost(f"h{number}.example", number, number * 1024) for number in range(1, 31))
    line = summary(Traffic((), hosts))
    assert line.startswith("The build reached h30.example (30.0 KiB received, 30 B sent), h29.example (")
    assert line.endswith("h11.example (11.0 KiB received, 11 B sent) and 10 more (55.0 KiB received, 55 B sent).")


def test_nothing_reached_and_something_refused() -> None:
    assert summary(Traffic()) == "The build had a network and reached no host."
    refused = summary(Traffic(("a.example", "b.example"), ()))
    assert refused == "The build had a network and reached no host. 2 hosts were refused."
