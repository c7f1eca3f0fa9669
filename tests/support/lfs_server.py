"""A Git LFS server for the tests of clones, and the pointers that it serves."""

from __future__ import annotations

import hashlib
import json
from email.message import Message
from typing import Any

from tests.support.git_server import GitServer

CONTENT = bytes(range(256)) * 700
OID = hashlib.sha256(CONTENT).hexdigest()
TRACKED = "*.bin filter=lfs diff=lfs merge=lfs -text\n"
Answer = tuple[int, dict[str, str], bytes]


def pointer(content: bytes = CONTENT, *, size: int | None = None) -> str:
    oid = hashlib.sha256(content).hexdigest()
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content) if size is None else size}\n"
    )


class LfsStore:
    """What an LFS server does: batch API and basic transfers. `href`, `action` and `sent` make it a bad one."""

    def __init__(self, server: GitServer) -> None:
        self.server = server
        self.objects = {OID: CONTENT}
        self.href = f"http://127.0.0.1:{server.server_port}/storage/%s?signature=s1gned-s3cret"
        self.action: dict[str, Any] = {}
        self.sent: Answer | None = None
        self.batch: Answer | None = None
        self.asked: list[tuple[str, str, str | None]] = []
        server.respond = self.respond

    def respond(self, method: str, path: str, headers: Message, body: bytes) -> Answer | None:
        if path.endswith("/info/lfs/objects/batch") or path == "/objects/batch":
            self.asked.append((method, path, headers.get("Authorization")))
            return self.batch or self._batch(json.loads(body))
        if path.startswith("/storage/"):
            self.asked.append((method, path, headers.get("Authorization")))
            oid = path.removeprefix("/storage/").partition("?")[0]
            return self.sent or (200, {}, self.objects[oid])
        return None

    def _batch(self, request: dict[str, Any]) -> Answer:
        assert (request["operation"], request["hash_algo"]) == ("download", "sha256")
        objects = []
        for wanted in request["objects"]:
            entry: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] in self.objects:
                href = self.href % wanted["oid"] if "%s" in self.href else self.href
                entry["actions"] = {"download": {"href": href, **self.action}}
            else:
                entry["error"] = {"code": 404, "message": "gone"}
            objects.append(entry)
        answer = {"transfer": "basic", "objects": objects}
        return 200, {"Content-Type": "application/vnd.git-lfs+json"}, json.dumps(answer).encode()
