"""The kinds of route changes, and the rows of the log."""

from __future__ import annotations

import enum

import msgspec


class ChangeKind(enum.StrEnum):
    PREPARE = "prepare"  # fetch the deployment's files, which a host will serve soon
    ACTIVATE = "activate"  # the host serves the deployment
    REMOVE = "remove"  # the host answers 404
    DISCARD = "discard"  # delete the deployment's files


class SiteArtifact(msgspec.Struct, frozen=True):
    """What a router needs to serve a deployment: to fetch its files or, if it has pods of its own, their address (the
    IP:port of their Service). Routers of versions that don't know of pods serve the files, which are the same.
    """

    deployment_id: str
    tenant_id: str
    manifest_digest: str
    is_preview: bool
    pods_address: str | None = None


class RouteChange(msgspec.Struct, frozen=True):
    """One change. `host` is None for DISCARD, `deployment_id` for REMOVE. `fetcher` is the router that must fetch the
    files of a preparation although it has had no request for the host.
    """

    kind: ChangeKind
    host: str | None = None
    deployment_id: str | None = None
    fetcher: str | None = None


def activation(host: str, deployment_id: str) -> RouteChange:
    return RouteChange(ChangeKind.ACTIVATE, host, deployment_id)


def removal(host: str) -> RouteChange:
    return RouteChange(ChangeKind.REMOVE, host)


def discard(deployment_id: str) -> RouteChange:
    return RouteChange(ChangeKind.DISCARD, deployment_id=deployment_id)


class NumberedChange(msgspec.Struct, frozen=True):
    """A change as the log has it. `traceparent`: the place in a trace at which it was appended."""

    number: int
    kind: ChangeKind
    host: str | None
    deployment_id: str | None
    fetcher: str | None
    traceparent: str | None


class Position(msgspec.Struct, frozen=True):
    """A place in the log: numbers of different epochs can't be compared."""

    epoch: str
    number: int


class Route(msgspec.Struct, frozen=True):
    host: str
    deployment_id: str


class Snapshot(msgspec.Struct, frozen=True):
    """All routes, and the artifacts that routers may have, as they are after the change at `position`."""

    position: Position
    routes: dict[str, str]
    artifacts: dict[str, SiteArtifact]
