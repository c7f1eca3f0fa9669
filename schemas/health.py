"""What the health endpoints answer with."""

from __future__ import annotations

from schemas.base import Resource


class DependencyHealth(Resource):
    """`problem` is None when the dependency answers."""

    name: str
    status: str
    milliseconds: float
    problem: str | None


class HealthResource(Resource):
    """`status`: ok or unavailable. `dependencies` are shown to administrators of the platform alone."""

    status: str
    dependencies: list[DependencyHealth] | None = None
