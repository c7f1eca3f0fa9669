"""What the API is made of: the collaborators that its handlers get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from api.authentication import Authenticator
from api.edge.device_cookie import DeviceCookies
from api.health import HealthChecks
from api.pagination import CursorSigner
from api.streams.stream_lease import StreamLeases
from shared.accounts.service import AccountService
from shared.accounts.session_service import SessionService
from shared.accounts.tenant_repository import TenantRepository
from shared.accounts.ticket_service import StreamTicketService
from shared.accounts.token_service import TokenService
from shared.administration.service import QueueAdministrationService
from shared.deployments.service import DeploymentService
from shared.idempotency.repository import IdempotencyRepository
from shared.projects.credential_service import RepositoryCredentialService
from shared.projects.service import ProjectService
from shared.projects.variable_service import VariableService
from shared.releases.service import ReleaseService
from shared.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`log_store` (shared.logs), `stream_hub`, `account_hub` and `stream_leases` serve the routes that stream."""

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
    stream_leases: StreamLeases
    log_store: Any = field(default=None)
    stream_hub: Any = field(default=None)
    account_hub: Any = field(default=None)
