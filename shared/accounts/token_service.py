"""Creates, lists and revokes API tokens. A token's value is shown once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from msgspec import structs

from schemas.accounts import CreatedTokenResource, CreateTokenRequest, TokenResource
from shared.accounts.api_tokens import new_token, token_hash
from shared.accounts.permissions import Permission
from shared.accounts.token_repository import NewToken, TokenRepository, TokenRow
from shared.clock import Clock
from shared.db.database import Connection, Database
from shared.db.paging import Page, PageRequest
from shared.errors import Conflict, ErrorCode, Forbidden, NotFound, Unauthenticated, ValidationFailed
from shared.identifiers import new_identifier
from shared.text.written import find_name_problem

_PREFIX = "tok"
MAXIMUM_TOKENS = 100
# Closer to the limits of datetime, a change of the offset overflows.
_EARLIEST, _LATEST = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


class TokenService:
    def __init__(self, *, database: Database, tokens: TokenRepository, clock: Clock) -> None:
        self._database = database
        self._tokens = tokens
        self._clock = clock

    def create(
        self,
        user_id: str,
        request: CreateTokenRequest,
        *,
        granted: Collection[str] = (),
        parent_id: str | None = None,
    ) -> CreatedTokenResource:
        """Creates a token. `parent_id` is the token that made the request, if any, and `granted` are its scopes, empty
        for all rights of the user. The new token expires no later than its parent, by default at the same time, and is
        revoked with it.

        Raises ValidationFailed, Forbidden (SCOPE_ESCALATION), Unauthenticated (the parent has expired or was revoked),
        Conflict (100 tokens).
        """
        scopes = list(dict.fromkeys(request.scopes))
        self._validate(request, scopes)
        missing = sorted(set(scopes) - set(granted)) if scopes else ["all scopes"]
        if granted and missing:
            raise Forbidden(
                f"A token can't grant scopes that it lacks: {', '.join(missing)}.",
                code=ErrorCode.SCOPE_ESCALATION,
                details={"missing": missing},
            )
        expires_at, ancestor_ids = self._within_parent(user_id, parent_id, request.expires_at)
        with self._database.transaction() as connection:
            if self._has_most(connection, user_id):
                raise Conflict(f"The account has {MAXIMUM_TOKENS} tokens; revoke one first.")
            return self._insert(
                connection, user_id, request.name.strip(), scopes, expires_at=expires_at, ancestor_ids=ancestor_ids
            )

    def create_for_platform(self, user_id: str, name: str) -> CreatedTokenResource:
        """Creates a token with all rights, for the platform's own use, which must be able to start in any case: in an
        account with 100 tokens it replaces the oldest one of this name. Raises NotFound."""
        with self._database.transaction() as connection:
            if self._has_most(connection, user_id):
                self._tokens.revoke_oldest(connection, user_id, name)
            return self._insert(connection, user_id, name, [], expires_at=None, ancestor_ids=[])

    def list(self, user_id: str, page: PageRequest) -> Page[TokenResource]:
        return self._tokens.page(user_id, page).map(_resource)

    def get(self, user_id: str, token_id: str) -> TokenResource:
        """Raises NotFound."""
        row = self._tokens.find(user_id, token_id)
        if row is None:
            raise NotFound("There is no such token; it may have been revoked.")
        return _resource(row)

    def revoke(self, user_id: str, token_id: str) -> None:
        """Revokes the token and its descendants. Raises NotFound."""
        if not self._tokens.revoke(user_id, token_id):
            raise NotFound("There is no such token; it may have been revoked.")

    def _has_most(self, connection: Connection, user_id: str) -> bool:
        """Whether the account has the maximum number of tokens. No other is created until the transaction ends."""
        if not self._tokens.lock_user(connection, user_id):
            raise NotFound("There is no such account.")
        return self._tokens.count_of(connection, user_id) >= MAXIMUM_TOKENS

    def _insert(
        self,
        connection: Connection,
        user_id: str,
        name: str,
        scopes: Sequence[str],
        *,
        expires_at: datetime | None,
        ancestor_ids: Sequence[str],
    ) -> CreatedTokenResource:
        token = new_token()
        row = self._tokens.insert(
            connection,
            NewToken(
                id=new_identifier(_PREFIX),
                user_id=user_id,
                name=name,
                prefix=token[:8],
                token_hash=token_hash(token),
                scopes=list(scopes),
                expires_at=expires_at,
                ancestor_ids=list(ancestor_ids),
            ),
        )
        return CreatedTokenResource(**structs.asdict(_resource(row)), token=token)

    def _within_parent(
        self, user_id: str, parent_id: str | None, expires_at: datetime | None
    ) -> tuple[datetime | None, Sequence[str]]:
        """Returns the expiry of the token and its ancestors."""
        if parent_id is None:
            return expires_at, []
        parent = self._tokens.find_parent(user_id, parent_id)
        if parent is None or parent.is_expired:
            raise Unauthenticated("The API token has expired or was revoked meanwhile; use another one.")
        latest = parent.expires_at
        if latest is not None and expires_at is not None and expires_at > latest:
            raise ValidationFailed(
                {"expiresAt": f"can't be later than the expiry of the token that creates it, {latest.isoformat()}"}
            )
        return expires_at or latest, [*parent.ancestor_ids, parent.id]

    def _validate(self, request: CreateTokenRequest, scopes: Sequence[str]) -> None:
        fields: dict[str, str] = {}
        if (problem := find_name_problem(request.name, maximum=100)) is not None:
            fields["name"] = problem
        known = {permission.value for permission in Permission}
        unknown = [scope for scope in scopes if scope not in known]
        if unknown:
            fields["scopes"] = f"has no scope {unknown[0][:50]!r}; the scopes are {', '.join(sorted(known))}"
        expires_at = request.expires_at
        if expires_at is not None:
            if expires_at.tzinfo is None:
                fields["expiresAt"] = "must name its offset from UTC, like 2030-01-01T00:00:00Z"
            elif not _EARLIEST < expires_at.replace(tzinfo=UTC) < _LATEST or expires_at <= self._clock.now():
                fields["expiresAt"] = "must lie in the future, before the year 9999"
        if fields:
            raise ValidationFailed(fields)


def _resource(row: TokenRow) -> TokenResource:
    return TokenResource(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        scopes=row.scopes,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        created_at=row.created_at,
    )
