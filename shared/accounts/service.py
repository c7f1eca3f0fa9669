"""User accounts and the plans of their tenants."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

import structlog

from schemas.accounts import RegisterRequest, UserResource
from shared.accounts.login_throttle import LoginThrottle
from shared.accounts.passwords import MAXIMUM_LENGTH, MINIMUM_LENGTH, Passwords
from shared.accounts.tenant_repository import Membership, TenantRepository
from shared.accounts.user_repository import EmailTaken, NewUser, UserRepository, UserRow
from shared.db.database import Database
from shared.errors import Conflict, ErrorCode, Forbidden, NotFound, Unauthenticated, Unavailable, ValidationFailed
from shared.identifiers import TENANT, USER, new_identifier
from shared.plans import Plan, limits_of
from shared.queue.base import JobQueue
from shared.text.written import find_name_problem

_EMAIL = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)

_log = structlog.get_logger("accounts")


@dataclass(frozen=True, slots=True)
class OwnerAccount:
    """`password` is set only if the account has just been created; it is not stored anywhere."""

    user_id: str
    tenant_id: str
    email: str
    password: str | None = field(repr=False)


class AccountService:
    def __init__(
        self,
        *,
        database: Database,
        users: UserRepository,
        tenants: TenantRepository,
        queue: JobQueue,
        passwords: Passwords,
        throttle: LoginThrottle,
        registration_enabled: bool,
    ) -> None:
        self._database = database
        self._users = users
        self._tenants = tenants
        self._queue = queue
        self._passwords = passwords
        self._throttle = throttle
        self._registration_enabled = registration_enabled

    def register(self, request: RegisterRequest) -> UserResource:
        """Creates the user, a personal tenant and its ownership in one transaction.

        Raises Forbidden (registration is closed), ValidationFailed, Conflict (the address is taken).
        """
        if not self._registration_enabled:
            raise Forbidden(
                "Registration is closed on this installation; ask its administrator for an account. The administrator "
                "creates the first one with `cloudify admin create-owner EMAIL`, or sets CLOUDIFY_REGISTRATION_ENABLED."
            )
        email, name = normalise_email(request.email), request.name.strip()
        fields = _credential_problems(email, request.password)
        if (problem := find_name_problem(name, maximum=200, may_be_empty=True)) is not None:
            fields["name"] = problem
        if fields:
            raise ValidationFailed(fields)
        user_id = self._create(email, name, request.password, Plan.FREE, is_platform_administrator=False)
        return self.get(user_id)

    def create_owner(self, email: str, password: str) -> UserResource:
        """Creates a platform administrator on the largest plan. The caller must have access to the platform's settings.

        Raises ValidationFailed, Conflict (the address is taken).
        """
        email = normalise_email(email)
        if fields := _credential_problems(email, password):
            raise ValidationFailed(fields)
        return self.get(self._create(email, "", password, Plan.ENTERPRISE, is_platform_administrator=True))

    def authenticate(self, email: str, password: str, *, address: str, device: str | None = None) -> UserResource:
        """Checks a password. `device` has proven that it signed in to this account before.

        Raises Unauthenticated (INVALID_CREDENTIALS), the same for a wrong password and an unknown account, and
        LoginThrottled, the same for a correct and a wrong password.
        """
        email = login_name(email)
        attempt = self._throttle.begin(email, address, device=device)
        try:
            row = self._users.find_by_email(email) if is_email(email) else None
            stored = None if row is None else row.password_hash
            # No stored password is longer, and hashing a megabyte would waste time.
            verified = self._passwords.verify(stored, password[: MAXIMUM_LENGTH + 1])
        except Exception:
            # The password was not checked.
            self._throttle.take_back(attempt)
            raise
        if row is None or not verified.is_correct:
            raise Unauthenticated("The e-mail address or the password is wrong.", code=ErrorCode.INVALID_CREDENTIALS)
        self._throttle.take_back(attempt)
        if verified.rehash:
            self._users.set_password_hash(row.id, self._passwords.hash(password), expected=row.password_hash)
        return _resource(row)

    def get(self, user_id: str) -> UserResource:
        row = self._users.find(user_id)
        if row is None:
            raise NotFound("There is no such account.")
        return _resource(row)

    def ensure_owner(self, email: str) -> OwnerAccount:
        """Returns the platform administrator with this address, or creates one with a random password.

        For the first run. May be repeated and run by several processes at once. Raises ValidationFailed, and Forbidden
        if the account is not an administrator's: another person may have registered the address.
        """
        email = normalise_email(email)
        if not is_email(email):
            raise ValidationFailed({"email": "must be an e-mail address, like ada@example.com"})
        password: str | None = None
        if self._users.find_by_email(email) is None:
            password = secrets.token_urlsafe(18)
            try:
                self._create(email, "", password, Plan.ENTERPRISE, is_platform_administrator=True)
            except Conflict:
                password = None
        row = self._users.find_by_email(email)
        if row is None:
            raise NotFound("The account was deleted during the set-up; try again.")
        if not row.is_platform_administrator:
            raise Forbidden(
                f"The account {email} is not a platform administrator, so it can't be this platform's owner. "
                "Create one with `cloudify admin create-owner EMAIL`, then sign in with `cloudify login`."
            )
        return OwnerAccount(row.id, row.tenant_id, email, password)

    def set_plan(self, email: str, plan: Plan) -> None:
        """Sets the plan, which also applies to jobs that are already queued. Raises NotFound."""
        email = normalise_email(email)
        tenant_id = self._tenants.set_plan_by_email(email, plan)
        if tenant_id is None:
            raise NotFound(f"No account has the address {email}; check the spelling, or register it first.")
        limits = limits_of(plan)
        try:
            self._queue.set_tenant(tenant_id, limit=limits.concurrent_builds, weight=limits.weight)
        except Unavailable:
            # The plan is committed. The next enqueued job brings its limits to the queue.
            _log.warning("plan_not_in_queue_yet", tenant_id=tenant_id, plan=plan.value)

    def memberships_of(self, user_id: str) -> list[Membership]:
        """Returns the memberships, the personal tenant first."""
        return self._tenants.memberships_of(user_id)

    def _create(self, email: str, name: str, password: str, plan: Plan, *, is_platform_administrator: bool) -> str:
        user_id, password_hash = new_identifier(USER), self._passwords.hash(password)
        try:
            with self._database.transaction() as connection:
                self._users.insert(
                    connection,
                    NewUser(
                        id=user_id,
                        email=email,
                        name=name,
                        password_hash=password_hash,
                        is_platform_administrator=is_platform_administrator,
                    ),
                )
                self._tenants.insert_personal(
                    connection, tenant_id=new_identifier(TENANT), name=name or email, user_id=user_id, plan=plan
                )
        except EmailTaken as error:
            raise Conflict("An account already has this e-mail address; sign in instead.") from error
        return user_id


def _credential_problems(email: str, password: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    if not is_email(email):
        fields["email"] = "must be an e-mail address, like ada@example.com"
    if not MINIMUM_LENGTH <= len(password) <= MAXIMUM_LENGTH:
        fields["password"] = f"must have from {MINIMUM_LENGTH} to {MAXIMUM_LENGTH} characters"
    return fields


def normalise_email(email: str) -> str:
    return email.strip().lower()


def login_name(email: str) -> str:
    """Normalises an address for the look-up of an account. The input is untrusted, so it is cut to 255 characters."""
    return normalise_email(email[:1000])[:255]


def is_email(email: str) -> bool:
    return len(email) <= 254 and _EMAIL.fullmatch(email) is not None


def _resource(row: UserRow) -> UserResource:
    return UserResource(id=row.id, email=row.email, name=row.name, plan=row.plan, image=row.image)
