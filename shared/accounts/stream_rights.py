"""Checks for many open streams at once whether they may continue."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import msgspec

from shared.accounts.permissions import Role
from shared.db.database import Database

# The same conditions as for requests, in TokenRepository, SessionRepository and DeploymentRepository.
_LIVE_TOKENS = """
SELECT id FROM live_api_tokens WHERE id = ANY(%(ids)s) AND (expires_at IS NULL OR expires_at > now())
"""
_LIVE_SESSIONS = """
SELECT id FROM logins WHERE id = ANY(%(ids)s) AND revoked_at IS NULL AND expires_at > %(now)s
"""
_ROLES = "SELECT user_id, tenant_id, role FROM memberships WHERE user_id = ANY(%(ids)s)"
_DEPLOYMENTS = """
SELECT d.id, d.tenant_id FROM deployments d JOIN projects p ON p.id = d.project_id
WHERE d.id = ANY(%(ids)s) AND d.deleting_at IS NULL AND p.deleting_at IS NULL
"""


class _RoleRow(msgspec.Struct, frozen=True):
    user_id: str
    tenant_id: str
    role: Role


class _DeploymentRow(msgspec.Struct, frozen=True):
    id: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class StreamRights:
    """The valid tokens and sessions, the roles by user and tenant, and the existing deployments with their tenants."""

    tokens: frozenset[str]
    sessions: frozenset[str]
    roles: dict[str, dict[str, Role]]
    deployments: dict[str, str]


class StreamRightsRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def read(
        self,
        *,
        token_ids: Collection[str],
        session_ids: Collection[str],
        user_ids: Collection[str],
        deployment_ids: Collection[str],
        now: datetime,
    ) -> StreamRights:
        """Runs four queries for any number of streams. `session_ids` are ids of logins. Raises Unavailable."""
        with self._database.transaction() as connection:
            tokens = connection.fetch_values(str, _LIVE_TOKENS, {"ids": list(token_ids)})
            sessions = connection.fetch_values(str, _LIVE_SESSIONS, {"ids": list(session_ids), "now": now})
            roles = connection.fetch_all(_RoleRow, _ROLES, {"ids": list(user_ids)})
            deployments = connection.fetch_all(_DeploymentRow, _DEPLOYMENTS, {"ids": list(deployment_ids)})
        by_user: dict[str, dict[str, Role]] = {}
        for row in roles:
            by_user.setdefault(row.user_id, {})[row.tenant_id] = row.role
        return StreamRights(
            tokens=frozenset(tokens),
            sessions=frozenset(sessions),
            roles=by_user,
            deployments={row.id: row.tenant_id for row in deployments},
        )
