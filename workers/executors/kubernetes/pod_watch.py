"""Follows the pods of one Job, so that the run learns of every change at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from shared.errors import PlatformError
from workers.executors.kubernetes.cluster import Cluster
from workers.executors.kubernetes.pod_state import PodState

_WATCH_SECONDS = 60
_PAUSE_SECONDS = 0.5


class PodWatch:
    """Started by the constructor. `close` returns when its thread has ended, at the latest with the next event."""

    def __init__(self, cluster: Cluster, selector: str) -> None:
        self._cluster = cluster
        self._selector = selector
        self._condition = threading.Condition()
        self._pods: dict[str, PodState] = {}
        self._gone: dict[str, PodState] = {}
        self._is_listed = False
        self._version = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._follow, name="pod-watch", daemon=True)
        self._thread.start()

    def wait(self, version: int, seconds: float) -> int:
        """Waits for a change after `version`; returns the present version."""
        with self._condition:
            self._condition.wait_for(lambda: self._version != version, seconds)
            return self._version

    def pods(self) -> list[PodState]:
        """Those that exist, in the order of their appearance."""
        with self._condition:
            return list(self._pods.values())

    def gone(self) -> list[PodState]:
        """Those that were deleted, as they were seen last."""
        with self._condition:
            return list(self._gone.values())

    def has_listed(self) -> bool:
        with self._condition:
            return self._is_listed

    def close(self) -> None:
        """The thread ends with its next event, or when the watch is renewed."""
        with self._condition:
            self._is_closed = True

    def _follow(self) -> None:
        pause = threading.Event()
        while not self._is_closed:
            try:
                self._take_list()
                with self._cluster.watching(self._selector, _WATCH_SECONDS) as events:
                    for event in events:
                        if event.get("type") == "ERROR":
                            break
                        self._take(str(event.get("type")), event["object"])
                        if self._is_closed:
                            return
            except PlatformError:
                pause.wait(_PAUSE_SECONDS)

    def _take_list(self) -> None:
        found = {pod["metadata"]["uid"]: PodState(pod) for pod in self._cluster.pods(self._selector)}
        with self._condition:
            for uid in [uid for uid in self._pods if uid not in found]:
                self._gone[uid] = self._pods.pop(uid)
            self._pods.update(found)
            self._is_listed = True
            self._version += 1
            self._condition.notify_all()

    def _take(self, kind: str, pod: Mapping[str, Any]) -> None:
        state = PodState(pod)
        with self._condition:
            if kind == "DELETED":
                self._pods.pop(state.uid, None)
                self._gone[state.uid] = state
            elif kind in ("ADDED", "MODIFIED"):
                self._pods[state.uid] = state
            self._version += 1
            self._condition.notify_all()
