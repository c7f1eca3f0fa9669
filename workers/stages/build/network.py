"""Whether a build has a network, and what the log and a failure's message say about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.settings import NetworkSettings
from workers.egress.accounts import ReachedHost, Traffic
from workers.pipeline.stage import DeploymentView

# Hosts that a summary names.
_NAMED = 20
_KEPT_FILES = (
    "keep in the repository what the build fetches (fonts, too: with Next.js `next/font/local`), or fetch it in a"
    " postinstall script of package.json"
)


@dataclass(frozen=True, slots=True)
class BuildNetwork:
    """`is_filtered`: the network of installs; otherwise there is none. `advice`: for a build that fails because it
    reaches nothing."""

    is_filtered: bool
    advice: str

    @property
    def of_sandbox(self) -> Literal["none", "proxy"]:
        return "proxy" if self.is_filtered else "none"


def network_of(deployment: DeploymentView, settings: NetworkSettings) -> BuildNetwork:
    """The project's choice, where projects have one; that of no network holds in any case.

    Every build is asked about here, so this is also where one of untrusted origin is refused the network.
    """
    chosen = deployment.build_network if settings.build_network_choice else None
    is_filtered = (chosen or settings.build_network) == "filtered" and deployment.build_network != "none"
    if is_filtered:
        return BuildNetwork(is_filtered=True, advice=_FILTERED)
    if settings.build_network_choice:
        command = f"cloudify settings set buildNetwork filtered --project {deployment.project_slug}"
        allow = f"This build had no network. If it needs one, allow it with `{command}` and deploy again; or"
        return BuildNetwork(is_filtered=False, advice=f"{allow} {_KEPT_FILES}.")
    if settings.build_network == "filtered":
        command = f"cloudify settings unset buildNetwork --project {deployment.project_slug}"
        allow = f"This build had no network, because the project chose none. Allow it with `{command}`, or"
        return BuildNetwork(is_filtered=False, advice=f"{allow} {_KEPT_FILES}.")
    ask = "if that isn't possible, ask the operator, who can allow it (CLOUDIFY_BUILD_NETWORK_CHOICE=true)"
    return BuildNetwork(is_filtered=False, advice=f"Builds have no network on this installation: {_KEPT_FILES}; {ask}.")


def summary(traffic: Traffic) -> str:
    """A line of the log: the hosts that a build reached, and how much it sent to them and received."""
    reached, blocked = traffic.reached_hosts, len(traffic.blocked_hosts)
    refused = f" {blocked} {'host was' if blocked == 1 else 'hosts were'} refused." if blocked else ""
    if not reached:
        return f"The build had a network and reached no host.{refused}"
    by_size = sorted(reached, key=lambda each: -(each.sent_bytes + each.received_bytes))
    named = ", ".join(map(_described, by_size[:_NAMED]))
    rest = by_size[_NAMED:]
    if rest:
        total = ReachedHost(
            f"{len(rest)} more", sum(each.sent_bytes for each in rest), sum(each.received_bytes for each in rest)
        )
        named += f" and {_described(total)}"
    return f"The build reached {named}.{refused}"


def _described(reached: ReachedHost) -> str:
    return f"{reached.host} ({_size(reached.received_bytes)} received, {_size(reached.sent_bytes)} sent)"


def _size(number: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"


_FILTERED = (
    "This build had a network: only HTTP and HTTPS to public hosts, through the proxy that HTTP_PROXY and HTTPS_PROXY"
    " name. Is the host there, and does the tool use the proxy? Node does so from 22.21 and 24.5 on."
)
