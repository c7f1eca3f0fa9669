"""`Idempotency-Key`: the answer is stored in the transaction of its effect, so that a repeat never acts twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Annotated, TypeVar, cast

import msgspec
from litestar import Response
from litestar.params import HeaderParameter

from api.connections import UserRequest
from api.errors import RequestRefused
from api.responses import answer
from schemas.envelope import Success
from shared.db.database import Connection
from shared.errors import Conflict, ErrorCode
from shared.idempotency.repository import IdempotencyRepository, IdempotencyScope, KeptAnswer

T = TypeVar("T")

# The bytes of the header in Latin-1: those of other encodings look like further control characters.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _AnsweredMeanwhile(Exception):
    """Another request with the key has committed first; raising this rolls back the effect of this request."""

    def __init__(self, kept: KeptAnswer) -> None:
        super().__init__("answered meanwhile")
        self.kept = kept


class IdempotentCall:
    """`scope` is None if the client sent no key: then nothing is recorded."""

    def __init__(self, repository: IdempotencyRepository, scope: IdempotencyScope | None, fingerprint: bytes) -> None:
        self._repository = repository
        self._scope = scope
        self._fingerprint = fingerprint

    def run(
        self,
        effect: Callable[[Callable[[Connection, T], None] | None], T],
        *,
        status: int,
        location: Callable[[T], str] | None = None,
    ) -> Response[Success[T]]:
        """Calls `effect` with a callback, which it must call inside its transaction.

        Raises RequestRefused (IDEMPOTENCY_MISMATCH), Conflict (IDEMPOTENCY_IN_PROGRESS).
        """
        if self._scope is None:
            resource = effect(None)
            return answer(resource, status=status, location=None if location is None else location(resource))
        kept = self._repository.find(self._scope)
        if kept is not None:
            return cast("Response[Success[T]]", self._replay(kept))
        scope = self._scope

        def record(connection: Connection, resource: T) -> None:
            place = None if location is None else location(resource)
            self._record(connection, scope, KeptAnswer(self._fingerprint, status, msgspec.json.encode(resource), place))

        try:
            resource = effect(record)
        except _AnsweredMeanwhile as meanwhile:
            return cast("Response[Success[T]]", self._replay(meanwhile.kept))
        return answer(resource, status=status, location=None if location is None else location(resource))

    def _record(self, connection: Connection, scope: IdempotencyScope, kept: KeptAnswer) -> None:
        if not self._repository.try_lock(connection, scope):
            raise Conflict(
                "A request with this Idempotency-Key is in progress; repeat it in a second.",
                code=ErrorCode.IDEMPOTENCY_IN_PROGRESS,
            )
        earlier = self._repository.find_in(connection, scope)
        if earlier is not None:
            raise _AnsweredMeanwhile(earlier)
        self._repository.insert(connection, scope, kept)

    def _replay(self, kept: KeptAnswer) -> Response[Success[msgspec.Raw]]:
        """The answer as it was encoded the first time."""
        if kept.fingerprint != self._fingerprint:
            raise RequestRefused(
                "The Idempotency-Key was used for another body; use a new key for a new request.",
                code=ErrorCode.IDEMPOTENCY_MISMATCH,
            )
        response = answer(msgspec.Raw(kept.body), status=kept.status, location=kept.location)
        response.headers["Idempotent-Replayed"] = "true"
        return response


async def provide_idempotent_call(
    request: UserRequest,
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(name="Idempotency-Key", description="At most 255 characters; repeats within 24 h act once"),
    ] = None,
) -> IdempotentCall:
    """The dependency `idempotent_call`."""
    repository: IdempotencyRepository = request.app.state.services.idempotency
    if idempotency_key is None:
        return IdempotentCall(repository, None, b"")
    if not 1 <= len(idempotency_key) <= 255 or _CONTROL.search(idempotency_key):
        raise RequestRefused(
            "The Idempotency-Key must have from 1 to 255 characters, without control characters.",
            code=ErrorCode.VALIDATION_ERROR,
            details={"fields": [{"field": "Idempotency-Key", "message": "must have from 1 to 255 characters"}]},
        )
    scope = IdempotencyScope(request.user.user_id, request.method, request.url.path, idempotency_key)
    return IdempotentCall(repository, scope, hashlib.sha256(await request.body()).digest())
