"""Database access to tenants and their members."""

from __future__ import annotations

import msgspec

from shared.accounts.permissions import Role
from shared.db.database import Connection, Database
from shared.plans import Plan


class Membership(msgspec.Struct, frozen=True):
    tenant_id: str
    role: Role


class TenantRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_personal(self, connection: Connection, *, tenant_id: str, name: str, user_id: str, plan: Plan) -> None:
        """Inserts the user's own tenant, with the user as its owner."""
        connection.execute(
            "INSERT INTO tenants (id, name, plan, personal_user_id) "
            "VALUES (%(id)s, %(name)s, %(plan)s::plan, %(user_id)s)",
            {"id": tenant_id, "name": name, "plan": plan.value, "user_id": user_id},
        )
        self.insert_membership(connection, tenant_id=tenant_id, user_id=user_id, role=Role.OWNER)

    def insert_membership(self, connection: Connection, *, tenant_id: str, user_id: str, role: Role) -> None:
        connection.execute(
            "INSERT INTO memberships (tenant_id, user_id, role) VALUES (%(tenant_id)s, %(user_id)s, %(role)s::role)",
            {"tenant_id": tenant_id, "user_id": user_id, "role": role.value},
        )

    def memberships_of(self, user_id: str) -> list[Membership]:
        """Returns the personal tenant first, then the others by age."""
        return self._database.fetch_all(
            Membership,
            "SELECT m.tenant_id, m.role FROM memberships m JOIN tenants t ON t.id = m.tenant_id "
            "WHERE m.user_id = %(user_id)s "
            "ORDER BY (t.personal_user_id IS NOT DISTINCT FROM m.user_id) DESC, t.created_at, t.id",
            {"user_id": user_id},
        )

    def find_role(self, tenant_id: str, user_id: str) -> Role | None:
        return self._database.fetch_value(
            Role,
            "SELECT role FROM memberships WHERE tenant_id = %(tenant_id)s AND user_id = %(user_id)s",
            {"tenant_id": tenant_id, "user_id": user_id},
        )

    def set_plan_by_email(self, email: str, plan: Plan) -> str | None:
        """Returns the id of the personal tenant whose plan was set, or None if no user has this address."""
        return self._database.fetch_value(
            str,
            "UPDATE tenants t SET plan = %(plan)s::plan FROM users u "
            "WHERE u.email = %(email)s AND t.personal_user_id = u.id RETURNING t.id",
            {"email": email, "plan": plan.value},
        )
