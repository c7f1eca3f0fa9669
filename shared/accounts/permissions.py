"""Roles, permissions, and the one table that maps between them. Anything not listed is denied."""

from __future__ import annotations

import enum


class Role(enum.StrEnum):
    VIEWER = "VIEWER"
    MEMBER = "MEMBER"
    DEVELOPER = "DEVELOPER"
    ADMIN = "ADMIN"
    OWNER = "OWNER"


class Permission(enum.StrEnum):
    PROJECT_READ = "project:read"
    PROJECT_WRITE = "project:write"
    PROJECT_DELETE = "project:delete"
    PROJECT_SETTINGS = "project:settings"
    DEPLOY_READ = "deploy:read"
    DEPLOY_CREATE = "deploy:create"
    DEPLOY_CANCEL = "deploy:cancel"
    DEPLOY_ROLLBACK = "deploy:rollback"
    DEPLOY_PROMOTE = "deploy:promote"
    DOMAIN_READ = "domain:read"
    DOMAIN_CREATE = "domain:create"
    DOMAIN_WRITE = "domain:write"
    DOMAIN_DELETE = "domain:delete"
    STORAGE_READ = "storage:read"
    STORAGE_WRITE = "storage:write"
    STORAGE_DELETE = "storage:delete"
    TEAM_READ = "team:read"
    TEAM_INVITE = "team:invite"
    TEAM_REMOVE = "team:remove"
    TEAM_SETTINGS = "team:settings"
    BILLING_READ = "billing:read"
    BILLING_WRITE = "billing:write"
    WEBHOOK_WRITE = "webhook:write"
    AUDIT_READ = "audit:read"
    # For the platform itself: granted to platform administrators, never by a role in a team.
    ADMIN_READ = "admin:read"
    ADMIN_WRITE = "admin:write"


_EVERYONE = frozenset(Role)
_FROM_MEMBER = _EVERYONE - {Role.VIEWER}
_FROM_DEVELOPER = _FROM_MEMBER - {Role.MEMBER}
_FROM_ADMIN = frozenset({Role.ADMIN, Role.OWNER})
_OWNER = frozenset({Role.OWNER})

ROLES_WITH: dict[Permission, frozenset[Role]] = {
    Permission.PROJECT_READ: _EVERYONE,
    Permission.PROJECT_WRITE: _FROM_MEMBER,
    Permission.PROJECT_DELETE: _FROM_ADMIN,
    Permission.PROJECT_SETTINGS: _FROM_ADMIN,
    Permission.DEPLOY_READ: _EVERYONE,
    Permission.DEPLOY_CREATE: _FROM_DEVELOPER,
    Permission.DEPLOY_CANCEL: _FROM_DEVELOPER,
    Permission.DEPLOY_ROLLBACK: _FROM_ADMIN,
    Permission.DEPLOY_PROMOTE: _FROM_ADMIN,
    Permission.DOMAIN_READ: _EVERYONE,
    Permission.DOMAIN_CREATE: _FROM_ADMIN,
    Permission.DOMAIN_WRITE: _FROM_ADMIN,
    Permission.DOMAIN_DELETE: _FROM_ADMIN,
    Permission.STORAGE_READ: _FROM_MEMBER,
    Permission.STORAGE_WRITE: _FROM_DEVELOPER,
    Permission.STORAGE_DELETE: _FROM_ADMIN,
    Permission.TEAM_READ: _EVERYONE,
    Permission.TEAM_INVITE: _FROM_ADMIN,
    Permission.TEAM_REMOVE: _FROM_ADMIN,
    Permission.TEAM_SETTINGS: _OWNER,
    Permission.BILLING_READ: _FROM_ADMIN,
    Permission.BILLING_WRITE: _OWNER,
    Permission.WEBHOOK_WRITE: _FROM_ADMIN,
    Permission.AUDIT_READ: _FROM_ADMIN,
    Permission.ADMIN_READ: frozenset(),
    Permission.ADMIN_WRITE: frozenset(),
}


def permissions_of(role: Role) -> frozenset[Permission]:
    return frozenset(permission for permission, roles in ROLES_WITH.items() if role in roles)
