"""Projects, their environment variables and the credentials of their repository."""

from __future__ import annotations

from datetime import datetime

import msgspec

from schemas.base import Names, Request, Resource


class CreateProjectRequest(Request):
    """`runtime`: what serves the site, `files` or, where the platform has a cluster for it, `pods`: as many pods of its
    own as `replicas`. `is_application`: whether `index.html` is shown for paths that the site doesn't have; if it isn't
    given, that is decided at upload.
    """

    name: str
    repository_url: str | None = None
    slug: str | None = None
    # None: the repository's default branch, whichever that is at the time of a deployment.
    repository_branch: str | None = None
    root_directory: str = "."
    framework: str | None = None
    install_command: str | None = None
    build_command: str | None = None
    output_directory: str | None = None
    node_version: str | None = None
    runtime: str = "files"
    replicas: int = 1
    # "none" or "filtered"; None: the installation's default.
    build_network: str | None = None
    # Sent only if it is given: the API of the version before refuses it.
    is_application: bool | msgspec.UnsetType | None = msgspec.UNSET


class UpdateProjectRequest(Request):
    name: str | msgspec.UnsetType = msgspec.UNSET
    repository_url: str | msgspec.UnsetType | None = msgspec.UNSET
    repository_branch: str | msgspec.UnsetType | None = msgspec.UNSET
    root_directory: str | msgspec.UnsetType = msgspec.UNSET
    framework: str | msgspec.UnsetType | None = msgspec.UNSET
    install_command: str | msgspec.UnsetType | None = msgspec.UNSET
    build_command: str | msgspec.UnsetType | None = msgspec.UNSET
    output_directory: str | msgspec.UnsetType | None = msgspec.UNSET
    node_version: str | msgspec.UnsetType | None = msgspec.UNSET
    build_network: str | msgspec.UnsetType | None = msgspec.UNSET
    is_application: bool | msgspec.UnsetType | None = msgspec.UNSET
    is_pinned: bool | msgspec.UnsetType = msgspec.UNSET
    runtime: str | msgspec.UnsetType = msgspec.UNSET
    replicas: int | msgspec.UnsetType = msgspec.UNSET


class ProjectResource(Resource):
    """`repository_branch`: None if the project follows the repository's default branch. `default_branch`: the one that
    a clone has seen last."""

    id: str
    name: str
    slug: str
    repository_url: str | None
    repository_branch: str | None
    root_directory: str
    framework: str | None
    install_command: str | None
    build_command: str | None
    output_directory: str | None
    node_version: str | None
    url: str
    is_pinned: bool
    active_deployment_id: str | None
    created_at: datetime
    updated_at: datetime
    runtime: str = "files"
    replicas: int = 1
    default_branch: str | None = None
    build_network: str | None = None
    is_application: bool | None = None


class ProjectReference(Resource):
    name: str
    slug: str


class SetVariableRequest(Request):
    """`stages`: which commands see it, of "install" and "build"."""

    value: str
    targets: Names = msgspec.field(default_factory=lambda: ["production", "preview", "development"])
    stages: Names = msgspec.field(default_factory=lambda: ["build"])


class EnvironmentVariableResource(Resource):
    """Values are never read back."""

    key: str
    targets: list[str]
    stages: list[str]
    created_at: datetime
    updated_at: datetime


class DevelopmentEnvironmentResource(Resource):
    """`withheld`: names of variables that hold for development but for builds as well; their values stay here."""

    variables: dict[str, str]
    withheld: list[str]


class SetRepositoryCredentialsRequest(Request):
    """`kind` is token (with `token` and, where the host wants one, `username`) or sshKey (with `private_key`)."""

    kind: str
    username: str | None = None
    token: str | None = None
    private_key: str | None = None


class RepositoryCredentialsResource(Resource):
    """The secret itself is never read back. `host`: the only one that gets it, as scheme://host:port.

    `fingerprint` and `public_key` are those of a deploy key.
    """

    kind: str
    host: str
    username: str | None
    fingerprint: str | None
    public_key: str | None
    updated_at: datetime
