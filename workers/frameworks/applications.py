"""Which projects are applications: one page that shows every path, by a router that runs in the browser."""

from __future__ import annotations

from typing import Any

from workers.frameworks.framework import Framework
from workers.frameworks.node_projects import installed_dependencies_of

# Bundlers, which build sites of one page as well as of many.
_BUNDLERS = frozenset({"vite", "parcel", "rsbuild", "node"})
_ROUTERS = frozenset(
    [
        *("react-router-dom", "react-router", "@tanstack/react-router", "@tanstack/solid-router", "wouter"),
        *("vue-router", "@solidjs/router", "solid-app-router", "preact-router", "preact-iso", "svelte-routing"),
        *(
            "svelte-spa-router",
            "@reach/router",
            "page",
            "navigo",
            "raviger",
            "@ionic/react-router",
            "@ionic/vue-router",
        ),
    ]
)


def has_client_router(framework: Framework, package: dict[str, Any]) -> bool:
    """Whether a bundler builds it, with a library that shows pages by the path."""
    return framework.name in _BUNDLERS and not _ROUTERS.isdisjoint(installed_dependencies_of(package))
