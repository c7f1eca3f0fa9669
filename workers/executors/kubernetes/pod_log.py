"""Follows the log of a command's container, across broken connections, without losing or repeating anything."""

from __future__ import annotations

import json
import os
import threading
from http import HTTPStatus
from typing import Any

from shared.errors import PlatformError
from workers.executors.base import OnOutput
from workers.executors.kubernetes.cluster import Cluster, ClusterError, LogStream
from workers.executors.kubernetes.pod import frames
from workers.executors.output_pump import OutputPump

_PAUSE_SECONDS = 0.3
_HUNG_SECONDS = 5.0


class PodLog:
    """Started by `follow`. `words`: the last line, when it has come."""

    def __init__(self, cluster: Cluster, limit_bytes: int, on_output: OnOutput) -> None:
        self._cluster = cluster
        stdout, self._stdout = os.pipe2(os.O_CLOEXEC)
        stderr, self._stderr = os.pipe2(os.O_CLOEXEC)
        self.pump = OutputPump(stdout, stderr, limit_bytes, on_output)
        self.words: dict[str, Any] | None = None
        self.has_ended = threading.Event()
        self._may_end = threading.Event()
        self._is_closed = False
        self._stream: LogStream | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        # The number of the last frame, and the time in front of it.
        self._last = 0
        self._since: str | None = None

    @property
    def is_followed(self) -> bool:
        return self._thread is not None

    def follow(self, pod: str) -> None:
        self._thread = threading.Thread(target=self._follow, args=(pod,), name="pod-log", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """The container has ended: waits for the rest of its log, for at most `seconds`."""
        self._may_end.set()
        if self._thread is None or self.has_ended.wait(min(seconds, _HUNG_SECONDS)):
            return
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.stop()  # a connection that broke without a word: the rest is read by a new one
        self.has_ended.wait(seconds)

    def close(self) -> None:
        """Ends the following. All that was received has been passed on when this returns. May be called twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            stream = self._stream
        self._may_end.set()
        if stream is not None:
            stream.stop()
        if self._thread is not None:
            self._thread.join()
        os.close(self._stdout)
        os.close(self._stderr)
        self.pump.finish(did_start=True)

    def _follow(self, pod: str) -> None:
        pause = threading.Event()
        try:
            while self.words is None and not self._is_closed:
                # Asked before reading: a log that is read after the end is complete.
                is_last = self._may_end.is_set()
                try:
                    self._read(pod)
                    is_whole = True
                except ClusterError as error:
                    # 400: the container is not started yet.
                    is_whole = error.status == HTTPStatus.NOT_FOUND
                except PlatformError:
                    is_whole = False
                if is_last and is_whole:
                    return
                pause.wait(_PAUSE_SECONDS if self.words is None else 0)
        finally:
            self.has_ended.set()

    def _read(self, pod: str) -> None:
        # The API takes whole seconds, so lines of the last one come again; their numbers tell.
        with self._cluster.log(pod, "command", self._since) as stream:
            with self._lock:
                if self._is_closed:
                    return
                self._stream = stream
            for line in stream.lines():
                time, _, text = line.partition(b" ")
                frame = frames.decode(text)
                if frame is None or frame.number <= self._last:
                    continue
                if frame.number != self._last + 1:
                    self._write(self._stderr, b"\n[A part of the output is lost: the node did not keep it.]\n")
                self._last, self._since = frame.number, time.decode("ascii", "replace")[:19] + "Z"
                if frame.kind == frames.END:
                    self.words = json.loads(frame.data)
                    return
                self._write(self._stdout if frame.kind == frames.STDOUT else self._stderr, frame.data)

    @staticmethod
    def _write(descriptor: int, data: bytes) -> None:
        while data:
            data = data[os.write(descriptor, data) :]
