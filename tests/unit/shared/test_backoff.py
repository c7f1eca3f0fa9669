from __future__ import annotations

import pytest

from shared.backoff import Backoff


@pytest.mark.parametrize(("failures", "expected"), [(1, 0.5), (2, 1.0), (4, 4.0), (5, 5.0), (10_000, 5.0)])
def test_delays_double_up_to_the_maximum(failures: int, expected: float) -> None:
    assert Backoff(0.5, 5.0, jitter=0.0).delay_seconds(failures) == expected


def test_delays_grow_by_the_factor() -> None:
    backoff = Backoff(2.0, 20.0, jitter=0.0, factor=4.0)
    assert [backoff.delay_seconds(failures) for failures in (1, 2, 3, 10_000)] == [2.0, 8.0, 20.0, 20.0]


def test_jitter_takes_away_at_most_its_part_of_the_delay() -> None:
    delays = {Backoff(1.0, 8.0, jitter=0.5).delay_seconds(3) for _ in range(100)}
    assert 2.0 <= min(delays) <= max(delays) <= 4.0
    assert len(delays) > 1
