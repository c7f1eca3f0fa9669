"""The composition root of the API: settings and backends in, the collaborators of its handlers out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from api.authentication import Authenticator
from api.backends import Backends
from api.edge.device_cookie import DeviceCookies
from api.health import HealthChecks
from api.pagination import CursorSigner
from api.streams.account_hub import AccountHub
from api.streams.log_hub import LogHub
from api.streams.stream_lease import StreamLeases
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
from shared.administration.processes import ProcessAdministrationService
from shared.administration.service import QueueAdministrationService
from shared.clock import Clock, SystemClock
from shared.db.migrate import is_migrated
from shared.deployments.queue_positions import QueuePositions
from shared.deployments.repository import DeploymentRepository
from shared.deployments.service import DeploymentService
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.termination_service import TerminationService
from shared.idempotency.repository import IdempotencyRepository
from shared.logs.account_events import AccountEventStore
from shared.logs.store import PostgresLogStore
from shared.logs.stream_slots import RedisStreamSlots
from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.credential_service import RepositoryCredentialService
from shared.projects.repository import ProjectRepository
from shared.projects.service import ProjectService
from shared.projects.variable_repository import VariableRepository
from shared.projects.variable_service import VariableService
from shared.releases.artifact_access import ArtifactAccessService
from shared.releases.repository import ReleaseRepository
from shared.releases.service import ReleaseService
from shared.releases.site_pod_repository import SitePodRepository
from shared.routing.routers import RouterRepository
from shared.secrets_box import SecretsBox
from shared.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`log_store` (shared.logs), `log_hub`, `account_hub` and `stream_leases` serve the routes that stream."""

    settings: Settings
    authenticator: Authenticator
    accounts: AccountService
    sessions: SessionService
    tokens: TokenService
    projects: ProjectService
    variables: VariableService
    repository_credentials: RepositoryCredentialService
    deployments: DeploymentService
    releases: ReleaseService
    artifact_access: ArtifactAccessService
    queue_administration: QueueAdministrationService
    process_administration: ProcessAdministrationService
    tenants: TenantRepository
    idempotency: IdempotencyRepository
    cursor_signer: CursorSigner
    device_cookies: DeviceCookies
    health: HealthChecks
    stream_tickets: StreamTicketService
    stream_leases: StreamLeases
    log_store: PostgresLogStore
    log_hub: LogHub
    account_hub: AccountHub

    @asynccontextmanager
    async def running_hubs(self, _application: object = None) -> AsyncGenerator[None]:
        """A lifespan of the application: the tasks of both hubs live as long as it does."""
        await self.log_hub.start()
        await self.account_hub.start()
        try:
            yield
        finally:
            await self.account_hub.close()
            await self.log_hub.close()


def build_services(
    settings: Settings, backends: Backends, *, log_hub: LogHub | None = None, clock: Clock | None = None
) -> Services:
    # One piece, although long: it lists the collaborators.
    clock = clock or SystemClock()
    database = backends.database
    access_tokens = AccessTokens([settings.secrets.secret_key], clock)
    sessions = SessionService(
        database=database, sessions=SessionRepository(database), access_tokens=access_tokens, clock=clock
    )
    stream_tickets = StreamTicketService(tickets=StreamTicketRepository(database), clock=clock)
    accounts, tokens = build_account_services(settings, backends, clock)
    return Services(
        settings=settings,
        authenticator=Authenticator(
            tokens=TokenRepository(database),
            sessions=SessionRepository(database),
            access_tokens=access_tokens,
            clock=clock,
            session_service=sessions,
            stream_tickets=stream_tickets,
        ),
        accounts=accounts,
        sessions=sessions,
        tokens=tokens,
        projects=build_project_service(settings, backends),
        variables=build_variable_service(settings, backends),
        repository_credentials=build_repository_credential_service(settings, backends),
        deployments=build_deployment_service(settings, backends, clock),
        releases=build_release_service(settings, backends),
        artifact_access=ArtifactAccessService(
            sites=SitePodRepository(database), store=backends.archives, secret_key=settings.secrets.secret_key
        ),
        queue_administration=build_queue_administration_service(backends),
        process_administration=ProcessAdministrationService(
            queue=backends.queue, routers=RouterRepository(database), clock=clock
        ),
        tenants=TenantRepository(database),
        idempotency=IdempotencyRepository(database),
        cursor_signer=CursorSigner(settings.secrets.secret_key),
        device_cookies=DeviceCookies(settings.secrets.secret_key, clock),
        health=build_health_checks(settings, backends),
        stream_tickets=stream_tickets,
        stream_leases=build_stream_leases(settings, backends, clock),
        log_store=backends.log_store,
        log_hub=log_hub or build_log_hub(backends),
        account_hub=build_account_hub(backends),
    )


def build_account_services(settings: Settings, backends: Backends, clock: Clock) -> tuple[AccountService, TokenService]:
    """The services of the first run and of the administrator's commands."""
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
        notifier=backends.notifier,
        clock=clock,
    )
    return DeploymentService(
        database=database,
        deployments=deployments,
        stage_runs=stage_runs,
        queue=backends.queue,
        log_store=backends.log_store,
        notifier=backends.notifier,
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


def build_project_service(settings: Settings, backends: Backends) -> ProjectService:
    database = backends.database
    return ProjectService(
        database=database,
        projects=ProjectRepository(database),
        credentials=build_repository_credential_service(settings, backends),
        queue=backends.queue,
        network=settings.network,
        sites=settings.sites,
        site_pods=settings.site_pods,
    )


def build_queue_administration_service(backends: Backends) -> QueueAdministrationService:
    return QueueAdministrationService(queue=backends.queue, deployments=DeploymentRepository(backends.database))


def build_health_checks(settings: Settings, backends: Backends) -> HealthChecks:
    return HealthChecks(
        {"database": backends.database.ping, "queue": backends.queue.ping, "objectStore": backends.artifacts.ping},
        is_migrated=partial(is_migrated, settings.database.url),
        clock=SystemClock(),
    )


def build_stream_leases(settings: Settings, backends: Backends, clock: Clock) -> StreamLeases:
    slots = RedisStreamSlots(settings.queue.redis_url, limit=settings.api.streams_per_user)
    return StreamLeases(rights=StreamRightsRepository(backends.database), slots=slots, clock=clock)


def build_log_hub(backends: Backends) -> LogHub:
    return LogHub(backends.log_store, backends.listener, positions=QueuePositions(backends.queue))


def build_account_hub(backends: Backends) -> AccountHub:
    """Shares the connection that the LogHub listens on."""
    return AccountHub(AccountEventStore(backends.database), backends.listener)
