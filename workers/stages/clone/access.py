"""What one clone authenticates with, to whom it is shown, and how: through git's environment, never an argv or a file
that stays."""

from __future__ import annotations

import base64
import ipaddress
import os
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.repository_url import RepositoryPolicy, RepositoryUrl
from workers.egress.upstream import UpstreamFailure
from workers.stages.clone import ssh_tunnel
from workers.stages.clone.addresses import Route
from workers.stages.clone.git.failures import (
    SUBMODULES,
    AccessRefused,
    failure_of,
    host_key_changed,
    proxy_failure,
    refused,
    refused_elsewhere,
)
from workers.stages.clone.git.runner import GitFailed

if TYPE_CHECKING:
    from workers.stages.clone.proxy import CloneProxy

# Nothing of the worker's own account: no configuration, keys, agent, or hosts that it knows.
_SSH_OPTIONS = (
    *("BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "PreferredAuthentications=publickey"),
    *("GlobalKnownHostsFile=/dev/null", "HashKnownHosts=no", "UpdateHostKeys=no", "CheckHostIP=no"),
    *("ConnectTimeout=15", "ServerAliveInterval=15", "LogLevel=ERROR"),
)


@dataclass(frozen=True, slots=True)
class _SshFiles:
    """`known_hosts` gets the key of a host that is met for the first time."""

    identity: Path
    known_hosts: Path


class RepositoryAccess:
    """For one clone; not shared between threads. Made by `opened`. `proxy`: where one leads outside, that one.

    `policy`: where the clone may lead. `repository`: the project's own, whose host its credentials are for.
    """

    def __init__(
        self,
        repository: RepositoryUrl,
        project_id: str,
        credentials: RepositoryCredentials | None,
        host_keys: RepositoryCredentialRepository,
        files: _SshFiles | None,
        proxy: CloneProxy | None,
        policy: RepositoryPolicy,
    ) -> None:
        self.proxy = proxy
        self.policy = policy
        self._repository = repository
        self._project_id = project_id
        self._credentials = credentials
        self._host_keys = host_keys
        self._files = files

    @classmethod
    @contextmanager
    def opened(
        cls,
        repository: RepositoryUrl,
        project_id: str,
        credentials: RepositoryCredentials | None,
        host_keys: RepositoryCredentialRepository,
        directory: Path,
        policy: RepositoryPolicy,
        proxy: CloneProxy | None = None,
    ) -> Generator[RepositoryAccess]:
        """A deploy key is readable for ssh as long as the context lasts. `directory` is the stage's own."""
        if credentials is None or credentials.kind != "sshKey":
            yield cls(repository, project_id, credentials, host_keys, None, proxy, policy)
            return
        with _key_file(credentials.private_key, directory) as identity:
            files = _SshFiles(identity, directory / "known_hosts")
            yield cls(repository, project_id, credentials, host_keys, files, proxy, policy)

    def authorise(self, url: RepositoryUrl, place: str = SUBMODULES) -> RepositoryUrl:
        """The address with the project's token, if it is for this host. Raises StageFailure where SSH has no key.

        `place`: the file of the repository that names the address, if it isn't the project's.
        """
        own = self._credentials
        if url.scheme == "ssh" and (own is None or self._files is None or not own.is_for(url)):
            raise self._explained(AccessRefused(self._missing_key(url)), url, place)
        return url if own is None else own.add_to(url)

    def refusal(self, url: RepositoryUrl, place: str) -> Exception:
        """The failure of an address that wants credentials, or others. `place`: as for `authorise`."""
        return self._explained(refused(url), url, place)

    def _explained(self, failure: Exception, url: RepositoryUrl, place: str) -> Exception:
        """With advice that can be followed: for an address of another host no credentials can be set."""
        if isinstance(failure, AccessRefused) and url.origin != self._repository.origin:
            return refused_elsewhere(url, self._repository, place)
        return failure

    def withheld_from(self, url: RepositoryUrl) -> str | None:
        """Whom the project's credentials are for, where that is not this address."""
        if self._credentials is None or self._credentials.is_for(url) or url.secrets:
            return None
        return self._credentials.origin

    def failure_of(
        self, error: GitFailed, url: RepositoryUrl, *, is_last_attempt: bool, has_waited: bool = False
    ) -> Exception:
        """As `git_failures.failure_of`, for a contact that may not even have got through the proxy. `has_waited`: it
        was tried again already, which leaves the proxy's own troubles to the stage's next attempt."""
        of_proxy = self.find_proxy_failure(url)
        if of_proxy is not None:
            return proxy_failure(url, of_proxy, is_last_attempt=is_last_attempt)
        failure = failure_of(error, url, is_last_attempt=is_last_attempt or has_waited)
        return self._explained(failure, url, SUBMODULES)

    def find_proxy_failure(self, url: RepositoryUrl) -> UpstreamFailure | None:
        """Why the latest contact with the host didn't get through the company's proxy; None if it did."""
        return self.proxy.find_failure(url) if self.proxy is not None else None

    def environment(self, url: RepositoryUrl, route: Route) -> dict[str, str]:
        """What git needs to reach an authorised repository: credentials, and the address to connect to or the proxy.

        The address is one that was checked; resolving the name again could lead elsewhere.
        """
        address = route.address
        settings: list[tuple[str, str]] = []
        # The one protocol that was judged, and none that a server could lead to.
        environment = {"GIT_ALLOW_PROTOCOL": url.scheme}
        if url.is_http:
            header = authorization(url)
            if header is not None:
                # git itself sends it to no other host either.
                settings.append((f"http.{url.origin}/.extraHeader", f"Authorization: {header}"))
            if address is not None and not _is_address(url.host):
                shown = f"[{address}]" if ":" in address else address
                settings.append(("http.curloptResolve", f"{url.host}:{url.port}:{shown}"))
            if route.proxy is not None:
                settings += [("http.proxy", route.proxy), ("http.proxyAuthMethod", "basic")]
        elif url.scheme == "ssh":
            environment |= self.ssh_environment(route)
            environment["GIT_SSH_COMMAND"] = shlex.join(self.ssh_command(url, route))
            environment["GIT_SSH_VARIANT"] = "ssh"
        for index, (name, value) in enumerate(settings):
            environment[f"GIT_CONFIG_KEY_{index}"] = name
            environment[f"GIT_CONFIG_VALUE_{index}"] = value
        return environment | {"GIT_CONFIG_COUNT": str(len(settings))}

    @staticmethod
    def ssh_environment(route: Route) -> dict[str, str]:
        """What `ssh_command` needs in its environment."""
        return {} if route.proxy is None else {"CLOUDIFY_CLONE_PROXY": route.proxy}

    def ssh_command(self, url: RepositoryUrl, route: Route) -> list[str]:
        """An argv without host and command. The key that the host showed before is the only one accepted."""
        assert self._files is not None
        alias = _alias(url)
        pinned = self._host_keys.find_host_key(self._project_id, alias)
        if pinned is not None:
            self._files.known_hosts.write_text(f"{alias} {pinned}\n")
        options = [
            *_SSH_OPTIONS,
            # accept-new would also take a key of another type from a host that is known.
            f"StrictHostKeyChecking={'accept-new' if pinned is None else 'yes'}",
            f"UserKnownHostsFile={self._files.known_hosts}",
            f"IdentityFile={self._files.identity}",
            f"HostKeyAlias={alias}",
            *([] if url.user else ["User=git"]),
            *([] if route.address is None else [f"HostName={route.address}"]),
            *([] if route.proxy is None else [f"ProxyCommand={_tunnel_command(url)}", "ProxyUseFdpass=yes"]),
        ]
        return ["ssh", "-F", "/dev/null", *(part for option in options for part in ("-o", option))]

    def keep_host_key(self, url: RepositoryUrl) -> None:
        """After a contact that went well: the host's key holds for the project. Raises StageFailure if another does."""
        if url.scheme != "ssh" or self._files is None or not self._files.known_hosts.exists():
            return
        alias = _alias(url)
        for line in self._files.known_hosts.read_text().splitlines():
            name, _, key = line.partition(" ")
            # A deployment beside this one may have met another key first.
            if name == alias and self._host_keys.pin_host_key(self._project_id, alias, key) != key:
                raise host_key_changed(url)

    def _missing_key(self, url: RepositoryUrl) -> str:
        if self._credentials is None:
            return (
                f"{url.public} needs a deploy key. Make one (`ssh-keygen -t ed25519 -N '' -f deploy_key`), give its "
                "public half to the repository, and its private half to the project: "
                "`cloudify credentials set --key deploy_key`."
            )
        return (
            f"{url.public} needs a deploy key, and the project's credentials are for {self._credentials.origin} alone. "
            "Use an address on that host, or one that can be read without credentials."
        )


def _tunnel_command(url: RepositoryUrl) -> str:
    # Without the platform's packages, which take longer to find than the tunnel to open.
    command = [sys.executable, "-I", "-S", ssh_tunnel.__file__, url.host, str(url.port)]
    # ssh replaces %h and the like in it.
    return shlex.join(command).replace("%", "%%")


def authorization(url: RepositoryUrl) -> str | None:
    """The value of the header for the credentials in an address."""
    if not (url.user or url.password):
        return None
    return "Basic " + base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()


@contextmanager
def _key_file(private_key: str, directory: Path) -> Generator[Path]:
    """A path that ssh can read the key from; where the system has files in memory alone, it is never on a disk."""
    if not hasattr(os, "memfd_create"):
        path = directory / "deploy_key"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(private_key)
            yield path
        finally:
            path.unlink(missing_ok=True)
        return
    descriptor = os.memfd_create("deploy-key", os.MFD_CLOEXEC)
    try:
        # ssh refuses keys that others could read.
        os.fchmod(descriptor, 0o600)
        with os.fdopen(os.dup(descriptor), "w") as file:
            file.write(private_key)
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _alias(url: RepositoryUrl) -> str:
    return f"{url.host}:{url.port}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
