"""What the API is made of: the collaborators that its handlers get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from api.authentication import Authenticator
from api.device_cookie import DeviceCookies
from api.health import HealthChecks
from api.pagination import CursorSigner
from api.streams.admission import StreamAdmission
from shared.repositories.idempotency import IdempotencyRepository
from shared.repositories.tenants import TenantRepository
from shared.services.accounts import AccountService
from shared.services.deployments import DeploymentService
from shared.services.projects import ProjectService
from shared.services.queue_administration import QueueAdministrationService
from shared.services.releases import ReleaseService
from shared.services.repository_credentials import RepositoryCredentialService
from shared.services.sessions import SessionService
from shared.services.stream_tickets import StreamTicketService
from shared.services.tokens import TokenService
from shared.services.variables import VariableService
from shared.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`log_store` (shared.logs), `stream_hub`, `account_hub` and `stream_admission` serve the routes that stream."""

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
    queue_administration: QueueAdministrationService
    tenants: TenantRepository
    idempotency: IdempotencyRepository
    cursor_signer: CursorSigner
    device_cookies: DeviceCookies
    health: HealthChecks
    stream_tickets: StreamTicketService
    stream_admission: StreamAdmission
    log_store: Any = field(default=None)
    stream_hub: Any = field(default=None)
    account_hub: Any = field(default=None)
