"""What a worker's log lines say of the job they are about."""

from __future__ import annotations

import json
import subprocess
import sys

import structlog
from dramatiq.brokers.stub import StubBroker

from schemas.messages import Job
from shared.deployments.state import Pool
from shared.queue.base import Lease
from shared.queue.dramatiq.lease import RunningLease
from shared.queue.records import AcquiredJob
from shared.signals import Signal
from workers.jobs.actors import declare_actor
from workers.pipeline.outcome import Outcome, Over


def test_lines_name_deployment_stage_attempt_fence_and_worker() -> None:
    payload = {"deployment_id": "depl_1", "tenant_id": "ten_1", "stage": "build"}
    job = Job(id="depl_1:build", pool="build", actor="run_stage", tenant_id="ten_1", payload=payload)
    lease = RunningLease(AcquiredJob(job, 7, 2, is_cancelled=False), stopping=Signal())
    seen: list[dict[str, object]] = []
    broker = StubBroker()

    def run(_lease: Lease) -> Outcome[object]:
        seen.append(structlog.contextvars.get_contextvars())
        return Over()

    declare_actor(broker, Pool.BUILD, run, lambda: lease, worker="host-build-1", observe=lambda _lease, _outcome: None)
    broker.actors["run_stage"].fn({})
    assert seen == [
        {"job": "depl_1:build", "deployment_id": "depl_1", "stage": "build", "attempt": 2, "fence": 7,
         "worker": "host-build-1"}
    ]  # fmt: skip
    assert structlog.contextvars.get_contextvars() == {}


def test_the_role_is_logged_on_every_thread() -> None:
    code = """
import threading, structlog, logging
from shared.logging import configure_logging
configure_logging("worker-build")
thread = threading.Thread(target=lambda: structlog.get_logger("a").warning("inside"))
thread.start(); thread.join()
logging.getLogger("library").warning("outside")
"""
    finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in finished.stderr.splitlines()]
    assert [(line["event"], line["role"]) for line in lines] == [
        ("inside", "worker-build"),
        ("outside", "worker-build"),
    ]
