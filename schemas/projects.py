"""Bodies that the API accepts. Unknown fields are refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

Names = Annotated[list[str], msgspec.Meta(max_length=100)]


class Request(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of all request structs. What a struct can't say is checked in the service, all fields at once."""


class RegisterRequest(Request):
    email: str
    password: str
    name: str = ""


class LoginRequest(Request):
    email: str
    password: str


class CreateTokenRequest(Request):
    name: str
    scopes: Names = []
    expires_at: datetime | None = None


class CreateStreamTicketRequest(Request):
    """Without `deployment_id`: for the account's stream of events."""

    deployment_id: str | msgspec.UnsetType = msgspec.UNSET


class CreateProjectRequest(Request):
    name: str
    repository_url: str | None = None
    slug: str | None = None
    repository_branch: str = "main"
    root_directory: str = "."
    framework: str | None = None
    install_command: str | None = None
    build_command: str | None = None
    output_directory: str | None = None
    node_version: str | None = None


class UpdateProjectRequest(Request):
    name: str | msgspec.UnsetType = msgspec.UNSET
    repository_url: str | msgspec.UnsetType | None = msgspec.UNSET
    repository_branch: str | msgspec.UnsetType = msgspec.UNSET
    root_directory: str | msgspec.UnsetType = msgspec.UNSET
    framework: str | msgspec.UnsetType | None = msgspec.UNSET
    install_command: str | msgspec.UnsetType | None = msgspec.UNSET
    build_command: str | msgspec.UnsetType | None = msgspec.UNSET
    output_directory: str | msgspec.UnsetType | None = msgspec.UNSET
    node_version: str | msgspec.UnsetType | None = msgspec.UNSET
    is_pinned: bool | msgspec.UnsetType = msgspec.UNSET


class SetVariableRequest(Request):
    """`stages`: which commands see it, of "install" and "build"."""

    value: str
    targets: Names = msgspec.field(default_factory=lambda: ["production", "preview", "development"])
    stages: Names = msgspec.field(default_factory=lambda: ["build"])


class SetRepositoryCredentialsRequest(Request):
    """`kind` is token (with `token` and, where the host wants one, `username`) or sshKey (with `private_key`)."""

    kind: str
    username: str | None = None
    token: str | None = None
    private_key: str | None = None


class CreateDeploymentRequest(Request):
    project_id: str
    branch: str | None = None
    commit_sha: str | None = None
    is_preview: bool = False
    clean: bool = False
    if_changed: bool = False
    priority: int = 5
