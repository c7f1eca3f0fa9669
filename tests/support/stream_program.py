"""An API process of the log routes alone, with timings of the test's own, open to everybody.

`python -m tests.support.stream_program <port> <database url> <redis url> <timing as JSON> [address]`. `silence` and
`asking` are the server's `silence_seconds` and `asking_seconds`, the rest is StreamTiming's. GET /state tells what the
process holds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Any

import uvicorn
from litestar import Router, get
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler

from api.authentication import Principal
from api.edge.server import Server
from api.errors import handle_error
from api.middleware import Application
from api.routes.logs import LogController
from api.streams.log_hub import LogHub
from api.streams.log_watch import LogWatch
from api.streams.stream_lease import StreamLeases
from api.streams.timing import StreamTiming
from shared.accounts.stream_rights import StreamRightsRepository
from shared.clock import SystemClock
from shared.db.database import Database
from shared.logs.listener import RedisNotificationListener
from shared.logs.store import PostgresLogStore
from shared.logs.stream_slots import RedisStreamSlots


def let_everybody_in(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    connection.scope["user"] = Principal("user_1", "a@example.com", "tok_1", frozenset(), False)
    connection.state.tenant_id = "ten_1"


def main() -> None:
    port, database_url, redis_url, encoded, *rest = sys.argv[1:]
    timing = json.loads(encoded)
    silence, asking = timing.pop("silence", 30.0), timing.pop("asking", 3600.0)
    database = Database(database_url)
    store = PostgresLogStore(database)
    hub = LogHub(store, RedisNotificationListener(redis_url), StreamTiming(**timing))
    slots = RedisStreamSlots(redis_url, limit=10_000)
    rights = StreamRightsRepository(database)
    leases = StreamLeases(rights=rights, slots=slots, clock=SystemClock(), check_seconds=3600)

    @get("/state")
    async def state() -> dict[str, int]:
        gc.collect()
        return {
            "streams": hub.stream_count,
            "leases": leases.open_count,
            # This request's own are among these.
            "connections": len(server.server_state.connections),
            "tasks": len(asyncio.all_tasks()),
            "watches": sum(isinstance(found, LogWatch) for found in gc.get_objects()),
        }

    application = Application(
        route_handlers=[Router("/api", route_handlers=[LogController]), state],
        guards=[let_everybody_in],
        lifespan=[leases.running],
        dependencies={
            "stream_leases": Provide(lambda: leases, sync_to_thread=False),
            "log_store": Provide(lambda: store, sync_to_thread=False),
            "log_hub": Provide(lambda: hub, sync_to_thread=False),
        },
        exception_handlers={Exception: handle_error},
        on_startup=[hub.start],
        on_shutdown=[hub.close],
        openapi_config=None,
    )
    config = uvicorn.Config(
        application, host=rest[0] if rest else "127.0.0.1", port=int(port), http="httptools", loop="uvloop", ws="none",
        log_config=None, access_log=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = Server(config, [hub], silence_seconds=silence, asking_seconds=asking)
    server.stop_on_signals()
    server.run()
    database.close()


if __name__ == "__main__":
    main()
