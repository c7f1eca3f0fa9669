"""Tickets let clients that can't set headers, such as a browser's EventSource, open one stream once."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from schemas.accounts import StreamTicketResource
from shared.accounts.ticket_repository import NewTicket, StreamTicketRepository
from shared.clock import Clock
from shared.errors import ErrorCode, Unauthenticated

LIFETIME = timedelta(seconds=60)
_AGAIN = "get a new one from POST /api/auth/stream-tickets"


@dataclass(frozen=True, slots=True)
class TicketHolder:
    """The user who requested the ticket. Either `token_id` or `session_id` is set."""

    user_id: str
    email: str
    is_platform_administrator: bool
    token_id: str | None
    session_id: str | None
    scopes: frozenset[str]


class StreamTicketService:
    def __init__(self, *, tickets: StreamTicketRepository, clock: Clock) -> None:
        self._tickets = tickets
        self._clock = clock

    def issue(
        self, *, user_id: str, token_id: str | None, session_id: str | None, deployment_id: str | None
    ) -> StreamTicketResource:
        """Issues a ticket for the log of `deployment_id`, or for the account's events if it is None. The caller must
        have checked that the user may read it."""
        ticket = "cst_" + secrets.token_urlsafe(32)
        self._tickets.insert(
            NewTicket(
                ticket_hash=_hash(ticket),
                user_id=user_id,
                token_id=token_id,
                session_id=session_id,
                deployment_id=deployment_id,
                expires_at=self._clock.now() + LIFETIME,
            )
        )
        return StreamTicketResource(ticket=ticket, expires_in=int(LIFETIME.total_seconds()))

    def redeem(self, ticket: str, *, deployment_id: str | None) -> TicketHolder:
        """Consumes the ticket, even if it is rejected.

        Raises Unauthenticated: TOKEN_EXPIRED, SESSION_REVOKED if the login has ended, otherwise UNAUTHENTICATED.
        """
        row = self._tickets.take(_hash(ticket), self._clock.now())
        if row is None:
            raise Unauthenticated(f"The ticket is unknown; it was used already or has expired: {_AGAIN}.")
        if row.is_expired:
            raise Unauthenticated(f"The ticket has expired; {_AGAIN}.", code=ErrorCode.TOKEN_EXPIRED)
        if row.deployment_id != deployment_id:
            raise Unauthenticated(f"The ticket is for another stream and is now used up; {_AGAIN}, for this one.")
        if not row.is_live:
            if row.session_id is not None:
                raise Unauthenticated("The session has ended; sign in again.", code=ErrorCode.SESSION_REVOKED)
            raise Unauthenticated("The API token that requested the ticket was revoked or has expired; create one.")
        return TicketHolder(
            user_id=row.user_id,
            email=row.email,
            is_platform_administrator=row.is_platform_administrator,
            token_id=row.token_id,
            session_id=row.session_id,
            scopes=frozenset(row.scopes),
        )


def _hash(ticket: str) -> bytes:
    """SHA-256. No slow hash is needed: the ticket has 256 random bits."""
    return hashlib.sha256(ticket.encode()).digest()
