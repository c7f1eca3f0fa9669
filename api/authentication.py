"""Authentication: from a credential to a principal."""

from __future__ import annotations

from dataclasses import dataclass

from shared.accounts.access_tokens import AccessTokens
from shared.accounts.api_tokens import PREFIX, is_token, token_hash
from shared.accounts.permissions import Permission
from shared.accounts.session_repository import SessionRepository
from shared.accounts.session_service import SessionService
from shared.accounts.ticket_service import StreamTicketService
from shared.accounts.token_repository import TokenRepository
from shared.clock import Clock
from shared.errors import ErrorCode, Unauthenticated


@dataclass(frozen=True, slots=True)
class Principal:
    """`scopes`: the limits of a token, empty for all rights of the user. One of `token_id` and `session_id` is set."""

    user_id: str
    email: str
    token_id: str | None
    scopes: frozenset[str]
    is_platform_administrator: bool
    session_id: str | None = None

    def has_scope(self, permission: Permission) -> bool:
        return not self.scopes or permission.value in self.scopes


class Authenticator:
    """Safe from any thread."""

    def __init__(
        self,
        *,
        tokens: TokenRepository,
        sessions: SessionRepository,
        access_tokens: AccessTokens,
        clock: Clock,
        session_service: SessionService,
        stream_tickets: StreamTicketService,
    ) -> None:
        self._tokens = tokens
        self._sessions = sessions
        self._access_tokens = access_tokens
        self._clock = clock
        self._session_service = session_service
        self._stream_tickets = stream_tickets

    def authenticate(self, authorization: str | None) -> Principal:
        """Raises Unauthenticated: UNAUTHENTICATED, TOKEN_EXPIRED or SESSION_REVOKED."""
        scheme, _, credential = (authorization or "").strip().partition(" ")
        if not authorization:
            raise Unauthenticated("Sign in, or send an API token as Authorization: Bearer <token>.")
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("The Authorization header must be: Bearer <token>.")
        credential = credential.strip()
        return self._by_token(credential) if credential.startswith(PREFIX) else self._by_session(credential)

    def by_ticket(self, ticket: str, *, deployment_id: str | None) -> Principal:
        """Consumes the ticket; returns the user who requested it. Raises Unauthenticated."""
        holder = self._stream_tickets.redeem(ticket, deployment_id=deployment_id)
        return Principal(
            user_id=holder.user_id,
            email=holder.email,
            token_id=holder.token_id,
            scopes=holder.scopes,
            is_platform_administrator=holder.is_platform_administrator,
            session_id=holder.session_id,
        )

    def by_session_cookie(self, refresh_token: str) -> Principal:
        """The user whose login the cookie holds. Does not replace the cookie. Raises Unauthenticated."""
        holder = self._session_service.identify(refresh_token)
        return Principal(
            user_id=holder.user_id,
            email=holder.email,
            token_id=None,
            scopes=frozenset(),
            is_platform_administrator=holder.is_platform_administrator,
            session_id=holder.session_id,
        )

    def _by_token(self, token: str) -> Principal:
        row = self._tokens.find_active(token_hash(token)) if is_token(token) else None
        if row is None:
            raise Unauthenticated("The API token is unknown or was revoked; create a new one.")
        if row.is_expired:
            raise Unauthenticated("The API token has expired; create a new one.", code=ErrorCode.TOKEN_EXPIRED)
        return Principal(
            user_id=row.user_id,
            email=row.email,
            token_id=row.id,
            scopes=frozenset(row.scopes),
            is_platform_administrator=row.is_platform_administrator,
        )

    def _by_session(self, token: str) -> Principal:
        claims = self._access_tokens.verify(token)
        row = self._sessions.find_user(claims.user_id, claims.family_id, self._clock.now())
        if row is None or not row.is_live:
            raise Unauthenticated("The session has ended; sign in again.", code=ErrorCode.SESSION_REVOKED)
        return Principal(
            user_id=row.user_id,
            email=row.email,
            token_id=None,
            scopes=frozenset(),
            is_platform_administrator=row.is_platform_administrator,
            session_id=claims.family_id,
        )
