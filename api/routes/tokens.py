"""API tokens of the signed-in user."""

from __future__ import annotations

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from api.authentication import Principal
from api.bodies import SMALL_BODY_BYTES
from api.connections import UserRequest
from api.pagination import ListParameters
from api.responses import answer, success
from api.services import Services
from schemas.accounts import CreatedTokenResource, CreateTokenRequest, TokenResource
from schemas.envelope import Success
from shared.errors import ErrorCode


class TokenController(Controller):
    path = "/auth/tokens"
    tags = ["Tokens"]  # noqa: RUF012 - Litestar reads it as it is
    request_max_body_size = SMALL_BODY_BYTES

    @get("/", opt={"self": True, "errors": (ErrorCode.INVALID_CURSOR, ErrorCode.INVALID_SORT)}, sync_to_thread=True)
    def list_tokens(
        self,
        request: UserRequest,
        list_parameters: NamedDependency[ListParameters],
        services: NamedDependency[Services],
    ) -> Success[list[TokenResource]]:
        """The tokens that aren't revoked."""
        query = list_parameters.with_filters({}, sortable={"createdAt": "created_at"}, default="-createdAt")
        return query.answer(services.tokens.list(request.user.user_id, query.page))

    @post(
        "/",
        opt={"self": True, "scoped": True, "errors": (ErrorCode.SCOPE_ESCALATION, ErrorCode.CONFLICT)},
        sync_to_thread=True,
    )
    def create_token(
        self, request: UserRequest, data: JSONBody[CreateTokenRequest], services: NamedDependency[Services]
    ) -> Response[Success[CreatedTokenResource]]:
        """Creates a token and shows it once. A token that it creates expires no later and is revoked with it."""
        principal: Principal = request.user
        token = services.tokens.create(principal.user_id, data, granted=principal.scopes, parent_id=principal.token_id)
        return answer(token, status=201, location=f"/api/auth/tokens/{token.id}")

    @get("/{token_id:str}", opt={"self": True, "errors": (ErrorCode.NOT_FOUND,)}, sync_to_thread=True)
    def get_token(
        self, request: UserRequest, token_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[TokenResource]:
        """One token, without its secret."""
        return success(services.tokens.get(request.user.user_id, token_id))

    @delete("/{token_id:str}", opt={"self": True, "errors": (ErrorCode.NOT_FOUND,)}, sync_to_thread=True)
    def revoke_token(self, request: UserRequest, token_id: FromPath[str], services: NamedDependency[Services]) -> None:
        """Revokes a token and the tokens that it created; they stop working at once."""
        services.tokens.revoke(request.user.user_id, token_id)
