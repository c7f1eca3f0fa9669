"""The credentials of one clone, and which hosts get them: through git's environment, never through an argv or a file
that remains."""

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
    """Belongs to one clone; not shared between threads.

    `repository` is the project's; its credentials are for that host. `ssh` is given with a deploy key only.
    """

    def __init__(
        self, repository: RepositoryUrl, credentials: RepositoryCredentials | None, ssh: SshAccess | None
    ) -> None:
        self._repository = repository
        self._credentials = credentials
        self._ssh = ssh

    @property
    def ssh(self) -> SshAccess:
        """For an ssh:// address that `authorise` returned."""
        assert self._ssh is not None
        return self._ssh

    def authorise(self, url: RepositoryUrl, named_in: str = SUBMODULES) -> RepositoryUrl:
        """Adds the project's token to the address if it is for this host. Raises StageFailure if SSH has no key.

        `named_in`: the file of the repository that names the address, if it isn't the project's own.
        """
        own = self._credentials
        if url.scheme == "ssh" and (own is None or self._ssh is None or not own.is_for(url)):
            raise self.with_advice(AccessRefused(self._missing_key(url)), url, named_in)
        return url if own is None else own.add_to(url)

    def with_advice(self, failure: Exception, url: RepositoryUrl, named_in: str = SUBMODULES) -> Exception:
        """Replaces advice that can't be followed: for another host, no credentials can be set."""
        if isinstance(failure, AccessRefused) and url.origin != self._repository.origin:
            return refused_elsewhere(url, self._repository, named_in)
        return failure

    def refusal(self, url: RepositoryUrl, named_in: str) -> Exception:
        """The failure of an address that asks for credentials, or for other ones. `named_in`: as for `authorise`."""
        return self.with_advice(refused(url), url, named_in)

    def withheld_from(self, url: RepositoryUrl) -> str | None:
        """The origin that the project's credentials are for, if it is another than this address's."""
        if self._credentials is None or self._credentials.is_for(url) or url.secrets:
            return None
        return self._credentials.origin

    def environment(self, url: RepositoryUrl, route: Route) -> dict[str, str]:
        """The environment in which git reaches an authorised repository: credentials, and the address or the proxy.

        git connects to the address that was checked, because the name could resolve to another one by now.
        """
        # Only the protocol that was checked, so that a server can't lead git to another one.
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
        """Pins an SSH host's key after a successful contact. Raises StageFailure if another is pinned."""
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
    """The value of the Authorization header for the credentials in an address."""
    if not (url.user or url.password):
        return None
    return "Basic " + base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()


def _http_settings(url: RepositoryUrl, route: Route) -> list[tuple[str, str]]:
    settings: list[tuple[str, str]] = []
    header, address = authorization(url), route.address
    if header is not None:
        # Bound to the origin: git sends it to no other host.
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
