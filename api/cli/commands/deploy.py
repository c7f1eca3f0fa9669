from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from api.cli.checkout import Checkout, Placement, check_pushed, place_detached, read_checkout
from api.cli.invocation import Invocation, api_command
from api.cli.log_views import EXIT_CODES, LogView, PlainView, follow, report_end
from api.cli.project_setup import (
    Source,
    create_project,
    find_source,
    find_target,
    link_directory,
    source_of,
    use_repository,
)
from api.cli.work_tree import WorkTree
from api.client.errors import ClientError, ExitCode
from api.client.log_stream import LogFollower
from schemas.deployments import CreateDeploymentRequest, DeploymentResource
from schemas.projects import ProjectResource

_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True, slots=True)
class _Choices:
    """The command line; its fields are named as the options."""

    path: Path
    project: str | None
    branch: str | None
    commit: str | None
    preview: bool
    production: bool
    clean: bool
    if_changed: bool
    no_wait: bool
    yes: bool
    repository: str | None
    local: bool
    name: str | None


@click.command()
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--project", metavar="PROJECT", help="Deploy this project (id, slug or name) instead of the linked one.")
@click.option("--branch", help="The branch to deploy; default: the one checked out, if it counts.")
@click.option("--commit", help="The commit to deploy; default: the branch's latest, or the one that is checked out.")
@click.option("--preview", is_flag=True, help="Deploy to an address of its own, not to production.")
@click.option("--production", is_flag=True, help="Deploy to production, whatever is checked out.")
@click.option("--clean", is_flag=True, help="Ignore all caches.")
@click.option("--if-changed", is_flag=True, help="Build nothing if nothing has changed, or the commit says [skip ci].")
@click.option("--no-wait", is_flag=True, help="Don't follow the deployment to its end.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@click.option("--repository", metavar="URL", help="The git repository; default: the remote origin.")
@click.option("--local", is_flag=True, help="Deploy from this directory's own repository, not from its origin.")
@click.option("--name", help="The project's name; default: the directory's.")
@api_command
def deploy(invocation: Invocation, **options: Any) -> None:
    """Deploy the git repository at PATH and follow its log.

    Deploys what is committed, from the remote `origin`, or from the directory itself where there is no remote. The
    first time it makes a project and remembers it in the repository's git configuration (cloudify.project). Prints
    the site's address on stdout, all else on stderr. Ctrl-C stops watching, not the deployment.

    On a detached HEAD, as most CI systems check out, that commit is deployed, as is a --commit that isn't on the branch
    checked out: to production with --production, or if
    the production branch is the only branch of the remote that contains it; otherwise to an address of its own.

    If the project deploys another repository than `origin`, the checkout doesn't count: the production branch is
    deployed unless --branch or --commit (in full) names something else.

    The production branch is the repository's default branch, unless the project names another
    (`cloudify settings set repositoryBranch NAME`).
    """
    choices = _Choices(**options)
    _refuse_contradictions(choices)
    invocation.directory = choices.path
    source = _source(choices)
    target = find_target(invocation, source, project=choices.project, name=choices.name)
    # --local makes the project deploy what is here, whatever it deployed before.
    if target is not None and source is not None and not choices.local:
        source = source_of(invocation, target, source)
    tree = None if source is None else source.tree
    if choices.commit is not None:
        choices = replace(choices, commit=_full_commit(tree, choices.commit))
    checkout = _checkout(choices, source)
    if source is not None:
        _warn_about_what_stays(invocation, choices, source, checkout)
        target = _set_up(invocation, choices, source, checkout, target)
    assert target is not None, "what isn't found without a source is an error"
    place = _place(invocation, choices, checkout, target)
    deployment = _create_deployment(invocation, choices, place, target)
    if choices.no_wait:
        _print_result(invocation, deployment, place)
    else:
        _wait(invocation, deployment, place)


def _refuse_contradictions(choices: _Choices) -> None:
    if choices.repository is not None and choices.local:
        raise ClientError("--repository and --local exclude each other.", "Use one.", exit_code=ExitCode.USAGE)
    if choices.preview and choices.production:
        raise ClientError("--preview and --production exclude each other.", "Use one.", exit_code=ExitCode.USAGE)


def _checkout(choices: _Choices, source: Source | None) -> Checkout | None:
    """What is checked out, or the commit that was named, where a work tree knows about it. Raises ClientError for a
    branch that is only here."""
    if source is None or source.tree is None or (choices.branch is not None and choices.commit is None):
        return None
    checkout = read_checkout(source.tree, source.repository, choices.commit)
    if (
        choices.commit is None
        and checkout is not None
        and checkout.branch is not None
        and checkout.branch not in checkout.tips
    ):
        check_pushed(checkout, checkout.branch, source.repository.url)
    return checkout


def _set_up(
    invocation: Invocation,
    choices: _Choices,
    source: Source,
    checkout: Checkout | None,
    found: ProjectResource | None,
) -> ProjectResource:
    """Creates the project if there is none, has it deploy the source, and links the work tree to it."""
    target = found
    if target is None:
        branch = choices.branch or _branch_to_name(source, checkout)
        target = create_project(invocation, source, name=choices.name, branch=branch, yes=choices.yes)
    if choices.repository is not None or choices.local:
        target = use_repository(invocation, target, source, yes=choices.yes)
    link_directory(invocation, source, target)
    return target


def _branch_to_name(source: Source, checkout: Checkout | None) -> str | None:
    """The production branch of a new project: what is checked out. None to follow the repository's default branch."""
    if source.tree is None or checkout is None:
        return None
    checked_out = source.tree.branch()
    if not checkout.is_tree:
        return None if checked_out == checkout.default else checked_out
    # What is checked out in a work tree changes, so it isn't followed as a default branch.
    return checked_out or next((name for name in ("main", "master") if name in checkout.tips), None)


def _production_branch(target: ProjectResource, checkout: Checkout | None) -> str | None:
    """None if it is the repository's default branch, and nobody knows which that is."""
    if target.repository_branch is not None:
        return target.repository_branch
    if checkout is not None and (checkout.is_current or target.default_branch is None):
        return checkout.default
    return target.default_branch


def _place(invocation: Invocation, choices: _Choices, checkout: Checkout | None, target: ProjectResource) -> Placement:
    production = _production_branch(target, checkout)
    if choices.branch is None and checkout is not None and checkout.branch is None:
        return place_detached(checkout, production, preview=choices.preview, production=choices.production)
    branch = choices.branch or (None if checkout is None else checkout.branch)
    _confirm_branch(invocation, target, branch, production, choices)
    return Placement(branch, choices.commit, is_preview=choices.preview)


def _source(choices: _Choices) -> Source | None:
    """None when a named project is deployed from a directory that isn't a work tree: its own repository is enough."""
    try:
        return find_source(choices.path, choices.repository, local=choices.local)
    except ClientError as error:
        if choices.project is not None and not choices.local and error.exit_code is ExitCode.USAGE:
            return None
        raise


def _full_commit(tree: WorkTree | None, commit: str) -> str:
    full = None if tree is None else tree.commit(commit)
    if full is None and _SHA.fullmatch(commit.lower()):
        full = commit.lower()
    if full is None:
        raise ClientError(
            f"{commit!r} is no commit of this repository.",
            "Give the full id of a commit, or run the command inside the repository.",
            exit_code=ExitCode.USAGE,
        )
    return full


def _warn_about_what_stays(
    invocation: Invocation, choices: _Choices, source: Source, checkout: Checkout | None
) -> None:
    """Only committed (and, with a remote, pushed) work is deployed."""
    tree = source.tree
    if tree is None:
        return
    output = invocation.output
    if changes := tree.count_changes():
        files = "1 file has changes that aren't" if changes == 1 else f"{changes} files have changes that aren't"
        output.warning(f"{files} committed; they are not deployed.")
    if checkout is not None:
        # A commit that was named is deployed whatever the branch's tip is.
        find = checkout.warnings if choices.commit is None else checkout.warnings_of_absence
        for warning in find(source.repository.url):
            output.warning(warning)
    if source.repository.had_password:
        output.warning("the password in the remote's address was left out; give it with --repository if it is needed.")


def _confirm_branch(
    invocation: Invocation, target: ProjectResource, branch: str | None, production: str | None, choices: _Choices
) -> None:
    is_decided = choices.preview or choices.production or choices.yes
    if is_decided or branch is None or branch == production:
        return
    if not invocation.is_interactive():
        problem = f"{branch} is not the production branch of {target.slug}, which is {production}."
        if production is None:
            problem = f"{target.slug} follows its repository's default branch, and which that is isn't known here."
        raise ClientError(
            problem,
            f"Add --preview for an address of its own, or --production to put {branch} into production.",
            exit_code=ExitCode.USAGE,
        )
    known = f"is {production}" if production else "is the repository's default branch, which isn't known here"
    click.confirm(f"The production branch {known}. Put {branch} into production all the same?", abort=True, err=True)


def _create_deployment(
    invocation: Invocation, choices: _Choices, place: Placement, target: ProjectResource
) -> DeploymentResource:
    deployment = invocation.client.create_deployment(
        CreateDeploymentRequest(
            project_id=target.id,
            branch=place.branch,
            commit_sha=place.commit,
            is_preview=place.is_preview,
            clean=choices.clean,
            if_changed=choices.if_changed,
        )
    )
    subject = f"the commit {(place.commit or '')[:12]}" if place.origin else deployment.branch or "the default branch"
    invocation.output.note(f"Deployment {deployment.id} of {subject} to {target.slug} is queued.")
    return deployment


def _wait(invocation: Invocation, deployment: DeploymentResource, place: Placement) -> None:
    output = invocation.output

    def say_how_to_go_on() -> None:
        output.note(
            f"Stopped watching; the deployment continues. Watch it with `cloudify logs -f {deployment.id}`, "
            f"stop it with `cloudify cancel {deployment.id}`."
        )

    end = follow(LogFollower(invocation.client, deployment.id), _view(invocation), on_detach=say_how_to_go_on)
    finished = invocation.client.deployment(deployment.id)
    report_end(output, finished)
    _print_result(invocation, finished, place)
    # Nothing to do is no failure.
    raise SystemExit(ExitCode.OK if finished.ignored else EXIT_CODES.get(end.status, ExitCode.FAILED))


def _view(invocation: Invocation) -> LogView:
    if invocation.output.stderr_is_terminal and not invocation.as_json:
        from api.cli.progress import ProgressView

        return ProgressView(invocation.output)
    return PlainView(invocation.output, is_result=False)


def _print_result(invocation: Invocation, deployment: DeploymentResource, place: Placement) -> None:
    is_live = deployment.status == "ready" and deployment.is_active
    if (reason := place.reason(is_live=is_live)) is not None:
        invocation.output.note(reason)
    if invocation.as_json:
        invocation.output.result(deployment)
    elif deployment.status not in ("failed", "cancelled") and deployment.url is not None:
        invocation.output.text(deployment.url)
