"""Derives what can be lost from what can't: the queue and the router from PostgreSQL.

Redis may have lost everything, a process may have died between a commit and its enqueue, a router may be new. Each pass
puts back what is missing and frees what nothing holds; a pass changes nothing where all is well, so several
reconcilers do no harm.

Each responsibility has a loop and a lock of its own (`shared/db/responsibilities.py`): none waits for another, and of
several reconcilers one at a time does it.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from shared import metrics
from shared.accounts.session_repository import SessionRepository
from shared.accounts.ticket_repository import StreamTicketRepository
from shared.background import BackgroundThread
from shared.clock_guard import ClockGuard
from shared.db.database import Database
from shared.db.migrate import wait_until_migrated
from shared.db.responsibilities import Responsibility, ResponsibilityLoops
from shared.db.schema_version import MigrationError
from shared.deployments.jobs import (
    cleanup_job,
    cleanup_job_id,
    release_job,
    release_job_id,
    stage_job_id,
    stage_job_of,
)
from shared.deployments.repository import DeploymentRepository
from shared.deployments.rows import DeploymentRow
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.state import LAST_STAGE, DeploymentStatus, Stage
from shared.deployments.termination_service import TerminationService
from shared.errors import FailureCode, PlatformError, Unavailable
from shared.idempotency.repository import IdempotencyRepository
from shared.logging import configure_logging
from shared.logs.account_events import AccountEventStore
from shared.logs.archive.compactor import LogCompactor
from shared.metrics_listener import start_metrics_listener
from shared.plans import limits_of
from shared.private_files import keep_files_private
from shared.process_health import ProcessHealth
from shared.queue.base import WORKER_LOST, CancelAnswer, JobQueue
from shared.queue.errors import QueueFull
from shared.queue.registration import Registration
from shared.releases.repository import ReleaseRepository, ReleaseStatus
from shared.releases.route_repair import RouteRepair
from shared.releases.site_pod_repository import SitePodRepository
from shared.releases.site_repository import SiteRepository
from shared.routing.bell import RouteBell
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.settings import SettingsError, load_settings
from shared.stop_signals import on_stop_signals
from workers.composition import WorkerContext
from workers.exporter.sources import PlatformFigures
from workers.site_pods.upkeep import SitePodUpkeep
from workers.snapshots.store import STAGED_SECONDS, STAGING_PREFIX

_log = structlog.get_logger(__name__)

_EXPIRY_SECONDS = 3600.0
# For the compaction that runs when the process stops; it is repeated if it needs longer.
_STOP_SECONDS = 5.0
# A lock and a connection to work with for each responsibility and the compactor, and one for the clock.
_CONNECTIONS = 13


class Reconciler:
    def __init__(
        self,
        *,
        database: Database,
        queue: JobQueue,
        deployments: DeploymentRepository,
        stage_runs: StageRunRepository,
        releases: ReleaseRepository,
        sites: SiteRepository,
        terminations: TerminationService,
        routes: RouteRepair,
        route_log: RouteLog,
        routers: RouterRepository,
        bell: RouteBell,
        clock_problem: Callable[[], str | None] = lambda: None,
        interval_seconds: float,
        expired: Sequence[Callable[[], object]] = (),
        delete_staged: Callable[[], Sequence[str]] = lambda: (),
        abort_uploads: Callable[[], Sequence[str]] = lambda: (),
        site_pods: SitePodUpkeep | None = None,
    ) -> None:
        self._database = database
        self._queue = queue
        self._deployments = deployments
        self._stage_runs = stage_runs
        self._releases = releases
        self._sites = sites
        self._terminations = terminations
        self._routes = routes
        self._route_log = route_log
        self._routers = routers
        self._bell = bell
        self._clock_problem = clock_problem
        self._expired = expired
        self._delete_staged = delete_staged
        self._abort_uploads = abort_uploads
        self.responsibilities = (
            Responsibility(
                "queue",
                0x7265636F6E000001,
                interval_seconds,
                (
                    self.reconcile_deployments,
                    self.reconcile_slots,
                    self.reconcile_releases,
                    self.reconcile_removals,
                ),
            ),
            Responsibility("routes", 0x7265636F6E000002, interval_seconds, (self.reconcile_routes,)),
            Responsibility("expiry", 0x7265636F6E000003, _EXPIRY_SECONDS, (self.delete_expired,)),
            Responsibility("staging", 0x7265636F6E000004, _EXPIRY_SECONDS, (self.delete_forgotten_objects,)),
        )
        if site_pods is not None:
            self.responsibilities += (
                Responsibility("site-pods", 0x7265636F6E000005, interval_seconds, (site_pods.run,)),
            )

    def run(self, stop: threading.Event) -> None:
        """Runs a loop for each responsibility until `stop` is set."""
        ResponsibilityLoops(self._database, self.responsibilities).run(stop)

    def run_once(self) -> None:
        """One pass over everything, without locks."""
        ResponsibilityLoops(self._database, self.responsibilities).run_once()

    def reconcile_deployments(self) -> None:
        """Every live deployment has exactly one job in the queue, or is ended."""
        rows = self._deployments.live()
        # All of them before anything is enqueued: a queue that lost its slots would hand out what waits as well.
        self._hold_slots([row for row in rows if row.status != DeploymentStatus.QUEUED])
        succeeded = self._stage_runs.succeeded_stages([row.id for row in rows])
        for row in rows:
            stage = next((stage for stage in Stage if stage not in succeeded[row.id]), LAST_STAGE)
            self._attempt_one(row.id, partial(self._reconcile_deployment, row, stage))

    def _hold_slots(self, started: Sequence[DeploymentRow]) -> None:
        held = {tenant_id: self._queue.running_set(tenant_id) for tenant_id in {row.tenant_id for row in started}}
        for row in started:
            # The queue was asked after the rows were read: one that isn't held may have ended since.
            if row.id not in held[row.tenant_id] and self._deployments.is_live(row.id):
                self._hold_slot(row)
                _log.warning("reconciler.slot_held", tenant_id=row.tenant_id, deployment_id=row.id)

    def _hold_slot(self, row: DeploymentRow) -> None:
        limits = limits_of(row.tenant_plan)
        self._queue.hold_slot(row.tenant_id, row.id, limit=limits.concurrent_builds, weight=limits.weight)

    def reconcile_slots(self) -> None:
        """A slot that no live deployment holds is freed."""
        for tenant_id in self._queue.tenants_with_slots():
            for slot in self._queue.running_set(tenant_id):
                if not self._deployments.is_live(slot):
                    self._queue.free_slot(tenant_id, slot)
                    _log.warning("reconciler.slot_freed", tenant_id=tenant_id, deployment_id=slot)

    def reconcile_releases(self) -> None:
        for release in self._releases.pending():
            job_id = release_job_id(release.id)
            if self._queue.death_reason(job_id) == WORKER_LOST:
                self._attempt_one(release.id, partial(self._fail_release, release.id))
            # A dead job has used up its attempts, or its worker died each time: it is tried again, as nobody else will.
            elif self._queue.find(job_id) in (None, "dead"):
                limits = limits_of(release.tenant_plan)
                job = release_job(
                    release_id=release.id,
                    tenant_id=release.tenant_id,
                    limits=limits,
                    traceparent=release.traceparent,
                )
                self._queue.enqueue(job)

    def reconcile_removals(self) -> None:
        self._sites.expire_previews()
        for row in [*self._sites.removing(), *self._sites.deleting_projects()]:
            job_id = cleanup_job_id(row.id)
            if self._queue.death_reason(job_id) == WORKER_LOST:
                # Left to the operator, who is told until the dead letter is requeued or dropped.
                _log.error("cleanup.worker_lost", subject_id=row.id, job=job_id)
            elif self._queue.find(job_id) in (None, "dead"):
                limits = limits_of(row.tenant_plan)
                self._queue.enqueue(cleanup_job(subject_id=row.id, tenant_id=row.tenant_id, limits=limits))

    def reconcile_routes(self) -> None:
        """Every site that is live has its route, and no other host has one. Routers follow by themselves."""
        repaired = self._routes.repair()
        for route in repaired:
            _log.warning("reconciler.route_repaired", host=route.host, deployment_id=route.deployment_id)
        if repaired:
            self._bell.ring()
        self._route_log.compact()
        self._routers.forget_silent()

    def delete_expired(self) -> None:
        """What has had its time: sessions, idempotency keys, events, tickets. Not by a clock that is wrong."""
        if self._clock_problem() is not None:
            return
        for delete in self._expired:
            self._attempt_one("expired", delete)

    def delete_forgotten_objects(self) -> None:
        """What dead workers and pods left in the object store, by the store's own clock."""
        if keys := self._delete_staged():
            _log.warning("reconciler.staged_objects_deleted", objects=len(keys), first=keys[0])
        if keys := self._abort_uploads():
            _log.warning("reconciler.uploads_aborted", uploads=len(keys), first=keys[0])

    def _reconcile_deployment(self, row: DeploymentRow, stage: Stage) -> None:
        places = {candidate: self._queue.find(stage_job_id(row.id, candidate)) for candidate in Stage}
        held = [candidate for candidate, place in places.items() if place in ("ready", "delayed", "running")]
        if row.cancel_requested_at is not None:
            # Told once more: the queue may have been away when the cancellation was accepted.
            answers = {self._queue.cancel(stage_job_id(row.id, candidate), keeps_slot=True) for candidate in held}
            if CancelAnswer.SIGNALLED not in answers and self._deployments.is_live(row.id):
                self._terminations.end_cancelled(row)
            return
        # The queue was asked after the row was read: what finished in between needs nothing.
        if held or not self._deployments.is_live(row.id):
            return
        dead = [stage_job_id(row.id, candidate) for candidate, place in places.items() if place == "dead"]
        if any(self._queue.death_reason(job_id) == WORKER_LOST for job_id in dead):
            self._fail_worker_lost(row, stage)
            return
        if dead:
            message = "The platform failed and further attempts are used up; deploy again, or ask your operator."
            self._terminations.finish_failed(row, FailureCode.PLATFORM_ERROR, stage, message)
            return
        if row.status != DeploymentStatus.QUEUED:
            self._hold_slot(row)
        if self._queue.enqueue(stage_job_of(row, stage)):
            _log.warning("reconciler.enqueued", deployment_id=row.id, stage=stage.value)

    def _fail_worker_lost(self, row: DeploymentRow, stage: Stage) -> None:
        message = (
            f"The {stage.value} stage ended two workers of the platform, so it isn't tried again. This is a failure of "
            "the platform, which its operator is told of; ask your operator before you deploy this commit again."
        )
        if self._terminations.finish_failed(row, FailureCode.WORKER_LOST, stage, message):
            _log.error("deployment.worker_lost", deployment_id=row.id, stage=stage.value)
            metrics.count_deployment("failed", "any", FailureCode.WORKER_LOST)

    def _fail_release(self, release_id: str) -> None:
        message = (
            "It ended two workers of the platform, so it isn't tried again. This is a failure of the platform, "
            "which its operator is told of; ask your operator."
        )
        with self._database.transaction() as connection:
            self._releases.close(connection, release_id, ReleaseStatus.FAILED, message)
        _log.error("release.worker_lost", release_id=release_id)
        metrics.count_release("any", "worker_lost")

    def _attempt_one(self, subject: str, act: Callable[[], object]) -> None:
        """A subject that can't be repaired doesn't keep the following ones from being repaired."""
        try:
            act()
        except (QueueFull, PlatformError, OSError) as error:
            _log.warning("reconciler.one_failed", subject=subject, error=str(error))
        except Unavailable:
            # The same for all that follow.
            raise
        except Exception:  # noqa: BLE001 - one strange row must not end the pass
            _log.exception("reconciler.one_crashed", subject=subject)


def main() -> int:
    """`python -m workers.reconciler [--with-exporter]`: the process; on one machine it is the exporter, too."""
    parser = argparse.ArgumentParser(prog="cloudify reconciler", description="Repairs the queue and the routes.")
    parser.add_argument("--with-exporter", action="store_true", help="serve the figures of `cloudify exporter`, too")
    options = parser.parse_args()
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 2
    configure_logging("reconciler", settings.logs.level)
    stop = threading.Event()
    on_stop_signals(stop.set)
    keep_files_private(settings.directories.home)
    context = WorkerContext(settings, "reconciler", connections=_CONNECTIONS)
    try:
        if not wait_until_migrated(settings.database.url, stop):
            return 0
        guard = context.clock_guard()
        health = ProcessHealth()
        figures = PlatformFigures(settings) if options.with_exporter else None
        if settings.metrics.port:
            start_metrics_listener(
                settings.metrics.port,
                host=settings.metrics.host,
                collectors=[] if figures is None else [figures.collector],
                names=settings.api.hosts,
                health=health,
            )
        compactor = LogCompactor(
            database=context.database, store=context.store, directory=settings.directories.home / "log-archives"
        )
        # It ends with the signal, not only when the reconciler's passes have.
        compacting = BackgroundThread("log-compactor", lambda _stopping: compactor.run(stop))
        reconciler = _build_reconciler(context, guard)
        # One for each responsibility, and the compactor.
        threads = len(reconciler.responsibilities) + 1
        registration = Registration(context.queue, "reconciler", threads=threads, reason=lambda: guard.problem or "")
        for task in (compacting, guard, registration):
            task.start()
        health.set_ready()
        reconciler.run(stop)
        registration.stop()
        guard.stop()
        compacting.stop(_STOP_SECONDS)
        if figures is not None:
            figures.close()
    except (MigrationError, PlatformError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 1
    finally:
        context.close()
    return 0


def _build_reconciler(context: WorkerContext, guard: ClockGuard) -> Reconciler:
    settings = context.settings
    return Reconciler(
        database=context.database,
        queue=context.queue,
        deployments=context.deployments,
        stage_runs=context.stage_runs,
        releases=context.releases,
        sites=context.sites,
        terminations=context.terminations,
        routes=RouteRepair(context.database, context.route_log),
        route_log=context.route_log,
        routers=RouterRepository(context.database),
        bell=RouteBell(context.redis),
        clock_problem=lambda: guard.problem,
        interval_seconds=settings.queue.reconcile_seconds,
        expired=[
            IdempotencyRepository(context.database).delete_expired,
            lambda: SessionRepository(context.database).delete_expired(context.clock.now()),
            AccountEventStore(context.database).delete_expired,
            lambda: StreamTicketRepository(context.database).delete_expired(context.clock.now()),
        ],
        delete_staged=partial(context.store.delete_older, STAGING_PREFIX, STAGED_SECONDS),
        abort_uploads=partial(context.store.abort_uploads_older, STAGED_SECONDS),
        site_pods=_build_upkeep(context),
    )


def _build_upkeep(context: WorkerContext) -> SitePodUpkeep | None:
    """None if the platform has no cluster for sites."""
    pods = context.site_pods()
    if pods is None:
        return None
    return SitePodUpkeep(
        context.site_objects,
        pods,
        SitePodRepository(context.database),
        context.settings.site_pods,
        database=context.database,
        route_log=context.route_log,
        bell=RouteBell(context.redis),
    )


if __name__ == "__main__":
    raise SystemExit(main())
