"""What probes are told of a process."""

from __future__ import annotations

from shared.process_health import ProcessHealth


def test_a_process_is_ready_between_its_start_and_its_end() -> None:
    health = ProcessHealth()
    assert health.answer("/live") == (True, "live")
    assert health.answer("/ready") == (False, "The process is starting.")
    health.set_ready()
    assert health.answer("/ready") == (True, "ready")
    health.set_not_ready("The worker is stopping.")
    assert health.answer("/ready") == (False, "The worker is stopping.")
    assert health.answer("/live") == (True, "live")
    assert health.answer("/api/metrics/prometheus") is None
