"""Codes of errors and failures, each with its meaning and what to do about it.

`docs/failure-codes.md` is made from this module (`make docs`). No HTTP status is here: `api/errors.py` holds the one
table that maps a code to a status.
"""

from __future__ import annotations

import enum
from typing import Self


class _Code(enum.StrEnum):
    """A code with its meaning and what to do about it, one sentence each."""

    meaning: str
    advice: str

    def __new__(cls, value: str, meaning: str, advice: str) -> Self:
        code = str.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        code.advice = advice
        return code


class ErrorCode(_Code):
    """Every code that a client of the API can meet."""

    MALFORMED_JSON = (
        "MALFORMED_JSON",
        "The request is not valid HTTP, or its body is not valid JSON.",
        "Correct the request; the message says where.",
    )
    INVALID_CURSOR = (
        "INVALID_CURSOR",
        "The cursor belongs to another list, sort or filter.",
        "Begin again without a cursor.",
    )
    INVALID_SORT = ("INVALID_SORT", "The list can't be sorted by this field.", "Choose a field that the message lists.")
    INVALID_FILTER = (
        "INVALID_FILTER",
        "A query parameter is unknown, given twice or invalid.",
        "Correct the query; the message names the parameter.",
    )
    UNAUTHENTICATED = (
        "UNAUTHENTICATED",
        "The request has no credentials, or unknown or revoked ones.",
        "Sign in, or create an API token.",
    )
    INVALID_CREDENTIALS = (
        "INVALID_CREDENTIALS",
        "The e-mail address or the password is wrong.",
        "Correct them and sign in again.",
    )
    TOKEN_EXPIRED = (
        "TOKEN_EXPIRED",
        "The access token, API token or stream ticket has expired.",
        "Refresh the session, or create another token or ticket.",
    )
    SESSION_REVOKED = ("SESSION_REVOKED", "The session has ended.", "Sign in again.")
    PLAN_LIMIT = (
        "PLAN_LIMIT",
        "The account's plan doesn't allow more.",
        "Wait or delete something, or ask the administrator for a larger plan.",
    )
    FORBIDDEN = (
        "FORBIDDEN",
        "The account or the token may not do this.",
        "Use credentials with the permission that the message names.",
    )
    SCOPE_ESCALATION = (
        "SCOPE_ESCALATION",
        "A token can't give more scopes than it has itself.",
        "Ask for fewer scopes, or use a session.",
    )
    CSRF_REJECTED = (
        "CSRF_REJECTED",
        "The session cookie came with a request of another site.",
        "Send the request from the API's own origin, or use a token.",
    )
    NOT_FOUND = (
        "NOT_FOUND",
        "The resource doesn't exist, or the account can't see it.",
        "Check the address and the identifier.",
    )
    METHOD_NOT_ALLOWED = (
        "METHOD_NOT_ALLOWED",
        "The address doesn't support the method.",
        "Use a method of the `Allow` header.",
    )
    CONFLICT = (
        "CONFLICT",
        "The request conflicts with the state of the resource.",
        "Read the resource again; the message says what conflicts.",
    )
    SLUG_TAKEN = ("SLUG_TAKEN", "Another project has this name in its address.", "Choose another name.")
    IDEMPOTENCY_IN_PROGRESS = (
        "IDEMPOTENCY_IN_PROGRESS",
        "A request with this `Idempotency-Key` is still being processed.",
        "Repeat it in a second.",
    )
    ALREADY_FINISHED = (
        "ALREADY_FINISHED",
        "The deployment or the job has finished.",
        "Nothing can be cancelled or repeated any more; create another deployment.",
    )
    DEPLOYMENT_ACTIVE = (
        "DEPLOYMENT_ACTIVE",
        "The deployment is live or still running.",
        "Release another one, or cancel it first.",
    )
    PROJECT_DELETING = ("PROJECT_DELETING", "The project is being deleted.", "Create another project.")
    NOT_READY = (
        "NOT_READY",
        "Only a deployment that is ready can be released.",
        "Wait until it is ready, or choose another.",
    )
    ARTIFACT_EXPIRED = ("ARTIFACT_EXPIRED", "The deployment's files are no longer kept.", "Deploy its commit again.")
    REQUEST_TIMEOUT = ("REQUEST_TIMEOUT", "The body arrived too slowly.", "Send it again over a faster connection.")
    PAYLOAD_TOO_LARGE = (
        "PAYLOAD_TOO_LARGE",
        "The address, the headers or the body are too large.",
        "Send less; the message says how much is allowed.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        "UNSUPPORTED_MEDIA_TYPE",
        "The body is not declared as JSON.",
        "Send `Content-Type: application/json`.",
    )
    MISDIRECTED_REQUEST = (
        "MISDIRECTED_REQUEST",
        "The API doesn't answer to the name in `Host`.",
        "Use its address, or add the name to `CLOUDIFY_API_HOSTS`.",
    )
    VALIDATION_ERROR = (
        "VALIDATION_ERROR",
        "Fields of the body are invalid.",
        "Correct them; `details.fields` lists all.",
    )
    IDEMPOTENCY_MISMATCH = (
        "IDEMPOTENCY_MISMATCH",
        "The `Idempotency-Key` was used with another body.",
        "Use a new key for a new request.",
    )
    URL_FORBIDDEN = (
        "URL_FORBIDDEN",
        "The repository's address leads to this machine or to a private network.",
        "Use a public address, or have the network listed in `CLOUDIFY_EGRESS_ALLOWED_NETWORKS`.",
    )
    LOGIN_THROTTLED = (
        "LOGIN_THROTTLED",
        "Too many wrong passwords came from this address or for this account.",
        "Wait as long as `Retry-After` says.",
    )
    STREAM_LIMIT = (
        "STREAM_LIMIT",
        "The user has too many live streams open.",
        "Close one, or raise `CLOUDIFY_STREAMS_PER_USER`.",
    )
    INTERNAL = ("INTERNAL", "The platform failed.", "Report it with the request id if it stays.")
    UNAVAILABLE = (
        "UNAVAILABLE",
        "The database or another server doesn't answer, or is too busy.",
        "Repeat the request after `Retry-After`.",
    )
    QUEUE_UNAVAILABLE = (
        "QUEUE_UNAVAILABLE",
        "The queue doesn't answer, or is full.",
        "Repeat the request after `Retry-After`.",
    )


class FailureCode(_Code):
    """Why a deployment failed. All but PLATFORM_ERROR and WORKER_LOST are for the project's owner to fix."""

    REPOSITORY_NOT_FOUND = (
        "REPOSITORY_NOT_FOUND",
        "There is no repository at the address.",
        "Check the project's `repositoryUrl` with `git ls-remote`.",
    )
    REPOSITORY_AUTHENTICATION = (
        "REPOSITORY_AUTHENTICATION",
        "The repository needs credentials, or refuses those of the project.",
        "Set a token or a deploy key: `cloudify credentials set`.",
    )
    REPOSITORY_UNREACHABLE = (
        "REPOSITORY_UNREACHABLE",
        "The repository's host doesn't answer, or not as a git server does.",
        "Check the address and the host, then deploy again.",
    )
    REPOSITORY_EMPTY = ("REPOSITORY_EMPTY", "The repository has no commit.", "Push one, then deploy again.")
    REPOSITORY_TOO_LARGE = (
        "REPOSITORY_TOO_LARGE",
        "The repository holds more than the disk limit, or nests directories too deeply.",
        "Remove large files, or use a larger plan.",
    )
    REPOSITORY_LFS_MISSING = (
        "REPOSITORY_LFS_MISSING",
        "A file's content is not on the repository's Git LFS server, or that server can't be used.",
        "Push the content (`git lfs push --all`), or correct the server's address.",
    )
    URL_FORBIDDEN = (
        "URL_FORBIDDEN",
        (
            "The repository's address leads to this machine or to a private network that"
            " `CLOUDIFY_EGRESS_ALLOWED_NETWORKS` doesn't list, or is a `file://` that no administrator has set."
        ),
        "Use a public address, or have the network listed.",
    )
    BRANCH_NOT_FOUND = (
        "BRANCH_NOT_FOUND",
        "The repository has no such branch, or no default branch.",
        "Choose a branch that the message lists, or none for the default branch.",
    )
    COMMIT_NOT_FOUND = (
        "COMMIT_NOT_FOUND",
        "The repository has no such commit, or not any more.",
        "Push it, or deploy the branch.",
    )
    ROOT_DIRECTORY_NOT_FOUND = (
        "ROOT_DIRECTORY_NOT_FOUND",
        "The commit has no such directory.",
        "Correct the project's root directory.",
    )
    PROJECT_NOT_RECOGNISED = (
        "PROJECT_NOT_RECOGNISED",
        "Nothing in the repository says how to build it.",
        "Add an `index.html` or a `build` script, or set the build command and the output directory.",
    )
    CONFIGURATION_INVALID = (
        "CONFIGURATION_INVALID",
        "A setting of the project or a file of the repository can't be used.",
        "Correct what the message names.",
    )
    COMMAND_NOT_ALLOWED = (
        "COMMAND_NOT_ALLOWED",
        "A command of the project's settings can't be run.",
        "Correct the command; the message says why.",
    )
    LOCKFILE_MISMATCH = (
        "LOCKFILE_MISMATCH",
        "The lockfile doesn't match the manifest.",
        "Update the lockfile and commit it.",
    )
    COMMAND_FAILED = (
        "COMMAND_FAILED",
        "A command ended with another exit code than 0.",
        "Read the log; its last lines usually name the cause.",
    )
    OUT_OF_MEMORY = (
        "OUT_OF_MEMORY",
        "A command needed more memory than the limit.",
        "Lower what it needs, or use a larger plan.",
    )
    TIMEOUT = (
        "TIMEOUT",
        "A stage took longer than the limit.",
        "Look in the log for where it waits, or use a larger plan.",
    )
    DISK_FULL = ("DISK_FULL", "A command wrote more data or files than the limit.", "Write less, or use a larger plan.")
    OUTPUT_DIRECTORY_MISSING = (
        "OUTPUT_DIRECTORY_MISSING",
        "The build has not written the output directory.",
        "Set the output directory to the one that the build writes.",
    )
    OUTPUT_DIRECTORY_EMPTY = (
        "OUTPUT_DIRECTORY_EMPTY",
        "The output directory has no files.",
        "Check the build command and the output directory.",
    )
    OUTPUT_TOO_LARGE = (
        "OUTPUT_TOO_LARGE",
        "The output, or a file of it, is larger than a site may be.",
        "Remove large files from the output.",
    )
    OUTPUT_INVALID = (
        "OUTPUT_INVALID",
        "The output holds something that can't be published, like a link that leads out of it.",
        "Remove or rename what the message names.",
    )
    SITE_QUOTA_EXCEEDED = (
        "SITE_QUOTA_EXCEEDED",
        "The cluster's quota has no room for the pods of the site.",
        "Ask for fewer replicas, use the runtime `files`, or have the operator raise the quota of sites.",
    )
    PLATFORM_ERROR = (
        "PLATFORM_ERROR",
        "The platform failed, after several attempts.",
        "Deploy again; report it to the operator if it stays.",
    )
    WORKER_LOST = (
        "WORKER_LOST",
        "The platform failed: two of its workers had to be ended under the stage.",
        "Operators should alert on it and look in the workers' logs.",
    )
