"""The resources of one clone: opened for a run of the stage, closed when it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.network.address_policy import AddressPolicy
from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.repository_url import RepositoryPolicy, RepositoryUrl
from shared.settings import Settings
from workers.executors.cgroups import ControlGroups
from workers.pipeline.stage import DeploymentView, StageContext, StageLog
from workers.reading.reader import ContentReader
from workers.stages.clone.access import RepositoryAccess
from workers.stages.clone.addresses import Network, parse_for_clone
from workers.stages.clone.deadline import Deadline
from workers.stages.clone.git.confinement import Confinement
from workers.stages.clone.git.failures import ProxyUnusable, failure_of, proxy_failure
from workers.stages.clone.git.runner import Git, GitFailed, GitLimits
from workers.stages.clone.ssh import SshAccess

if TYPE_CHECKING:
    from workers.stages.clone.proxy import CloneProxy

# From this attempt on, a broken contact is the deployment's failure instead of being retried.
_LAST_ATTEMPT = 3


@dataclass(frozen=True, slots=True)
class CloneSession:
    """The state that the steps of one clone share. Made by `CloneSessions.open`; not shared between threads.

    `url` is the deployment's repository, after it was checked. `reader` parses the repository's files in a child
    process. The stage's runner deletes `directory`.
    """

    context: StageContext
    url: RepositoryUrl
    deadline: Deadline
    network: Network
    access: RepositoryAccess
    git: Git
    reader: ContentReader

    @property
    def deployment(self) -> DeploymentView:
        return self.context.deployment

    @property
    def log(self) -> StageLog:
        return self.context.log

    @property
    def cancelled(self) -> threading.Event:
        return self.context.cancelled

    @property
    def directory(self) -> Path:
        return self.context.directory

    @property
    def source(self) -> Path:
        """The directory of the deployment's source, which `check_out` creates."""
        return self.directory / "source"

    @property
    def is_last_attempt(self) -> bool:
        return self.context.attempt >= _LAST_ATTEMPT

    def failure_of(self, error: GitFailed, url: RepositoryUrl, *, has_waited: bool = False) -> Exception:
        """As `git.failures.failure_of`, but also for a contact that failed at the proxy.

        `has_waited`: the contact was retried here, so only failures of the proxy are left to the stage's next attempt.
        """
        of_proxy = self.network.find_proxy_failure(url)
        if of_proxy is not None:
            return proxy_failure(url, of_proxy, is_last_attempt=self.is_last_attempt)
        failure = failure_of(error, url, is_last_attempt=self.is_last_attempt or has_waited)
        return self.access.with_advice(failure, url)


class CloneSessions:
    """Opens the sessions of a worker. Safe between threads."""

    def __init__(
        self, settings: Settings, host_keys: RepositoryCredentialRepository, control_groups: ControlGroups | None
    ) -> None:
        """If `control_groups` is None, the worker watches git's memory itself, which bounds it only approximately."""
        self._network = settings.network
        self._addresses = AddressPolicy(settings.network.egress_allowed_networks)
        self._host_keys = host_keys
        self._control_groups = control_groups
        self._reader = ContentReader()
        self._certificates: Path | None = None
        if settings.network.ca_bundle is not None:
            from workers.executors.environment import gather_certificates

            self._certificates = gather_certificates(
                settings.network, os.environ, settings.directories.home / "run" / "clones"
            )

    @contextmanager
    def open(self, context: StageContext) -> Generator[CloneSession]:
        """Checks the deployment's address, then opens the proxy, git's confinement and the deploy key, in this order;
        closes them in reverse order.

        Raises StageFailure URL_FORBIDDEN, and PlatformError.
        """
        deployment = context.deployment
        policy = RepositoryPolicy(self._addresses, allows_files=deployment.allows_files)
        url = parse_for_clone(deployment.repository_url, policy)
        context.log.system(f"Cloning {url.public}, {_wanted(deployment)}.")
        with ExitStack() as stack:
            proxy = stack.enter_context(self._opened_proxy())
            confined = Confinement.opened(self._control_groups, deployment.id, context.limits)
            confinement = stack.enter_context(confined)
            deadline = Deadline(time.monotonic() + context.limits.stage_timeout_seconds, context.cancelled)
            ssh = stack.enter_context(self._opened_ssh(context))
            try:
                yield CloneSession(
                    context=context,
                    url=url,
                    deadline=deadline,
                    network=Network(policy, context.cancelled, proxy),
                    access=RepositoryAccess(url, context.credentials, ssh),
                    git=self._git(context, deadline, confinement),
                    reader=self._reader,
                )
            except ProxyUnusable as error:
                # Only the operator can correct this, so the log tells how.
                context.log.system(str(error))
                raise

    def _opened_proxy(self) -> AbstractContextManager[CloneProxy | None]:
        if not self._network.egress_proxy:
            return nullcontext()
        from workers.stages.clone.proxy import CloneProxy

        return CloneProxy.opened(self._network)

    def _opened_ssh(self, context: StageContext) -> AbstractContextManager[SshAccess | None]:
        credentials = context.credentials
        if credentials is None or credentials.kind != "sshKey":
            return nullcontext()
        return SshAccess.opened(
            credentials.private_key, context.directory, self._host_keys, context.deployment.project_id
        )

    def _git(self, context: StageContext, deadline: Deadline, confinement: Confinement) -> Git:
        return Git(
            context.directory,
            GitLimits(maximum_bytes=context.limits.disk_bytes),
            deadline,
            lambda line: context.log.write("stderr", line),
            confinement=confinement,
            certificates=self._certificates,
        )


def _wanted(deployment: DeploymentView) -> str:
    sha = deployment.commit_sha
    if sha is not None:
        return f"commit {sha[:12]}"
    return "its default branch" if deployment.branch is None else f"branch {deployment.branch}"
