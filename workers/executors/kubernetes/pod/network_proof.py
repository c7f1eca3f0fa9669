"""Proves that a pod's network policy holds before anything of a project runs. Standard library only.

Network policies are enforced by the cluster's network plugin (CNI): without one that does, Kubernetes accepts them and
nothing happens. They may also come into force a moment after the pod.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from workers.executors.kubernetes.pod.ending import NETWORK_OPEN, STORE_AWAY, STORE_OPEN, PodFailure
from workers.executors.kubernetes.pod.store import Store, address_of

Address = tuple[str, int]

_CONNECT_SECONDS = 1.5
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.2
_REFUSALS = (401, 403)


def prove(store: Store, bucket_url: str, *, closed: Sequence[Address], proxy: Address | None) -> None:
    """Returns when `closed` can't be reached, and the store refuses requests without a signature.

    `closed` are addresses at which something listens: an address without a listener would prove nothing. Raises
    PodFailure when that isn't so after a while.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (problem := _find_problem(store, bucket_url, closed, proxy)) is not None:
        if time.monotonic() > deadline:
            raise problem
        time.sleep(_PAUSE_SECONDS)


def _find_problem(store: Store, bucket_url: str, closed: Sequence[Address], proxy: Address | None) -> PodFailure | None:
    with ThreadPoolExecutor(max_workers=len(closed) + 1) as pool:
        attempts = list(pool.map(_is_reached, closed))
    reached = [f"{host}:{port}" for (host, port), is_open in zip(closed, attempts, strict=True) if is_open]
    if reached:
        return PodFailure(
            NETWORK_OPEN,
            f"The pod reaches {', '.join(reached)}, so the cluster does not enforce the network policy of builds."
            " Install a network plugin (CNI) that enforces NetworkPolicy for egress (Calico, Cilium, kube-router,"
            " Antrea), and the policies of the chart in the namespace of builds.",
        )
    if proxy is not None and not _is_reached(proxy):
        return PodFailure(STORE_AWAY, f"The pod does not reach the egress proxy at {proxy[0]}:{proxy[1]}.")
    try:
        status = store.answer_to_strangers(bucket_url)
    except OSError as error:
        host, port = address_of(bucket_url)
        return PodFailure(STORE_AWAY, f"The pod does not reach the object store at {host}:{port}: {error}.")
    if status not in _REFUSALS:
        return PodFailure(
            STORE_OPEN,
            f"The object store answers {status} to a request without a signature. Builds reach the store, so it must"
            " refuse such requests (403): remove public access from the bucket.",
        )
    return None


def _is_reached(address: Address) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=_CONNECT_SECONDS):
        return True
    return False
