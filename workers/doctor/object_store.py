"""Checks of the object store: with the platform's keys, by signed links as pods use it, and as a stranger."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus

import httpx

from shared.errors import PlatformError
from shared.settings import NetworkSettings, ObjectStoreSettings
from shared.storage.base import ArtifactStore, ObjectNotFound
from workers.doctor.findings import Finding, ok, problem, warning
from workers.snapshots.store import staging_key

_SUBJECT = "object store"
# Where the reconciler deletes what is forgotten.
_FOLDER = "doctor"
_LINK_SECONDS = 60
_ANSWER_SECONDS = 5.0
_CONTENT = b"cloudify doctor"
_DENIED = "Allow the access key to {} of the bucket."
_OTHER_BYTES = "It returned other bytes than it was given."
_UNREACHABLE = (
    "If only pods reach it there, all is well; otherwise check CLOUDIFY_S3_LINK_ENDPOINT and what is in between."
)
_SIGNATURE = (
    "A proxy in front of the store must leave the Host header, the path and the query as they are, and both clocks must"
    " agree. If pods reach the store at another address, set CLOUDIFY_S3_LINK_ENDPOINT to it."
)
_FORM = (
    "Use a store that accepts POST uploads with a signed policy and enforces content-length-range: pods store their"
    " outputs in this way."
)


def check_object_store(
    store: ArtifactStore, settings: ObjectStoreSettings, network: NetworkSettings
) -> Iterator[Finding]:
    """Stores temporary objects and deletes them. Raises PlatformError if the store doesn't answer."""
    store.ping()
    key = staging_key(f"{_FOLDER}/{uuid.uuid4().hex}")
    found = _attempt("put", lambda: _put(store, key), _DENIED.format("put objects (s3:PutObject)"))
    if found is not None:
        # Nothing else can be tried.
        yield found
        return
    steps = (
        ("get", lambda: _get(store, key), _DENIED.format("get objects (s3:GetObject)")),
        ("list", lambda: _list(store, key), _DENIED.format("list the objects (s3:ListBucket)")),
    )
    problems = [found for step in steps if (found := _attempt(*step)) is not None]
    by_links = list(_check_links(store, key, settings, network))
    found = _attempt("delete", lambda: _delete(store, key), _DENIED.format("delete objects (s3:DeleteObject)"))
    problems += [found] if found is not None else []
    yield from problems or [ok(_SUBJECT, "It puts, gets, lists and deletes.")]
    yield from by_links


def _attempt(step: str, check: Callable[[], str], advice: str) -> Finding | None:
    """`check` returns what is wrong, "" if nothing is."""
    try:
        wrong = check()
    except ObjectNotFound:
        wrong = "A new object is not found."
    except PlatformError as error:
        wrong = str(error)
    return problem(f"{_SUBJECT}: {step}", wrong, advice) if wrong else None


def _put(store: ArtifactStore, key: str) -> str:
    store.put_bytes(key, _CONTENT)
    return ""


def _get(store: ArtifactStore, key: str) -> str:
    return "" if store.get_bytes(key) == _CONTENT else _OTHER_BYTES


def _list(store: ArtifactStore, key: str) -> str:
    return "" if key in store.list(staging_key(_FOLDER)) else "A new object is not listed."


def _delete(store: ArtifactStore, key: str) -> str:
    store.delete(key)
    return "A deleted object is still there." if store.exists(key) else ""


def _check_links(
    store: ArtifactStore, key: str, settings: ObjectStoreSettings, network: NetworkSettings
) -> Iterator[Finding]:
    verify = ssl.create_default_context()
    if network.ca_bundle is not None:
        verify.load_verify_locations(network.ca_bundle)
    # Directly, as pods reach it.
    with httpx.Client(verify=verify, timeout=_ANSWER_SECONDS, trust_env=False) as client:
        try:
            yield _check_download(client, store.link(key, _LINK_SECONDS))
            yield _check_upload(client, store, f"{key}-form")
            yield _check_stranger(client, httpx.URL(store.link(key, _LINK_SECONDS)).copy_with(query=None))
        except httpx.HTTPError as error:
            address, text = settings.link_endpoint or settings.endpoint, str(error) or type(error).__name__
            yield warning(f"{_SUBJECT} links", f"{address} can't be reached from here: {text}.", _UNREACHABLE)


def _check_download(client: httpx.Client, link: str) -> Finding:
    subject = f"{_SUBJECT}: signed GET"
    answer = client.get(link)
    if answer.status_code != HTTPStatus.OK:
        return problem(subject, f"A signed link is answered with {_said(answer)}.", _SIGNATURE)
    if answer.content != _CONTENT:
        return problem(subject, _OTHER_BYTES, _SIGNATURE)
    return ok(subject, "A signed link gives the object.")


def _check_upload(client: httpx.Client, store: ArtifactStore, key: str) -> Finding:
    subject = f"{_SUBJECT}: signed upload"
    url, fields = store.upload_form(key, len(_CONTENT), _LINK_SECONDS)
    try:
        answer = client.post(url, data=dict(fields), files={"file": _CONTENT})
        if not answer.is_success:
            return problem(subject, f"A signed form is answered with {_said(answer)}.", f"{_SIGNATURE} {_FORM}")
        if store.get_bytes(key) != _CONTENT:
            return problem(subject, _OTHER_BYTES, _FORM)
        if client.post(url, data=dict(fields), files={"file": _CONTENT + b"."}).is_success:
            return problem(subject, "It accepts an object that is larger than was signed.", _FORM)
    except (PlatformError, ObjectNotFound) as error:
        return problem(subject, f"The object that was sent can't be read: {error}", _FORM)
    finally:
        _attempt("delete", lambda: _delete(store, key), "")
    return ok(subject, "A signed form stores an object, and none that is larger.")


def _check_stranger(client: httpx.Client, url: httpx.URL) -> Finding:
    subject = f"{_SUBJECT}: strangers"
    if client.get(url).is_success:
        advice = "Make the bucket private: every object of every tenant can be read without a key."
        return problem(subject, "It gives an object to a request without a signature.", advice)
    return ok(subject, "They are refused.")


def _said(answer: httpx.Response) -> str:
    """The status, and S3's code if there is one."""
    _before, _tag, rest = answer.text.partition("<Code>")
    code = rest.partition("</Code>")[0][:60]
    return f"{answer.status_code} {code}".strip()
