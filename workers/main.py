"""`python -m workers.main <pool>`: the composition root of one worker pool's process."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable
from functools import partial

import dramatiq
import structlog

from schemas.messages import CLEANUP_ACTOR, RELEASE_ACTOR, STAGE_ACTOR
from shared.db.database import connections_for
from shared.db.migrate import wait_until_migrated
from shared.db.schema_version import MigrationError
from shared.deployments.state import DEFAULT_THREADS, Pool, Stage
from shared.errors import PlatformError
from shared.logging import configure_logging
from shared.metrics_listener import start_metrics_listener
from shared.open_files import raise_file_limit
from shared.plans import PlanLimits
from shared.private_files import keep_files_private
from shared.process_health import ProcessHealth
from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.credential_service import RepositoryCredentialService
from shared.projects.repository_url import secrets_of
from shared.projects.variable_repository import VariableRepository
from shared.projects.variable_service import VariableService
from shared.queue.dramatiq.broker import PriorityBroker, current_lease
from shared.queue.dramatiq.holds import Holds
from shared.secrets_box import SecretsBox
from shared.settings import Settings, SettingsError, load_settings
from shared.stop_signals import on_stop_signals
from shared.tracing import export_spans
from shared.worker_life import DeadWorkers, WorkerLife, lives_directory
from workers.composition import WorkerContext
from workers.filesystem.trees import StageDirectories
from workers.jobs.actors import ACTOR_OF_POOL, Run, declare_actor
from workers.jobs.cleanup_runner import CleanupRunner
from workers.jobs.failure_pause import FailurePause
from workers.jobs.release_runner import ReleaseRunner
from workers.jobs.scratch_sweep import ScratchSweep
from workers.jobs.stage_runner import StageRunner
from workers.pipeline.table import build_stage

_log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cloudify worker", description="Runs one worker pool.")
    parser.add_argument("pool", choices=[pool.value for pool in Pool])
    parser.add_argument("--threads", type=int, default=None, help="jobs at once in this process")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 2
    pool = Pool(options.pool)
    configure_logging(f"worker-{pool.value}", settings.logs.level)
    # Before anything else runs, so that none is missed.
    stop = StopRequest()
    on_stop_signals(stop.ask)
    raise_file_limit()
    keep_files_private(settings.directories.home)
    end_tracing = export_spans(settings.tracing, f"worker-{pool.value}")
    try:
        if wait_until_migrated(settings.database.url, stop.is_asked):
            run_pool(settings, pool, options.threads or DEFAULT_THREADS[pool], stop)
    except (MigrationError, PlatformError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 1
    finally:
        end_tracing()
    return 0


class StopRequest:
    """Asked once: take nothing new and let what runs end. Asked again: hand it back at once."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.is_urgent = threading.Event()

    def ask(self) -> None:
        (self.is_urgent if self.is_asked.is_set() else self.is_asked).set()


def run_pool(settings: Settings, pool: Pool, threads: int, stop: StopRequest) -> None:
    """Runs the pool until `stop` is asked, drains it, and hands back what still runs."""
    # The random part: a process id comes again, and two containers may have one host name.
    worker_id = f"{socket.gethostname()}-{pool.value}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    context = WorkerContext(settings, worker_id, connections=connections_for(threads))
    lives = lives_directory(settings.directories.home)
    life = WorkerLife(lives, worker_id, pool.value)
    health = ProcessHealth()

    def hand_back(pool: str, worker: str, counts: bool) -> None:
        answer = context.queue.hand_back(pool, worker, counts=counts)
        if answer.lost:
            _log.error("worker.jobs_lost", pool=pool, worker=worker, jobs=answer.lost)

    dead_workers = DeadWorkers(lives, life, hand_back)
    sweep = ScratchSweep(StageDirectories(settings.directories.work), context.deployments.is_live)
    try:
        # The guard first: a machine whose clock is wrong takes no jobs.
        broker = PriorityBroker(context.queue, worker=context.worker)
        guard = context.clock_guard(partial(_clock_changed, broker.holds))
        life.start()
        dead_workers.start()
        run = job_runner(context, pool)
        pause = FailurePause(broker.holds, check=context.find_problem)
        declare_actor(broker, pool, run, current_lease, worker=context.worker, observe=pause.observe)
        worker = dramatiq.Worker(broker, queues={pool.value}, worker_threads=threads, worker_timeout=1000)
        if settings.metrics.port:
            start_metrics_listener(
                settings.metrics.port, host=settings.metrics.host, names=settings.api.hosts, health=health
            )
        worker.start()
        if ACTOR_OF_POOL[pool] == STAGE_ACTOR:
            sweep.start()
        pause.start()
        guard.start()
        health.set_ready()
        _log.info("worker.ready", pool=pool.value, threads=threads)
        stop.is_asked.wait()
        health.set_not_ready("The worker is stopping.")
        _log.info("worker.draining", pool=pool.value, jobs=len(broker.leases.all()))
        is_drained = broker.drain_jobs(settings.workers.drain_seconds, stop.is_urgent.is_set)
        _log.info("worker.stopping", pool=pool.value, is_drained=is_drained)
        worker.stop(timeout=25_000)
        broker.close()
        guard.stop()
        pause.stop()
        sweep.stop()
        dead_workers.stop()
        life.stop()
    finally:
        # After an error the file stays: it is found without a lock when this process is gone.
        context.close()


def _clock_changed(holds: Holds, problem: str | None) -> None:
    if problem is None:
        holds.resume("clock")
    else:
        holds.pause("clock", problem)


def job_runner(context: WorkerContext, pool: Pool) -> Run:
    """Returns what the pool's actor runs. Each pool builds only what it needs, to stay small."""
    runners: dict[str, Callable[[], Run]] = {
        STAGE_ACTOR: lambda: _stage_runner(context, Stage(pool.value)).run,
        RELEASE_ACTOR: lambda: _release_runner(context).run,
        CLEANUP_ACTOR: lambda: _cleanup_runner(context).run,
    }
    return runners[ACTOR_OF_POOL[pool]]()


def _stage_runner(context: WorkerContext, stage: Stage) -> StageRunner:
    settings, queue = context.settings, context.queue
    box = SecretsBox(settings.secrets.encryption_keys)
    variables = VariableService(database=context.database, variables=VariableRepository(context.database), box=box)
    credentials = RepositoryCredentialService(
        database=context.database, credentials=RepositoryCredentialRepository(context.database), box=box
    )

    def hold_slot(tenant_id: str, deployment_id: str, limits: PlanLimits) -> None:
        queue.hold_slot(tenant_id, deployment_id, limit=limits.concurrent_builds, weight=limits.weight)

    return StageRunner(
        stage=stage,
        function=build_stage(stage, context),
        lifecycle=context.lifecycle,
        open_log=context.open_log,
        read_variables=variables.decrypt_for,
        read_credentials=credentials.open_for,
        secrets_of=lambda row: list(secrets_of(row.repository_url)),
        hold_slot=hold_slot,
        directories=StageDirectories(settings.directories.work),
        limits=settings.limits,
        executor_name=settings.executor.name,
        clock=context.clock,
        worker=context.worker,
        publisher=context.publisher,
    )


def _release_runner(context: WorkerContext) -> ReleaseRunner:
    return ReleaseRunner(
        releases=context.releases,
        lifecycle=context.release_lifecycle,
        publisher=context.publisher,
        site_pods=context.site_pods(),
    )


def _cleanup_runner(context: WorkerContext) -> CleanupRunner:
    return CleanupRunner(
        database=context.database,
        sites=context.sites,
        deployments=context.service,
        publisher=context.publisher,
        log_archives=context.log_archives,
    )


if __name__ == "__main__":
    raise SystemExit(main())
