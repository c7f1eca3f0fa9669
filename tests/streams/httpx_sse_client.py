"""Follows a log with httpx-sse alone: python httpx_sse_client.py STREAM_URL FILE, the token in STREAM_TOKEN.

Writes one JSON object a line to FILE: {"event": "connected"} for each connection, then what it processed, in order.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import httpx
import httpx_sse


class Follower:
    def __init__(self, url: str, token: str, file: TextIO) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._file = file
        self._last = 0
        self._retry_seconds = 1.0

    def follow(self) -> None:
        """Returns at the end of the log. Raises for an answer that a retry would not change."""
        with httpx.Client(timeout=httpx.Timeout(10, read=45), trust_env=False) as client:
            while True:
                try:
                    if self._read_connection(client):
                        return
                except (httpx.TransportError, httpx.StreamError):
                    pass  # the server died, or is away
                time.sleep(self._retry_seconds * random.uniform(0.5, 1))

    def _read_connection(self, client: httpx.Client) -> bool:
        headers = {**self._headers, **({"Last-Event-ID": str(self._last)} if self._last else {})}
        with httpx_sse.connect_sse(client, "GET", self._url, headers=headers) as source:
            if source.response.status_code >= 500 or source.response.status_code == 429:
                return False
            source.response.raise_for_status()
            assert source.response.status_code == 200, source.response.status_code
            self._write({"event": "connected", "last": self._last})
            for event in source.iter_sse():
                if event.retry is not None:
                    self._retry_seconds = event.retry / 1000
                if event.event == "reconnect":
                    continue
                if event.event in ("log", "status", "gap", "end"):
                    self._process(event.event, json.loads(event.data), event.id)
                if event.event == "end":
                    return True
        return False

    def _process(self, kind: str, data: dict[str, Any], identifier: str) -> None:
        entries = data["lines"] if kind == "log" else [data]
        last = entries[-1]["to"] if kind == "gap" else entries[-1]["seq"]
        assert identifier == str(last), f"the event's id is {identifier}, its last entry {last}"
        for entry in entries:
            seq = entry["to"] if kind == "gap" else entry["seq"]
            if seq > self._last:
                self._last = seq
                self._write({"event": kind, **entry})

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()


if __name__ == "__main__":
    with Path(sys.argv[2]).open("w", encoding="utf-8") as output:
        Follower(sys.argv[1], os.environ["STREAM_TOKEN"], output).follow()
