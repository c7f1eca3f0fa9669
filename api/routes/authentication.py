"""Registration, sign-in, sign-out and sessions."""

from __future__ import annotations

from litestar import Controller, Response, delete, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from api.authentication import Principal
from api.bodies import SMALL_BODY_BYTES
from api.connections import PublicRequest, UserRequest
from api.guards import authorize, authorize_anywhere
from api.resources import DEPLOYMENT
from api.responses import answer, success
from api.services import Services
from api.session_cookie import REFRESH_COOKIE, read_cookie, refresh_cookie, refuse_foreign_site
from schemas.accounts import (
    DEVICE_COOKIE,
    CreateStreamTicketRequest,
    LoginRequest,
    RegisterRequest,
    SessionResource,
    SignedIn,
    StreamTicketResource,
    UserResource,
)
from schemas.envelope import Success
from shared.accounts.permissions import Permission
from shared.accounts.service import login_name
from shared.accounts.session_service import IssuedSession
from shared.errors import ErrorCode

_REFRESH_ERRORS = (ErrorCode.UNAUTHENTICATED, ErrorCode.SESSION_REVOKED, ErrorCode.CSRF_REJECTED)


class AuthenticationController(Controller):
    path = "/auth"
    tags = ["Authentication"]  # noqa: RUF012 - Litestar reads it as it is
    request_max_body_size = SMALL_BODY_BYTES

    @post(
        "/register",
        opt={"public": True, "errors": (ErrorCode.CONFLICT, ErrorCode.FORBIDDEN), "threads": "passwords"},
        sync_to_thread=True,
    )
    def register(
        self, request: PublicRequest, data: JSONBody[RegisterRequest], services: NamedDependency[Services]
    ) -> Response[Success[SignedIn]]:
        """Creates an account and signs in."""
        user = services.accounts.register(data)
        session = services.sessions.start(user.id, user_agent=_user_agent(request), address=_address(request))
        return _signed_in(user, session, status=201, device=_device(request, services, data.email))

    @post(
        "/login",
        status_code=200,
        opt={
            "public": True,
            "errors": (ErrorCode.INVALID_CREDENTIALS, ErrorCode.LOGIN_THROTTLED),
            "threads": "passwords",
        },
        sync_to_thread=True,
    )
    def login(
        self, request: PublicRequest, data: JSONBody[LoginRequest], services: NamedDependency[Services]
    ) -> Response[Success[SignedIn]]:
        """Signs in. Wrong passwords are limited to 5 a minute for an account and 20 for an address; a client that
        has signed in to the account before, and sends the cookie that it was given then, has 5 of its own."""
        address, cookie = _address(request), read_cookie(request.headers, DEVICE_COOKIE)
        device = services.device_cookies.device_of(cookie, login_name(data.email))
        user = services.accounts.authenticate(data.email, data.password, address=address, device=device)
        session = services.sessions.start(user.id, user_agent=_user_agent(request), address=address)
        return _signed_in(user, session, status=200, device=_device(request, services, data.email))

    @post("/refresh", status_code=200, opt={"public": True, "errors": _REFRESH_ERRORS}, sync_to_thread=True)
    def refresh(self, request: PublicRequest, services: NamedDependency[Services]) -> Response[Success[SignedIn]]:
        """Returns a new access token for the refresh cookie, and replaces the cookie."""
        refuse_foreign_site(request.headers)
        cookie = read_cookie(request.headers, REFRESH_COOKIE)
        session = services.sessions.refresh(cookie, user_agent=_user_agent(request), address=_address(request))
        return _signed_in(services.accounts.get(session.user_id), session, status=200)

    @post("/logout", status_code=204, opt={"public": True, "errors": (ErrorCode.CSRF_REJECTED,)}, sync_to_thread=True)
    def logout(self, request: PublicRequest, services: NamedDependency[Services]) -> Response[None]:
        """Ends the session of the refresh cookie."""
        refuse_foreign_site(request.headers)
        services.sessions.end(read_cookie(request.headers, REFRESH_COOKIE))
        return Response(None, status_code=204, cookies=[refresh_cookie("", 0)])

    @get("/me", opt={"self": True, "scoped": True}, sync_to_thread=True)
    def me(self, request: UserRequest, services: NamedDependency[Services]) -> Success[UserResource]:
        """The signed-in user."""
        return success(services.accounts.get(request.user.user_id))

    @get("/sessions", opt={"self": True}, sync_to_thread=True)
    def list_sessions(
        self, request: UserRequest, services: NamedDependency[Services]
    ) -> Success[list[SessionResource]]:
        """The live sessions, latest first."""
        return success(services.sessions.list(request.user.user_id, current=request.user.session_id))

    @delete("/sessions/{session_id:str}", opt={"self": True, "errors": (ErrorCode.NOT_FOUND,)}, sync_to_thread=True)
    def revoke_session(
        self, request: UserRequest, session_id: FromPath[str], services: NamedDependency[Services]
    ) -> None:
        """Ends a session; its access tokens stop working at once."""
        services.sessions.revoke(request.user.user_id, session_id)

    @post(
        "/stream-tickets",
        opt={"self": True, "scoped": True, "errors": (ErrorCode.NOT_FOUND,)},
        sync_to_thread=True,
    )
    def create_stream_ticket(
        self,
        request: UserRequest,
        data: JSONBody[CreateStreamTicketRequest],
        services: NamedDependency[Services],
    ) -> Response[Success[StreamTicketResource]]:
        """Returns a ticket that opens one stream, once, within 60 s, as `?ticket=`: of a deployment's log, or without
        `deploymentId` of the account's events. The stream has the rights of the ticket's user."""
        principal: Principal = request.user
        deployment_id = None if data.deployment_id is UNSET else data.deployment_id
        if deployment_id is None:
            authorize_anywhere(services, principal, Permission.DEPLOY_READ)
        else:
            authorize(services, principal, Permission.DEPLOY_READ, DEPLOYMENT, deployment_id)
        ticket = services.stream_tickets.issue(
            user_id=principal.user_id,
            token_id=principal.token_id,
            session_id=principal.session_id,
            deployment_id=deployment_id,
        )
        stream = "/api/events/stream" if deployment_id is None else f"/api/deployments/{deployment_id}/logs/stream"
        return answer(ticket, status=201, location=stream)


def _signed_in(
    user: UserResource, session: IssuedSession, *, status: int, device: Cookie | None = None
) -> Response[Success[SignedIn]]:
    data = SignedIn(user=user, access_token=session.access_token, expires_in=session.expires_in)
    cookies = [refresh_cookie(session.refresh_token, session.refresh_expires_in), *([device] if device else [])]
    return answer(data, status=status, location="/api/auth/me" if status == 201 else None, cookies=cookies)


def _device(request: PublicRequest, services: Services, email: str) -> Cookie:
    return services.device_cookies.signed_in(read_cookie(request.headers, DEVICE_COOKIE), login_name(email))


def _user_agent(request: PublicRequest) -> str | None:
    return request.headers.get("user-agent")


def _address(request: PublicRequest) -> str:
    return request.client.host if request.client else "unknown"
