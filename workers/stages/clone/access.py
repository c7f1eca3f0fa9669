"""What one clone authenticates with, to whom it is shown, and how: through git's environment, never an argv or a file
that stays."""

from __future__ import annotations

import base64
import ipaddress
import shlex

from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.repository_url import RepositoryUrl
from workers.stages.clone.addresses import Route
from workers.stages.clone.git.failures import SUBMODULES, AccessRefused, refused, refused_elsewhere
from workers.stages.clone.ssh import SshAccess


class RepositoryAccess:
    """For one clone; not shared between threads.

    `repository`: the project's own, whose host its credentials are for. `ssh`: with a deploy key alone.
    """

    def __init__(
        self, repository: RepositoryUrl, credentials: RepositoryCredentials | None, ssh: SshAccess | None
    ) -> None:
        self._repository = repository
        self._credentials = credentials
        self._ssh = ssh

    @property
    def ssh(self) -> SshAccess:
        """For an authorised ssh:// address, which has a key."""
        assert self._ssh is not None
        return self._ssh

    def authorise(self, url: RepositoryUrl, named_in: str = SUBMODULES) -> RepositoryUrl:
        """The address with the project's token, if it is for this host. Raises StageFailure where SSH has no key.

        `named_in`: the file of the repository that names the address, if it isn't the project's.
        """
        own = self._credentials
        if url.scheme == "ssh" and (own is None or self._ssh is None or not own.is_for(url)):
            raise self.with_advice(AccessRefused(self._missing_key(url)), url, named_in)
        return url if own is None else own.add_to(url)

    def with_advice(self, failure: Exception, url: RepositoryUrl, named_in: str = SUBMODULES) -> Exception:
        """With advice that can be followed: for an address of another host no credentials can be set."""
        if isinstance(failure, AccessRefused) and url.origin != self._repository.origin:
            return refused_elsewhere(url, self._repository, named_in)
        return failure

    def refusal(self, url: RepositoryUrl, named_in: str) -> Exception:
        """The failure of an address that wants credentials, or others. `named_in`: as for `authorise`."""
        return self.with_advice(refused(url), url, named_in)

    def withheld_from(self, url: RepositoryUrl) -> str | None:
        """Whom the project's credentials are for, where that is not this address."""
        if self._credentials is None or self._credentials.is_for(url) or url.secrets:
            return None
        return self._credentials.origin

    def environment(self, url: RepositoryUrl, route: Route) -> dict[str, str]:
        """What git needs to reach an authorised repository: credentials, and the address to connect to or the proxy.

        The address is one that was checked; resolving the name again could lead elsewhere.
        """
        # The one protocol that was judged, and none that a server could lead to.
        environment = {"GIT_ALLOW_PROTOCOL": url.scheme}
        settings = _http_settings(url, route) if url.is_http else []
        if url.scheme == "ssh":
            environment |= self.ssh.environment(route)
            environment["GIT_SSH_COMMAND"] = shlex.join(self.ssh.command(url, route))
            environment["GIT_SSH_VARIANT"] = "ssh"
        for index, (name, value) in enumerate(settings):
            environment[f"GIT_CONFIG_KEY_{index}"] = name
            environment[f"GIT_CONFIG_VALUE_{index}"] = value
        return environment | {"GIT_CONFIG_COUNT": str(len(settings))}

    def keep_host_key(self, url: RepositoryUrl) -> None:
        """After a contact that went well: an SSH host's key holds for the project. Raises StageFailure if another
        does."""
        if url.scheme == "ssh" and self._ssh is not None:
            self._ssh.keep_host_key(url)

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


def authorization(url: RepositoryUrl) -> str | None:
    """The value of the header for the credentials in an address."""
    if not (url.user or url.password):
        return None
    return "Basic " + base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()


def _http_settings(url: RepositoryUrl, route: Route) -> list[tuple[str, str]]:
    settings: list[tuple[str, str]] = []
    header, address = authorization(url), route.address
    if header is not None:
        # git itself sends it to no other host either.
        settings.append((f"http.{url.origin}/.extraHeader", f"Authorization: {header}"))
    if address is not None and not _is_address(url.host):
        shown = f"[{address}]" if ":" in address else address
        settings.append(("http.curloptResolve", f"{url.host}:{url.port}:{shown}"))
    if route.proxy is not None:
        settings += [("http.proxy", route.proxy), ("http.proxyAuthMethod", "basic")]
    return settings


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
