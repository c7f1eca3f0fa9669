"""Creates, reads and changes projects. Deletion is requested here and done by a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from schemas.projects import CreateProjectRequest, ProjectResource, UpdateProjectRequest
from shared.db.database import Connection, Database
from shared.db.paging import Page, PageRequest
from shared.deployments.jobs import cleanup_job
from shared.deployments.state import SiteRuntime
from shared.errors import CloudifyError, Conflict, ErrorCode, NotFound, PlanLimit, Unavailable, ValidationFailed
from shared.identifiers import PROJECT, new_identifier
from shared.network.address_policy import AddressPolicy
from shared.plans import limits_of
from shared.projects.credential_service import RepositoryCredentialService
from shared.projects.project_input import (
    RESERVED_SLUGS,
    field_problems,
    numbered_slug,
    runtime_problems,
    slug_from,
    slug_problem,
)
from shared.projects.repository import NewProject, ProjectRepository, ProjectRow
from shared.projects.repository_url import RepositoryPolicy, parse_repository_url, public_form
from shared.queue.base import JobQueue
from shared.settings import NetworkSettings, SitePodSettings, SiteSettings

Record = Callable[[Connection, ProjectResource], None]

# How many numbered slugs are tried before the client has to choose one.
_SLUG_ATTEMPTS = 100


class ProjectService:
    def __init__(
        self,
        *,
        database: Database,
        projects: ProjectRepository,
        credentials: RepositoryCredentialService,
        queue: JobQueue,
        network: NetworkSettings,
        sites: SiteSettings,
        site_pods: SitePodSettings,
    ) -> None:
        self._database = database
        self._projects = projects
        self._addresses = AddressPolicy(network.egress_allowed_networks)
        self._may_choose_network = network.build_network_choice
        self._credentials = credentials
        self._queue = queue
        self._sites = sites
        self._site_pods = site_pods

    def tenant_of(self, project_id: str) -> str | None:
        return self._projects.find_tenant(project_id)

    def get(self, tenant_id: str, project_id: str) -> ProjectResource:
        """Raises NotFound."""
        row = self._projects.find(tenant_id, project_id)
        if row is None:
            raise _not_found()
        return self._resource(row)

    def get_by_slug(self, tenant_ids: Sequence[str], slug: str) -> ProjectResource:
        """Raises NotFound."""
        row = self._projects.find_by_slug(tenant_ids, slug)
        if row is None:
            raise _not_found()
        return self._resource(row)

    def list(
        self, tenant_ids: Sequence[str], *, page: PageRequest, framework: Sequence[str] = ()
    ) -> Page[ProjectResource]:
        return self._projects.page(tenant_ids, page, framework=framework).map(self._resource)

    def create(
        self, tenant_id: str, request: CreateProjectRequest, *, set_by: str | None, record: Record | None = None
    ) -> ProjectResource:
        """Creates a project. `set_by`: the platform administrator who sets its address, with administrator rights, or
        None. Only such an address may be a file:// one, as long as the user is an administrator. `record` runs in the
        same transaction.

        Raises ValidationFailed (URL_FORBIDDEN), Conflict (SLUG_TAKEN), PlanLimit.
        """
        self._validate(msgspec.structs.asdict(request), allows_files=set_by is not None)
        with self._database.transaction() as connection:
            self._admit(connection, tenant_id)
            row = self._insert(connection, _new_project(tenant_id, request, set_by), request.slug)
            self._keep_credentials(connection, row.id, request.repository_url)
            resource = self._resource(row)
            if record is not None:
                record(connection, resource)
        return resource

    def update(
        self, tenant_id: str, project_id: str, request: UpdateProjectRequest, *, set_by: str | None
    ) -> ProjectResource:
        """Changes the fields that the request has. `set_by`: as in `create`.

        Raises ValidationFailed (URL_FORBIDDEN), NotFound.
        """
        changes = {name: value for name, value in msgspec.structs.asdict(request).items() if value is not msgspec.UNSET}
        self._validate(changes, allows_files=set_by is not None)
        if "name" in changes:
            changes["name"] = changes["name"].strip()
        if "repository_url" in changes:
            changes["repository_set_by"] = set_by
        if changes:
            with self._database.transaction() as connection:
                address = changes.get("repository_url")
                stored = changes | ({"repository_url": _without_credentials(address)} if address else {})
                if not self._projects.update(connection, tenant_id, project_id, stored):
                    raise _not_found()
                self._keep_credentials(connection, project_id, address)
        return self.get(tenant_id, project_id)

    def delete(self, tenant_id: str, project_id: str) -> None:
        """Hides the project at once. A job removes its deployments, sites and files. Raises NotFound."""
        plan = self._projects.set_deleting(tenant_id, project_id)
        if plan is None:
            raise _not_found()
        try:
            self._queue.enqueue(cleanup_job(subject_id=project_id, tenant_id=tenant_id, limits=limits_of(plan)))
        except Unavailable:
            # `deleting_at` is committed; the reconciler enqueues missing jobs.
            return

    def _validate(self, values: Mapping[str, object], *, allows_files: bool) -> None:
        problems = field_problems(values) | runtime_problems(values, self._site_pods)
        if values.get("build_network") is not None and not self._may_choose_network:
            problems["buildNetwork"] = (
                "can't be chosen on this installation; its operator allows it with CLOUDIFY_BUILD_NETWORK_CHOICE=true"
            )
        code: ErrorCode | None = None
        address = values.get("repository_url")
        if isinstance(address, str):
            try:
                # The clone checks again with the resolved addresses; a request resolves no names.
                policy = RepositoryPolicy(self._addresses, allows_files=allows_files)
                policy.check(parse_repository_url(address))
            except CloudifyError as error:
                code = error.code if error.code == ErrorCode.URL_FORBIDDEN and not problems else None
                fields = (error.details or {}).get("fields", [])
                problems["repositoryUrl"] = fields[0]["message"] if fields else error.message
        if problems:
            raise ValidationFailed(problems, code=code)

    def _keep_credentials(self, connection: Connection, project_id: str, address: str | None) -> None:
        """Encrypts and stores credentials in the address as the project's."""
        if address:
            self._credentials.take_from(connection, project_id, parse_repository_url(address))

    def _admit(self, connection: Connection, tenant_id: str) -> None:
        plan = self._projects.lock_tenant(connection, tenant_id)
        if plan is None:
            raise NotFound("There is no such account.")
        maximum = limits_of(plan).maximum_projects
        if self._projects.count_of(connection, tenant_id) >= maximum:
            raise PlanLimit(
                f"The {plan} plan allows {maximum} projects; delete one or change the plan.",
                details={"plan": plan, "maximumProjects": maximum},
            )

    def _insert(self, connection: Connection, project: NewProject, wanted: str | None) -> ProjectRow:
        """Inserts the project with the `wanted` slug, or with the first free one derived from its name."""
        if wanted is not None:
            row = self._projects.insert(connection, msgspec.structs.replace(project, slug=wanted))
            if row is None:
                raise Conflict(f"The slug {wanted} is taken; choose another.", code=ErrorCode.SLUG_TAKEN)
            return row
        base = slug_from(project.name)
        for number in range(1, _SLUG_ATTEMPTS + 1):
            slug = base if number == 1 else numbered_slug(base, number)
            if slug in RESERVED_SLUGS or slug_problem(slug) is not None:
                continue
            row = self._projects.insert(connection, msgspec.structs.replace(project, slug=slug))
            if row is not None:
                return row
        raise Conflict(
            f"{base} and its first {_SLUG_ATTEMPTS} numbers are taken; send a slug of your choice.",
            code=ErrorCode.SLUG_TAKEN,
        )

    def _resource(self, row: ProjectRow) -> ProjectResource:
        return ProjectResource(
            id=row.id,
            name=row.name,
            slug=row.slug,
            # Only clones may see credentials in the address.
            repository_url=None if row.repository_url is None else public_form(row.repository_url),
            repository_branch=row.repository_branch,
            root_directory=row.root_directory,
            framework=row.framework,
            install_command=row.install_command,
            build_command=row.build_command,
            output_directory=row.output_directory,
            node_version=row.node_version,
            runtime=row.runtime,
            replicas=row.replicas,
            is_application=row.is_application,
            url=self._sites.url(row.slug),
            is_pinned=row.is_pinned,
            active_deployment_id=row.active_deployment_id,
            created_at=row.created_at,
            updated_at=row.updated_at,
            default_branch=row.default_branch,
            build_network=row.build_network,
        )


def _new_project(tenant_id: str, request: CreateProjectRequest, set_by: str | None) -> NewProject:
    """The slug is still empty."""
    return NewProject(
        id=new_identifier(PROJECT),
        tenant_id=tenant_id,
        name=request.name.strip(),
        slug="",
        repository_url=_without_credentials(request.repository_url),
        repository_branch=request.repository_branch,
        root_directory=request.root_directory,
        framework=request.framework,
        install_command=request.install_command,
        build_command=request.build_command,
        output_directory=request.output_directory,
        node_version=request.node_version,
        runtime=SiteRuntime(request.runtime),
        replicas=request.replicas,
        build_network=request.build_network,
        is_application=None if request.is_application is msgspec.UNSET else request.is_application,
        repository_set_by=set_by,
    )


def _without_credentials(address: str | None) -> str | None:
    """The unchanged address, unless it has credentials."""
    if not address:
        return address
    url = parse_repository_url(address)
    return url.public if url.secrets else address


def _not_found() -> NotFound:
    return NotFound("There is no such project.")
