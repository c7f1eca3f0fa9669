"""Finds, makes and links the project that `cloudify deploy` deploys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from api.cli.invocation import Invocation
from api.cli.references import find_project, get_project
from api.cli.work_tree import Repository, WorkTree, is_same_address, is_same_repository, name_of, repository_of
from api.client.credentials import Link
from api.client.errors import ApiError, ClientError, ExitCode
from schemas.projects import CreateProjectRequest, ProjectResource, UpdateProjectRequest
from shared.projects.repository_url import public_form


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be deployed: a repository's address, and the work tree it was found in, if any."""

    repository: Repository
    tree: WorkTree | None

    @property
    def default_name(self) -> str:
        if self.tree is None:
            return name_of(self.repository.url)
        return self.tree.directory.name or name_of(self.repository.url)


def find_source(path: Path, repository: str | None, *, local: bool) -> Source:
    """Raises ClientError when there is nothing to deploy at `path`."""
    if repository is not None:
        # The user wrote this address on purpose, with or without a password; only short forms are spelled out.
        given = repository_of(repository, Path.cwd())
        return Source(Repository(repository, is_local=False) if given.had_password else given, None)
    tree = WorkTree.find(path)
    if tree is None:
        raise ClientError(
            f"{path} is not in a git repository.",
            "Make it one (`git init && git add . && git commit -m start`), or name one with --repository URL.",
            exit_code=ExitCode.USAGE,
        )
    if tree.commit("HEAD") is None:
        raise ClientError(
            f"The git repository {tree.root} has no commit yet.",
            "Only committed files are deployed: `git add . && git commit -m start`.",
            exit_code=ExitCode.USAGE,
        )
    return Source(tree.repository(local=local), tree)


def find_target(
    invocation: Invocation, source: Source | None, *, project: str | None, name: str | None
) -> ProjectResource | None:
    """In this order: --project, the link of the work tree, a project of that name. None where one has to be made."""
    if project is not None or source is None:
        return get_project(invocation, project)
    found = _linked(invocation, source.tree) if name is None else None
    return found or _named(invocation, source, name or source.default_name)


def source_of(invocation: Invocation, project: ProjectResource, source: Source) -> Source | None:
    """Where the work tree has what the project deploys: its remote, or itself. None where the project deploys another
    repository, about which the checkout says nothing."""
    url, tree = project.repository_url, source.tree
    if url is None or tree is None:
        return source
    if tree.is_at(url):
        if not source.repository.is_tree:
            invocation.output.note(f"{project.slug} deploys {url}, not the remote origin.")
        return Source(tree.repository(local=True), tree)
    if is_same_repository(url, source.repository.url):
        return source
    here = public_form(source.repository.url)
    invocation.output.note(
        f"{project.slug} deploys {url}; the checkout here is of another repository, {here}, and doesn't count."
    )
    return None


def create_project(
    invocation: Invocation, source: Source, *, name: str | None, branch: str | None, yes: bool
) -> ProjectResource:
    """`branch`: None for a project that follows the repository's default branch."""
    name = name or source.default_name
    if not yes and invocation.is_interactive():
        click.confirm(f"Make the project {name!r} from {source.repository.url}?", default=True, abort=True, err=True)
    request = CreateProjectRequest(
        name=name[:100],
        repository_url=source.repository.url,
        repository_branch=branch,
        root_directory="." if source.tree is None else source.tree.root_directory,
    )
    created = invocation.client.create_project(request)
    invocation.output.note(f"Made the project {created.slug} from {source.repository.url}.")
    return created


def link_directory(invocation: Invocation, source: Source, project: ProjectResource) -> None:
    """A link that the work tree has stays, be it to another API."""
    tree = source.tree
    if tree is not None and tree.linked_project() is None:
        credentials = invocation.credentials()
        tree.link_project(project.id, Link(credentials.api_url, credentials.profile))


def use_repository(invocation: Invocation, project: ProjectResource, source: Source, *, yes: bool) -> ProjectResource:
    """Changes the project's repository to one that was named with --repository or --local, after asking."""
    url = source.repository.url
    if is_same_address(project.repository_url, url):
        return project
    if not yes:
        question = f"{project.slug} deploys {project.repository_url}. Make it deploy {url} from now on?"
        if not invocation.is_interactive():
            raise ClientError(
                f"The project {project.slug} deploys {project.repository_url}, not {url}.",
                "Add --yes to change it, or --name for another project.",
                exit_code=ExitCode.USAGE,
            )
        click.confirm(question, abort=True, err=True)
    return invocation.client.update_project(project.id, UpdateProjectRequest(repository_url=url))


def _linked(invocation: Invocation, tree: WorkTree | None) -> ProjectResource | None:
    project_id = None if tree is None else invocation.linked_project(tree)
    if tree is None or project_id is None:
        if tree is not None and tree.linked_project() is not None:
            invocation.output.note("This directory stays linked to its project at another API.")
        return None
    try:
        return invocation.client.project(project_id)
    except ApiError as error:
        if error.status != 404:
            raise
    invocation.output.note("The project that this directory was linked to is gone; linking another one.")
    tree.unlink_project()
    return None


def _named(invocation: Invocation, source: Source, name: str) -> ProjectResource | None:
    found = find_project(invocation.client, name)
    if found is not None and not is_same_repository(found.repository_url, source.repository.url):
        raise ClientError(
            f"There is a project {found.slug} already, and it deploys {found.repository_url}.",
            f"Use --project {found.slug} to deploy that one, or --name NAME for a new project.",
            exit_code=ExitCode.USAGE,
        )
    return found
