"""Sessions: a login issues a short-lived access token and a refresh token that is replaced at each use."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from schemas.accounts import SessionResource
from shared.accounts.access_tokens import LIFETIME, AccessClaims, AccessTokens
from shared.accounts.session_repository import NewSession, SessionRepository
from shared.clock import Clock
from shared.db.database import Connection, Database
from shared.errors import ErrorCode, NotFound, Unauthenticated
from shared.identifiers import new_identifier

_PREFIX = "sess"
REFRESH_LIFETIME = timedelta(days=30)
# Two tabs may refresh at once: a replaced token can still be exchanged for this long.
GRACE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class IssuedSession:
    user_id: str
    access_token: str = field(repr=False)
    expires_in: int
    refresh_token: str = field(repr=False)
    refresh_expires_in: int


@dataclass(frozen=True, slots=True)
class SessionHolder:
    """The user of a login; `session_id` is the login's id."""

    user_id: str
    email: str
    is_platform_administrator: bool
    session_id: str


class SessionService:
    def __init__(
        self, *, database: Database, sessions: SessionRepository, access_tokens: AccessTokens, clock: Clock
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._access_tokens = access_tokens
        self._clock = clock

    def start(self, user_id: str, *, user_agent: str | None, address: str | None) -> IssuedSession:
        expires_at = self._clock.now() + REFRESH_LIFETIME
        login_id = new_identifier(_PREFIX)
        with self._database.transaction() as connection:
            self._sessions.insert_login(connection, login_id, user_id, expires_at)
            return self._issue(connection, user_id, login_id, user_agent, address, expires_at)

    def refresh(self, refresh_token: str | None, *, user_agent: str | None, address: str | None) -> IssuedSession:
        """Replaces the refresh token. A login expires 30 days after its last use.

        Raises Unauthenticated: SESSION_REVOKED if the token was replaced more than 10 s ago (it may be stolen, so
        the login is revoked) or the login has ended; UNAUTHENTICATED if it is unknown.
        """
        if not refresh_token:
            raise Unauthenticated("There is no refresh cookie; sign in.")
        now = self._clock.now()
        with self._database.transaction() as connection:
            row = self._sessions.find_locked(connection, _hash(refresh_token))
            if row is None:
                raise Unauthenticated("The refresh token is not known; sign in again.")
            is_reused = row.replaced_at is not None and row.replaced_at + GRACE < now
            if is_reused:
                self._sessions.revoke(connection, row.family_id, row.user_id, now)
            elif row.revoked_at is None and row.expires_at > now:
                expires_at = now + REFRESH_LIFETIME
                self._sessions.set_replaced(connection, row.id, now)
                self._sessions.prolong_login(connection, row.family_id, expires_at)
                return self._issue(connection, row.user_id, row.family_id, user_agent, address, expires_at)
        # Raised after the transaction, so that the revocation is committed.
        raise Unauthenticated("The session has ended; sign in again.", code=ErrorCode.SESSION_REVOKED)

    def identify(self, refresh_token: str) -> SessionHolder:
        """Returns the user of a valid login, without side effects. A replaced token remains valid for 10 s.

        Raises Unauthenticated: SESSION_REVOKED if the login has ended, otherwise UNAUTHENTICATED.
        """
        now = self._clock.now()
        row = self._sessions.find_holder(_hash(refresh_token), now)
        if row is None or (row.replaced_at is not None and row.replaced_at + GRACE < now):
            raise Unauthenticated("The session cookie is not known or was replaced; refresh it, or sign in again.")
        if not row.is_live:
            raise Unauthenticated("The session has ended; sign in again.", code=ErrorCode.SESSION_REVOKED)
        return SessionHolder(
            user_id=row.user_id,
            email=row.email,
            is_platform_administrator=row.is_platform_administrator,
            session_id=row.family_id,
        )

    def end(self, refresh_token: str | None) -> None:
        """Ends the login of the refresh token. Does nothing if there is none."""
        if not refresh_token:
            return
        with self._database.transaction() as connection:
            row = self._sessions.find_locked(connection, _hash(refresh_token))
            if row is not None:
                self._sessions.revoke(connection, row.family_id, row.user_id, self._clock.now())

    def list(self, user_id: str, *, current: str | None) -> list[SessionResource]:
        """Returns the valid logins, the most recently used first."""
        return [
            SessionResource(
                id=row.id,
                user_agent=row.user_agent,
                address=row.address,
                is_current=row.id == current,
                created_at=row.created_at,
                last_used_at=row.last_used_at,
                expires_at=row.expires_at,
            )
            for row in self._sessions.list_of(user_id, self._clock.now())
        ]

    def revoke(self, user_id: str, family_id: str) -> None:
        """Ends one login of the user. Raises NotFound."""
        with self._database.transaction() as connection:
            if not self._sessions.revoke(connection, family_id, user_id, self._clock.now()):
                raise NotFound("There is no such session; it may have ended.")

    def _issue(
        self,
        connection: Connection,
        user_id: str,
        family_id: str,
        user_agent: str | None,
        address: str | None,
        expires_at: datetime,
    ) -> IssuedSession:
        refresh_token = secrets.token_urlsafe(32)
        self._sessions.insert(
            connection,
            NewSession(
                id=new_identifier(_PREFIX),
                family_id=family_id,
                user_id=user_id,
                refresh_token_hash=_hash(refresh_token),
                user_agent=None if user_agent is None else user_agent[:300],
                address=address,
                expires_at=expires_at,
            ),
        )
        return IssuedSession(
            user_id=user_id,
            access_token=self._access_tokens.issue(AccessClaims(user_id, family_id)),
            expires_in=int(LIFETIME.total_seconds()),
            refresh_token=refresh_token,
            refresh_expires_in=int(REFRESH_LIFETIME.total_seconds()),
        )


def _hash(refresh_token: str) -> bytes:
    return hashlib.sha256(refresh_token.encode()).digest()
