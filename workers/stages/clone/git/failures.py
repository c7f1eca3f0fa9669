"""Turns git's messages into failures with advice for the user."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shared.backoff import Backoff
from shared.errors import FailureCode, PlatformError, StageFailure
from shared.projects.repository_url import RepositoryUrl
from workers.egress.upstream import UpstreamAway, UpstreamFailure
from workers.stages.clone.git.http_answers import HttpAnswer
from workers.stages.clone.git.runner import GitFailed

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
# At the end of one of git's own messages.
_DISK = re.compile(r": (?:No space left on device|Disk quota exceeded)\Z")
_TRANSIENT = re.compile(
    r"returned error: (429|5\d\d)|early EOF|RPC failed|Connection (reset|closed by)|unexpected disconnect|"
    r"hung up unexpectedly|invalid index-pack output|transfer closed|bad pack header|index-pack failed|unexpected EOF",
    re.IGNORECASE,
)
# git's messages for a response that isn't its protocol.
_GARBLED = re.compile(
    r"(?:protocol error: )?bad line length(?: character: ([ -~]{1,4}))?|protocol error: |invalid server response",
    re.IGNORECASE,
)
# Files of a repository that name addresses.
SUBMODULES, LFS_SETTINGS = ".gitmodules", ".lfsconfig"
# Tries of a contact that fails transiently, and the pauses between them: 2, 8 and 20 s, or longer if the server asks.
MAXIMUM_TRIES = 4
RETRY = Backoff(2.0, 20.0, jitter=0.0, factor=4.0)
# If a server asks for more, the deployment fails with its answer instead.
MAXIMUM_WAIT_SECONDS = 60.0
_COMMIT_ABSENT = re.compile(
    r"not our ref|unadvertised object|couldn't find remote ref|no such remote ref|not a valid object", re.IGNORECASE
)


class AccessRefused(StageFailure):
    """The repository can't be read with the project's credentials, or without any."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureCode.REPOSITORY_AUTHENTICATION, message)


class ProxyUnusable(PlatformError):
    """The company's proxy can't be used at all. Unlike other PlatformErrors', the message is for the log as well."""


def is_moved(stderr: str) -> bool:
    return _MOVED.search(stderr) is not None and _AUTHENTICATION.search(stderr) is None


def is_commit_absent(stderr: str) -> bool:
    """Whether the server has no such commit, or doesn't serve commits by SHA."""
    return _COMMIT_ABSENT.search(stderr) is not None


def find_wait_seconds(error: GitFailed, default: float) -> float | None:
    """Seconds to wait before the next try, or None if that won't help or takes too long."""
    stderr, answers = error.stderr, error.answers
    if answers and answers[-1].is_transient:
        return wait_after(answers[-1], default)
    is_other = (
        is_commit_absent(stderr) or is_disk_full(error) or _NOT_FOUND.search(stderr) or _AUTHENTICATION.search(stderr)
    )
    return default if _TRANSIENT.search(stderr) and not is_other else None


def wait_after(answer: HttpAnswer, default: float) -> float | None:
    """Seconds to wait after an answer that `is_transient`: `default`, or more if the server asks for it. None if it
    asks for too many."""
    seconds = max(default, answer.retry_after_seconds or 0.0)
    return seconds if seconds <= MAXIMUM_WAIT_SECONDS else None


def is_disk_full(error: GitFailed) -> bool:
    """Whether git could not write on this host. A server's message about its own disk doesn't count."""
    return any(_DISK.search(message) for message in error.messages)


def failure_of(error: GitFailed, repository: RepositoryUrl, *, is_last_attempt: bool) -> Exception:
    """The exception for a failed contact with the repository: StageFailure, or PlatformError for transient failures
    and for the worker's own disk."""
    stderr, shown = error.stderr, repository.public
    if is_disk_full(error):
        return PlatformError("The worker's disk is full; git could not write.")
    if _HOST_KEY.search(stderr):
        return host_key_changed(repository)
    answered = find_answer_failure(repository, error.answers)
    if answered is not None:
        return answered
    meaning = _find_meaning(stderr, repository)
    if meaning is not None:
        return meaning
    if _TRANSIENT.search(stderr) and not _UNREACHABLE.search(stderr) and not is_last_attempt:
        return PlatformError(f"Contact with {shown} broke off: {_last_line(stderr)}")
    return unreachable(repository, _last_line(stderr))


def _find_meaning(stderr: str, repository: RepositoryUrl) -> StageFailure | None:
    """The failure if git's messages are about the repository itself. None if only the contact failed."""
    shown = repository.public
    if is_moved(stderr):
        return StageFailure(
            FailureCode.REPOSITORY_NOT_FOUND,
            f"{shown} redirects to another address. Set the project's repositoryUrl to the current one.",
        )
    if _NOT_FOUND.search(stderr):
        return StageFailure(
            FailureCode.REPOSITORY_NOT_FOUND, f"There is no repository at {shown}. Check the project's repositoryUrl."
        )
    if _AUTHENTICATION.search(stderr):
        return refused(repository)
    garbled = _GARBLED.search(stderr)
    if garbled is not None:
        said = "" if garbled[1] is None else f" (it begins with {garbled[1].strip()!r})"
        return StageFailure(
            FailureCode.REPOSITORY_UNREACHABLE,
            f"{repository.host} doesn't speak git's protocol{said}: it sends a greeting, or the account may not log "
            "in. Check the user name in the address (most hosts want git@) and what the account runs "
            "there.",
        )
    if _CERTIFICATE.search(stderr):
        return StageFailure(
            FailureCode.REPOSITORY_UNREACHABLE,
            f"The certificate of {repository.host} is not trusted: {_last_line(stderr).rstrip('.')}. If it is signed "
            "by a private authority, the operator of this installation adds that to CLOUDIFY_CA_BUNDLE.",
        )
    return None


def find_answer_failure(repository: RepositoryUrl, answers: Sequence[HttpAnswer]) -> StageFailure | None:
    """The failure that the last HTTP response alone explains. None if git's messages have to explain it."""
    if not answers:
        return None
    last, shown = answers[-1], repository.public
    address = last.moved_to(shown)
    if address is not None:
        return StageFailure(
            FailureCode.REPOSITORY_NOT_FOUND,
            f"{shown} redirects to {address}. If that is the repository, set the project's repositoryUrl to it.",
        )
    page = last.sign_in_page(shown)
    if page is not None:
        return AccessRefused(
            f"{shown} redirects to {page}, a sign-in page: the repository is private, or the address isn't a git "
            "repository's. Check the project's repositoryUrl, and set an access token: `cloudify credentials set`.",
        )
    if last.is_transient:
        return host_failing(repository.host, last)
    return None if not 200 <= last.status < 300 or last.is_git else _not_git(repository, last)


def find_foreign_answer(repository: RepositoryUrl, answers: Sequence[HttpAnswer]) -> StageFailure | None:
    """The failure if a repository seems to have no branches because the server doesn't speak git's protocol: git takes
    any response for a file server's, with an empty list. None if the server does speak it."""
    if not answers or any(answer.is_git for answer in answers):
        return None
    return find_answer_failure(repository, answers[:1]) or _not_git(repository, answers[0])


def _not_git(repository: RepositoryUrl, answer: HttpAnswer) -> StageFailure:
    return StageFailure(
        FailureCode.REPOSITORY_NOT_FOUND,
        f"There is no git repository at {repository.public}: {repository.host} answers {answer.status} with "
        f"{answer.kind} instead of git's protocol. Check the project's repositoryUrl with `git ls-remote`. If it "
        "asks to sign in, set an access token: `cloudify credentials set`. Servers that only serve a repository's "
        "files are not supported.",
    )


def host_failing(host: str, answer: HttpAnswer) -> StageFailure:
    """For an answer that `is_transient`, after the last retry."""
    asked = answer.retry_after_seconds
    wait = "later" if asked is None or asked < 1 else f"in {asked:.0f} seconds, as the server asks"
    cause = "too many requests" if answer.status in (403, 429) else "a server error"
    return StageFailure(
        FailureCode.REPOSITORY_UNREACHABLE,
        f"{host} answers {answer.status} ({cause}). The address is not the problem: deploy again {wait}.",
    )


def refused_elsewhere(repository: RepositoryUrl, own: RepositoryUrl, named_in: str) -> AccessRefused:
    """For an address on another host than `own`, the project's repository: a project has credentials for one host only.

    `named_in`: the file of the repository that names the address.
    """
    begin = own.public.removesuffix(own.path)
    problem = f"{repository.public} can't be read without credentials, and a project's credentials are for the host of "
    problem += f"its own repository alone ({begin})."
    if repository.host == own.host and repository.scheme != own.scheme:
        relative = ", or relative to it (../name.git)" if named_in == SUBMODULES else ""
        return AccessRefused(f"{problem} Write its address in {named_in} like the project's, as {begin}/…{relative}.")
    advice = f"Name a copy on that host in {named_in}, make it public, or commit its files in its place."
    return AccessRefused(f"{problem} {advice}")


def refused(repository: RepositoryUrl) -> AccessRefused:
    if repository.scheme == "ssh":
        problem = "refuses the project's deploy key, or doesn't exist. Give the key's public half (`cloudify "
        problem += "credentials show --json`) to the repository, or set another: `cloudify credentials set --key FILE`."
    else:
        given = "refuses the credentials it was given" if repository.secrets else "asks for credentials"
        problem = f"{given}, or doesn't exist. For a private repository set an access token that may read it: "
        problem += "`cloudify credentials set`."
    return AccessRefused(f"{repository.public} {problem}")


def host_key_changed(repository: RepositoryUrl) -> StageFailure:
    return StageFailure(
        FailureCode.REPOSITORY_AUTHENTICATION,
        f"{repository.host} shows another SSH host key than at the project's first contact, so nothing was sent to it. "
        "If its operator has announced a new key, set the project's credentials again (`cloudify credentials set --key "
        "FILE`), which deletes the old one.",
    )


def unreachable(repository: RepositoryUrl, reason: str) -> StageFailure:
    return StageFailure(
        FailureCode.REPOSITORY_UNREACHABLE,
        f"{repository.public} can't be reached: {reason.rstrip('.')}. Check the address, then deploy again.",
    )


def proxy_failure(repository: RepositoryUrl, failure: UpstreamFailure, *, is_last_attempt: bool) -> Exception:
    """The exception for a contact that failed at the company's proxy: StageFailure if the cause is this host,
    PlatformError if the proxy itself fails and for transient failures."""
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
    if not failure.is_transient:
        reason = f"the proxy of this installation (CLOUDIFY_EGRESS_PROXY) refuses {place} with status {failure.status}"
        other = " It may allow the repository's https:// address." if repository.scheme == "ssh" else ""
        return StageFailure(
            FailureCode.REPOSITORY_UNREACHABLE,
            f"{repository.public} can't be reached: {reason}.{other} Its operator allows the host there, or lists its "
            "network in CLOUDIFY_EGRESS_ALLOWED_NETWORKS where it is reached directly.",
        )
    said = "sends no response" if failure.status is None else f"answers {failure.status}"
    reason = f"the proxy of this installation (CLOUDIFY_EGRESS_PROXY) can't reach {place}: it {said}"
    return unreachable(repository, reason) if is_last_attempt else PlatformError(f"{repository.public}: {reason}.")


def _last_line(stderr: str) -> str:
    """The line with the reason: git's last fatal error or error, else the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return (errors or lines or ["git gave no reason"])[-1][:300]
