"""Many log streams in one process: `python -m tests.bench.stream_clients`, which obeys JSON lines on stdin.

Each line is one command, answered by one JSON line: {"open": count, "port", "token", "deployments"} opens streams,
spread over the deployments; {"reset": true} forgets what was received; {"report": true} tells it. Frames are searched
for two patterns and not parsed, so that the measured machine's cores are left to the API.

A line's text begins with `@<monotonic nanoseconds>@`, CLOCK_MONOTONIC being one for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from typing import Any

import uvloop

_STAMP = re.compile(rb"@(\d{8,20})@")
_LINE = b'{"seq":'
# Latencies are counted in steps of 0.1 ms.
_STEP_NS = 100_000
_OPENING = 32


class Received:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lines = self.bytes = self.pieces = 0
        self.latencies: Counter[int] = Counter()

    def take(self, data: bytes, before: bytes) -> None:
        """`before`: the end of the stream's piece before, where what was cut in two begins."""
        now = time.monotonic_ns()
        self.pieces += 1
        self.bytes += len(data)
        self.lines += (before + data).count(_LINE)
        for stamp in _STAMP.findall(data):
            self.latencies[(now - int(stamp)) // _STEP_NS] += 1

    def report(self) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "bytes": self.bytes,
            "pieces": self.pieces,
            "milliseconds": [self._percentile(share) for share in (0.5, 0.95, 0.99, 1.0)],
        }

    def _percentile(self, share: float) -> float:
        wanted, seen = share * self.latencies.total(), 0
        for step, count in sorted(self.latencies.items()):
            seen += count
            if seen >= wanted:
                return step * _STEP_NS / 1e6
        return 0.0


class Stream(asyncio.Protocol):
    def __init__(self, request: bytes, received: Received, opened: asyncio.Future[None]) -> None:
        self._request = request
        self._received = received
        self.opened = opened
        self.is_ended = False
        self._end = b""

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            if not data.startswith(b"HTTP/1.1 200"):
                self.opened.set_exception(RuntimeError(data.decode(errors="replace")))
                return
            self.opened.set_result(None)
        self._received.take(data, self._end)
        self._end = data[1 - len(_LINE) :]

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_ended = True
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError())


class Clients:
    def __init__(self) -> None:
        self._received = Received()
        self._streams: list[Stream] = []

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        match command:
            case {"open": int(count), "port": int(port), "token": str(token), "deployments": list(deployments)}:
                began = time.perf_counter()
                gate = asyncio.Semaphore(_OPENING)
                await asyncio.gather(
                    *(self._open(port, token, deployments[number % len(deployments)], gate) for number in range(count))
                )
                return {"seconds": time.perf_counter() - began}
            case {"reset": _}:
                self._received.reset()
                return {}
            case _:
                return {"ended": sum(stream.is_ended for stream in self._streams), **self._received.report()}

    async def _open(self, port: int, token: str, deployment: str, gate: asyncio.Semaphore) -> None:
        request = (
            f"GET /api/deployments/{deployment}/logs/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
        ).encode()
        loop = asyncio.get_running_loop()
        async with gate:
            opened = loop.create_future()
            _, stream = await loop.create_connection(lambda: Stream(request, self._received, opened), "127.0.0.1", port)
            self._streams.append(stream)
            await opened


async def main() -> None:
    clients = Clients()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(await clients.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
