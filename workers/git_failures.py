"""Turns what git says into what a person can act on."""

from __future__ import annotations

import re

from shared.errors import FailureCode, PlatformError, StageFailure
from shared.repository_url import RepositoryUrl
from workers.executors.upstream_proxy import UpstreamAway, UpstreamFailure

# Matched against git's messages in the C locale, in this order.
_MOVED = re.compile(r"returned error: 30\d|unable to update url base from redirection|redirect", re.IGNORECASE)
_AUTHENTICATION = re.compile(
    r"Authentication failed|could not read (Username|Password)|returned error: 40[13]|Permission denied|"
    r"terminal prompts disabled|Could not read from remote repository.*access rights",
    re.IGNORECASE,
)
_HOST_KEY = re.compile(r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED", re.IGNORECASE)
_NOT_FOUND = re.compile(
    r"repository .*not found|returned error: 4(04|10)|does not appear to be a git repository|"
    r"repository .* does not exist|not valid: is this a git repository|project .*not be found",
    re.IGNORECASE,
)
_CERTIFICATE = re.compile(r"SSL certificate|certificate verif|unable to get local issuer", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"Could not resolve|Connection refused|Connection timed out|timed out|No route to host|unreachable|"
    r"SSL certificate|certificate verif|SSL_|TLS|Failed to connect",
    re.IGNORECASE,
)
_DISK = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_PASSING = re.compile(
    r"returned error: (429|5\d\d)|early EOF|RPC failed|Connection (reset|closed by)|unexpected disconnect|"
    r"hung up unexpectedly|invalid index-pack output|transfer closed",
    re.IGNORECASE,
)
_COMMIT_ABSENT = re.compile(
    r"not our ref|unadvertised object|couldn't find remote ref|no such remote ref|not a valid object", re.IGNORECASE
)


class ProxyUnusable(PlatformError):
    """The company's proxy can't be used at all. The message, unlike other PlatformErrors', is for the log as well."""


def is_moved(stderr: str) -> bool:
    return _MOVED.search(stderr) is not None and _AUTHENTICATION.search(stderr) is None


def is_commit_absent(stderr: str) -> bool:
    """Whether the server has no such commit, or doesn't hand out commits by their SHA."""
    return _COMMIT_ABSENT.search(stderr) is not None


def failure_of(stderr: str, repository: RepositoryUrl, *, is_last_attempt: bool) -> Exception:
    """The exception that a failed contact with the repository stands for: StageFailure, or PlatformError for what
    may pass and for our own disk.
    """
    shown = repository.public
    if _DISK.search(stderr):
        return PlatformError("The worker's disk is full; git could not write.")
    if _HOST_KEY.search(stderr):
        return host_key_changed(repository)
    if is_moved(stderr):
        return StageFailure(
            FailureCode.REPOSITORY_NOT_FOUND,
            f"{shown} redirects elsewhere. Set the project's repositoryUrl to the repository's present address.",
        )
    if _NOT_FOUND.search(stderr):
        return StageFailure(
            FailureCode.REPOSITORY_NOT_FOUND, f"There is no repository at {shown}. Check the project's repositoryUrl."
        )
    if _AUTHENTICATION.search(stderr):
        return refused(repository)
    if _CERTIFICATE.search(stderr):
        return StageFailure(
            FailureCode.REPOSITORY_UNREACHABLE,
            f"The certificate of {repository.host} is not trusted: {_last_line(stderr).rstrip('.')}. If it is signed "
            "by an authority of one's own, the operator of this installation adds that to CLOUDIFY_CA_BUNDLE.",
        )
    if _UNREACHABLE.search(stderr):
        return unreachable(repository, _last_line(stderr))
    if _PASSING.search(stderr) and not is_last_attempt:
        return PlatformError(f"Contact with {shown} broke off: {_last_line(stderr)}")
    return unreachable(repository, _last_line(stderr))


def refused(repository: RepositoryUrl) -> StageFailure:
    if repository.scheme == "ssh":
        problem = "refuses the project's deploy key, or doesn't exist. Give the key's public half (`cloudify "
        problem += "credentials show --json`) to the repository, or set another: `cloudify credentials set --key FILE`."
    else:
        given = "refuses the credentials it was given" if repository.secrets else "asks for credentials"
        problem = f"{given}, or doesn't exist. For a private repository set an access token that may read it: "
        problem += "`cloudify credentials set`."
    return StageFailure(FailureCode.REPOSITORY_AUTHENTICATION, f"{repository.public} {problem}")


def host_key_changed(repository: RepositoryUrl) -> StageFailure:
    return StageFailure(
        FailureCode.REPOSITORY_AUTHENTICATION,
        f"{repository.host} shows another SSH host key than at the project's first contact, so nothing was sent to it. "
        "If its operator has announced a new key, set the project's credentials again (`cloudify credentials set --key "
        "FILE`), which forgets the former one.",
    )


def unreachable(repository: RepositoryUrl, reason: str) -> StageFailure:
    return StageFailure(
        FailureCode.REPOSITORY_UNREACHABLE,
        f"{repository.public} can't be reached: {reason.rstrip('.')}. Check the address, then deploy again.",
    )


def proxy_failure(repository: RepositoryUrl, failure: UpstreamFailure, *, is_last_attempt: bool) -> Exception:
    """The exception for a contact that the company's proxy didn't let through: StageFailure for what it says of this
    host, PlatformError for its own troubles and for what may pass.
    """
    if isinstance(failure, UpstreamAway):
        return ProxyUnusable(
            "The proxy of this installation does not answer, so nothing outside can be cloned. Its operator checks "
            "CLOUDIFY_EGRESS_PROXY, and that the proxy runs."
        )
    if failure.status == 407:
        return ProxyUnusable(
            "The proxy of this installation doesn't accept its credentials (407), so nothing outside can be cloned. "
            "Its operator corrects the user and password in CLOUDIFY_EGRESS_PROXY."
        )
    place = f"{repository.host}:{repository.port}"
    if not failure.may_pass:
        reason = f"the proxy of this installation (CLOUDIFY_EGRESS_PROXY) refuses {place} with status {failure.status}"
        other = " It may allow the repository's https:// address." if repository.scheme == "ssh" else ""
        return StageFailure(
            FailureCode.REPOSITORY_UNREACHABLE,
            f"{repository.public} can't be reached: {reason}.{other} Its operator allows the host there, or lists its "
            "network in CLOUDIFY_EGRESS_ALLOWED_NETWORKS where it is reached directly.",
        )
    said = "gives no answer for it" if failure.status is None else f"answers {failure.status}"
    reason = f"the proxy of this installation (CLOUDIFY_EGRESS_PROXY) doesn't get to {place}: it {said}"
    return unreachable(repository, reason) if is_last_attempt else PlatformError(f"{repository.public}: {reason}.")


def _last_line(stderr: str) -> str:
    """The line that says what went wrong: the last that git calls fatal or an error, else the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    grave = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return (grave or lines or ["git gave no reason"])[-1][:300]
