"""The composition root of the API: settings in, services out, everything closed again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from api.authentication import Authenticator
from api.edge.device_cookie import DeviceCookies
from api.health import HealthChecks
from api.pagination import CursorSigner
from api.services import Services
from api.streams.account_hub import AccountHub
from api.streams.hub import StreamHub
from api.streams.stream_lease import StreamAdmission
from shared.accounts.access_tokens import AccessTokens
from shared.accounts.login_throttle import LoginThrottle
from shared.accounts.passwords import Passwords
from shared.accounts.service import AccountService
from shared.accounts.session_repository import SessionRepository
from shared.accounts.session_service import SessionService
from shared.accounts.stream_rights import StreamRightsRepository
from shared.accounts.tenant_repository import TenantRepository
from shared.accounts.ticket_repository import StreamTicketRepository
from shared.accounts.ticket_service import StreamTicketService
from shared.accounts.token_repository import TokenRepository
from shared.accounts.token_service import TokenService
from shared.accounts.user_repository import UserRepository
from shared.administration.service import QueueAdministrationService
from shared.clock import Clock, SystemClock
from shared.db.database import Database
from shared.db.migrate import is_migrated
from shared.deployments.queue_positions import QueuePositions
from shared.deployments.repository import DeploymentRepository
from shared.deployments.service import DeploymentService
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.termination_service import TerminationService
from shared.idempotency.repository import IdempotencyRepository
from shared.limits.windows import RedisWindows
from shared.logs.account_events import AccountEventStore
from shared.logs.archive.store import ArchiveReader
from shared.logs.base import Doorbell
from shared.logs.listener import RedisDoorbellListener
from shared.logs.notifier import RedisDoorbell
from shared.logs.store import PostgresLogStore
from shared.logs.stream_slots import RedisStreamSlots
from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.credential_service import RepositoryCredentialService
from shared.projects.repository import ProjectRepository
from shared.projects.service import ProjectService
from shared.projects.variable_repository import VariableRepository
from shared.projects.variable_service import VariableService
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.releases.repository import ReleaseRepository
from shared.releases.service import ReleaseService
from shared.secrets_box import SecretsBox
from shared.settings import Settings
from shared.storage.base import ArtifactStore
from shared.storage.object_store import S3ArtifactStore

# As many as the threads of all lanes (api.edge.lanes) want at once, and some for the streams.
_DATABASE_CONNECTIONS = 24


@dataclass(frozen=True, slots=True)
class Backends:
    """The servers behind the API. `close` ends their connections."""

    database: Database
    queue: RedisJobQueue
    log_store: PostgresLogStore
    doorbell: Doorbell
    listener: RedisDoorbellListener
    artifacts: ArtifactStore
    windows: RedisWindows
    close: Callable[[], None] = field(repr=False)


def connect_backends(settings: Settings) -> Backends:
    """Connects nothing yet: each connects on first use, so that the API starts while they don't answer."""
    closers = ExitStack()
    # Clients wait for these answers: what doesn't come soon is a 503, and the reconciler makes up for the queue.
    database = Database(
        settings.database.url, maximum_connections=_DATABASE_CONNECTIONS, timeout_seconds=3.0, answer_seconds=5.0
    )
    closers.callback(database.close)
    redis = connect_redis(
        settings.queue.redis_url, connect_timeout_seconds=1.0, timeout_seconds=1.0, client_name="cloudify-api"
    )
    closers.callback(redis.close)
    doorbell = RedisDoorbell.connect(settings.queue.redis_url)
    # Pages of finished logs are read there, by several threads at once: a request that fails is worth another.
    archives = S3ArtifactStore(settings.object_store, retry_seconds=2.0, timeout_seconds=3.0, connections=8)
    return Backends(
        database=database,
        queue=RedisJobQueue(
            redis, lease_seconds=settings.queue.lease_seconds, maximum_tenant_slots=settings.limits.builds_at_once
        ),
        log_store=PostgresLogStore(database, ArchiveReader(archives)),
        doorbell=doorbell,
        listener=RedisDoorbellListener(settings.queue.redis_url),
        # Only asked whether it answers; an outage isn't waited out.
        artifacts=S3ArtifactStore(settings.object_store, retry_seconds=0.0, timeout_seconds=2.0, connections=1),
        windows=RedisWindows(redis, SystemClock()),
        close=closers.close,
    )


def build_account_services(settings: Settings, backends: Backends, clock: Clock) -> tuple[AccountService, TokenService]:
    """What the first run and the administrator's commands need."""
    database = backends.database
    accounts = AccountService(
        database=database,
        users=UserRepository(database),
        tenants=TenantRepository(database),
        queue=backends.queue,
        passwords=Passwords(),
        throttle=LoginThrottle(backends.windows),
        registration_enabled=settings.api.registration_enabled,
    )
    return accounts, TokenService(database=database, tokens=TokenRepository(database), clock=clock)


def build_deployment_service(settings: Settings, backends: Backends, clock: Clock) -> DeploymentService:
    database = backends.database
    deployments, stage_runs = DeploymentRepository(database), StageRunRepository(database)
    terminations = TerminationService(
        database=database,
        deployments=deployments,
        stage_runs=stage_runs,
        queue=backends.queue,
        log_store=backends.log_store,
        doorbell=backends.doorbell,
        clock=clock,
    )
    return DeploymentService(
        database=database,
        deployments=deployments,
        stage_runs=stage_runs,
        queue=backends.queue,
        log_store=backends.log_store,
        doorbell=backends.doorbell,
        clock=clock,
        terminations=terminations,
        site_settings=settings.sites,
    )


def build_variable_service(settings: Settings, backends: Backends) -> VariableService:
    database = backends.database
    return VariableService(
        database=database, variables=VariableRepository(database), box=SecretsBox(settings.secrets.encryption_keys)
    )


def build_repository_credential_service(settings: Settings, backends: Backends) -> RepositoryCredentialService:
    database = backends.database
    return RepositoryCredentialService(
        database=database,
        credentials=RepositoryCredentialRepository(database),
        box=SecretsBox(settings.secrets.encryption_keys),
    )


def build_release_service(settings: Settings, backends: Backends) -> ReleaseService:
    database = backends.database
    return ReleaseService(
        database=database,
        deployments=DeploymentRepository(database),
        stage_runs=StageRunRepository(database),
        releases=ReleaseRepository(database),
        queue=backends.queue,
        site_settings=settings.sites,
    )


def build_services(
    settings: Settings, backends: Backends, *, stream_hub: StreamHub | None = None, clock: Clock | None = None
) -> Services:
    clock = clock or SystemClock()
    database = backends.database
    tokens, sessions = TokenRepository(database), SessionRepository(database)
    access_tokens = AccessTokens([settings.secrets.secret_key], clock)
    accounts, token_service = build_account_services(settings, backends, clock)
    session_service = SessionService(database=database, sessions=sessions, access_tokens=access_tokens, clock=clock)
    credentials = build_repository_credential_service(settings, backends)
    stream_tickets = StreamTicketService(tickets=StreamTicketRepository(database), clock=clock)
    return Services(
        settings=settings,
        authenticator=Authenticator(
            tokens=tokens,
            sessions=sessions,
            access_tokens=access_tokens,
            clock=clock,
            session_service=session_service,
            stream_tickets=stream_tickets,
        ),
        accounts=accounts,
        sessions=session_service,
        tokens=token_service,
        projects=ProjectService(
            database=database,
            projects=ProjectRepository(database),
            credentials=credentials,
            queue=backends.queue,
            network=settings.network,
            sites=settings.sites,
        ),
        variables=build_variable_service(settings, backends),
        repository_credentials=credentials,
        deployments=build_deployment_service(settings, backends, clock),
        releases=build_release_service(settings, backends),
        queue_administration=QueueAdministrationService(
            queue=backends.queue, deployments=DeploymentRepository(database)
        ),
        tenants=TenantRepository(database),
        idempotency=IdempotencyRepository(database),
        cursor_signer=CursorSigner(settings.secrets.secret_key),
        device_cookies=DeviceCookies(settings.secrets.secret_key, clock),
        health=HealthChecks(
            {"database": database.ping, "queue": backends.queue.ping, "objectStore": backends.artifacts.ping},
            is_migrated=partial(is_migrated, settings.database.url),
            clock=SystemClock(),
        ),
        stream_tickets=stream_tickets,
        stream_admission=build_stream_admission(settings, backends, clock),
        log_store=backends.log_store,
        stream_hub=stream_hub,
        account_hub=build_account_hub(backends),
    )


def build_stream_admission(settings: Settings, backends: Backends, clock: Clock) -> StreamAdmission:
    slots = RedisStreamSlots(settings.queue.redis_url, limit=settings.api.streams_per_user)
    return StreamAdmission(rights=StreamRightsRepository(backends.database), slots=slots, clock=clock)


def build_stream_hub(settings: Settings, backends: Backends) -> StreamHub:
    return StreamHub(backends.log_store, backends.listener, positions=QueuePositions(backends.queue))


def build_account_hub(backends: Backends) -> AccountHub:
    """It shares the connection that the stream hub listens on."""
    return AccountHub(AccountEventStore(backends.database), backends.listener)


@asynccontextmanager
async def running_hub(hub: StreamHub, application: Any) -> AsyncGenerator[None]:
    """The tasks of the hub and of the accounts' live as long as the application."""
    account_hub: AccountHub = application.state.services.account_hub
    await hub.start()
    await account_hub.start()
    try:
        yield
    finally:
        await account_hub.close()
        await hub.close()
