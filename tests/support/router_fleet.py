"""Site routers in this process, each with a web server and a folder of its own, on one database, Redis and store."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx

from schemas.artifacts import Manifest, ManifestFile
from shared.db.database import Database
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell, RouteListener
from shared.routing.changes import SiteArtifact
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.stack.caddy import CaddyServer
from shared.storage.base import ArtifactStore
from shared.storage.keys import blob_key, manifest_key
from tests.support.ports import free_ports
from workers.artifacts.reader import ArtifactReader
from workers.router.agent import RouterAgent, RouterIdentity
from workers.router.fetcher import SiteFetcher
from workers.router.listener import RouterListener
from workers.router.peers import Peers
from workers.router.probe import SiteProbe
from workers.router.site_directory import SiteDirectory


@dataclass
class LiveRouter:
    """One router. `get` asks its web server."""

    name: str
    caddy: CaddyServer
    directory: SiteDirectory
    fetcher: SiteFetcher
    agent: RouterAgent
    internal_url: str

    def get(self, host: str, path: str = "/") -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=60) as client:
            return client.get(self.caddy.url + path, headers={"Host": f"{host}.localhost"})

    def wait_until_ready(self) -> None:
        while self.internal("/ready").status_code != 200:
            time.sleep(0.01)

    def internal(self, path: str) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=60) as client:
            return client.get(self.internal_url + path)


@contextmanager
def live_router(
    folder: Path,
    *,
    name: str,
    database_url: str,
    redis_url: str,
    store: ArtifactStore,
    maximum_bytes: int = 1 << 30,
    log_of: Callable[[Database], RouteLog] = RouteLog,
) -> Generator[LiveRouter]:
    """Ready at once or soon; `log_of` makes the log that the agent reads."""
    folder.mkdir(parents=True, exist_ok=True)
    web_port, internal_port = free_ports(2)
    with ExitStack() as stack:
        database = Database(database_url, maximum_connections=3, timeout_seconds=5, answer_seconds=5)
        stack.callback(database.close)
        redis = connect_redis(redis_url, timeout_seconds=5)
        stack.callback(redis.close)
        caddy = CaddyServer(
            folder / "caddy", sites_directory=folder / "sites", port=web_port, agent=f"127.0.0.1:{internal_port}"
        )
        stack.callback(caddy.stop)
        caddy.start()
        caddy.wait(120)
        directory = SiteDirectory(folder / "sites")
        directory.sweep()
        probe = SiteProbe(caddy.url, "localhost", stall_seconds=5)
        stack.callback(probe.close)
        peers = Peers(folder / "router-peers.json")
        artifacts = ArtifactReader(store, folder / "cache", may_repair=False, others=peers)
        fetcher = SiteFetcher(artifacts, directory, probe, maximum_bytes=maximum_bytes)
        internal_url = f"http://127.0.0.1:{internal_port}"
        agent = RouterAgent(
            identity=RouterIdentity(name, "tests", "1", internal_url),
            log=log_of(database),
            routers=RouterRepository(database),
            bell=RouteBell(redis),
            directory=directory,
            fetcher=fetcher,
            probe=probe,
            peers=peers,
            position_file=folder / "position.json",
        )
        listener = RouterListener(
            "127.0.0.1", internal_port, agent=agent, fetcher=fetcher, artifacts=artifacts, domain="localhost"
        )
        ringing = RouteListener(redis, agent.wake)
        for part in (fetcher, listener, agent, ringing):
            part.start()
            stack.callback(part.stop)
        yield LiveRouter(name, caddy, directory, fetcher, agent, internal_url)


def stored_artifact(
    store: ArtifactStore, deployment_id: str, files: dict[str, bytes], *, tenant_id: str = "ten_tests"
) -> SiteArtifact:
    """Puts the files and their manifest into the store, as the upload stage does."""
    entries: dict[str, ManifestFile] = {}
    for name, content in files.items():
        digest = sha256(content).hexdigest()
        store.put_bytes(blob_key(tenant_id, digest), content)
        entries[name] = ManifestFile(digest=digest, size=len(content), content_type="text/html")
    manifest = Manifest(files=entries)
    store.put_bytes(manifest_key(tenant_id, manifest.digest), manifest.encode())
    return SiteArtifact(deployment_id, tenant_id, manifest.digest, is_preview=False)
