"""SSH to a repository's host: with the project's deploy key, trusting the host key of the first contact."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.repository_url import RepositoryUrl
from workers.stages.clone import ssh_tunnel
from workers.stages.clone.addresses import Route
from workers.stages.clone.git.failures import host_key_changed

# Nothing of the worker's own account: no configuration, keys, agent or known hosts.
_SSH_OPTIONS = (
    *("BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "PreferredAuthentications=publickey"),
    *("GlobalKnownHostsFile=/dev/null", "HashKnownHosts=no", "UpdateHostKeys=no", "CheckHostIP=no"),
    *("ConnectTimeout=15", "ServerAliveInterval=15", "LogLevel=ERROR"),
)


class SshAccess:
    """Belongs to one clone; not shared between threads. Made by `opened`.

    `known_hosts` is a file of this clone; ssh adds the key of a host at the first contact.
    """

    def __init__(
        self, identity: Path, known_hosts: Path, host_keys: RepositoryCredentialRepository, project_id: str
    ) -> None:
        self._identity = identity
        self._known_hosts = known_hosts
        self._host_keys = host_keys
        self._project_id = project_id

    @classmethod
    @contextmanager
    def opened(
        cls, private_key: str, directory: Path, host_keys: RepositoryCredentialRepository, project_id: str
    ) -> Generator[SshAccess]:
        """Keeps the deploy key readable for ssh while the context lasts. `directory` is the stage's own."""
        with _key_file(private_key, directory) as identity:
            yield cls(identity, directory / "known_hosts", host_keys, project_id)

    @staticmethod
    def environment(route: Route) -> dict[str, str]:
        """The environment that `command` needs."""
        return {} if route.proxy is None else {"CLOUDIFY_CLONE_PROXY": route.proxy}

    def command(self, url: RepositoryUrl, route: Route) -> list[str]:
        """An argv without host and command. If a host key is pinned, ssh accepts no other."""
        alias = _alias(url)
        pinned = self._host_keys.find_host_key(self._project_id, alias)
        if pinned is not None:
            self._known_hosts.write_text(f"{alias} {pinned}\n")
        options = [
            *_SSH_OPTIONS,
            # accept-new would also accept a key of another type from a known host.
            f"StrictHostKeyChecking={'accept-new' if pinned is None else 'yes'}",
            f"UserKnownHostsFile={self._known_hosts}",
            f"IdentityFile={self._identity}",
            f"HostKeyAlias={alias}",
            *([] if url.user else ["User=git"]),
            *([] if route.address is None else [f"HostName={route.address}"]),
            *([] if route.proxy is None else [f"ProxyCommand={_tunnel_command(url)}", "ProxyUseFdpass=yes"]),
        ]
        return ["ssh", "-F", "/dev/null", *(part for option in options for part in ("-o", option))]

    def keep_host_key(self, url: RepositoryUrl) -> None:
        """Pins the host's key for the project after a successful contact. Raises StageFailure if another is pinned."""
        if not self._known_hosts.exists():
            return
        alias = _alias(url)
        for line in self._known_hosts.read_text().splitlines():
            name, _, key = line.partition(" ")
            # A concurrent deployment may have pinned another key.
            if name == alias and self._host_keys.pin_host_key(self._project_id, alias, key) != key:
                raise host_key_changed(url)


def _tunnel_command(url: RepositoryUrl) -> str:
    # Without site-packages: importing them takes longer than opening the tunnel.
    command = [sys.executable, "-I", "-S", ssh_tunnel.__file__, url.host, str(url.port)]
    # ssh expands %h and other tokens in a ProxyCommand.
    return shlex.join(command).replace("%", "%%")


@contextmanager
def _key_file(private_key: str, directory: Path) -> Generator[Path]:
    """A path that ssh reads the key from: a file in memory if the system supports it, so that it is never on a disk."""
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
        # ssh refuses keys that other users could read.
        os.fchmod(descriptor, 0o600)
        with os.fdopen(os.dup(descriptor), "w") as file:
            file.write(private_key)
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _alias(url: RepositoryUrl) -> str:
    return f"{url.host}:{url.port}"
