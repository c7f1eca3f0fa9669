"""Builds with and without a network: what they reach, what is kept, and what is said about it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.db.database import Database
from shared.errors import StageFailure
from shared.settings import NetworkSettings, ObjectStoreSettings
from tests.support.stage_pipeline import Pipeline, open_pipeline
from workers.executors.toolchain import Toolchain

pytestmark = pytest.mark.integration

# Not in NO_PROXY, unlike 127.0.0.1.
HOST = "127.0.0.2"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    return Toolchain.discover()


class _Content(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = f"answer {len(self.server.asked)}".encode().ljust(300_000)  # type: ignore[attr-defined]
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Requests are not logged."""


@pytest.fixture
def server() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer((HOST, 0), _Content) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def opened(
    tmp_path: Path, toolchain: Toolchain, database: Database, object_store_settings: ObjectStoreSettings
) -> Open:
    @contextmanager
    def open_with(**network: Any) -> Iterator[Pipeline]:
        settings = NetworkSettings(egress_allowed_networks=("127.0.0.2/32",), **network)
        with open_pipeline(tmp_path, toolchain, database, object_store_settings, settings) as pipeline:
            yield pipeline

    return open_with


def site(*urls: str) -> dict[str, str | bytes]:
    code = f"""
        const fs = require('fs');
        (async () => {{
          let text = '';
          for (const url of {json.dumps(urls)}) {{
            const answer = await fetch(url);
            if (!answer.ok) throw new Error(url + ' answers ' + answer.status);
            text += (await answer.text()).trim();
          }}
          fs.mkdirSync('dist');
          fs.writeFileSync('dist/index.html', text);
        }})();
    """
    package = json.dumps({"name": "site", "version": "1.0.0", "scripts": {"build": "node build.js"}})
    return {"package.json": package, "build.js": code}


def url_of(server: Any) -> str:
    return f"http://{HOST}:{server.server_port}/cms"


@pytest.mark.parametrize(
    ("network", "chosen"),
    [
        ({"build_network_choice": True}, "filtered"),
        ({"build_network": "filtered"}, None),
        ({"build_network": "filtered", "build_network_choice": True}, "filtered"),
    ],
)
def test_a_build_with_a_network_is_kept_for_its_commit(
    opened: Open, server: Any, network: dict[str, Any], chosen: str | None
) -> None:
    with opened(**network) as pipeline:
        installed = pipeline.install(site(url_of(server)))
        built = pipeline.build(installed, build_network=chosen)
        log = pipeline.log.text
        assert f"The build reached {HOST}:{server.server_port} (29" in log
        assert " KiB received, " in log
        assert "It was built with a network, so it is kept for this commit only." in log
        again = pipeline.build(installed, build_network=chosen)
        assert (built.is_cache_hit, again.is_cache_hit, len(server.asked)) == (False, True, 1)
        other = pipeline.build(installed, build_network=chosen, commit_sha="2" * 40)
        assert (other.is_cache_hit, len(server.asked)) == (False, 2)
        assert "commit changed" in pipeline.log.text
        assert other.output != built.output


@pytest.mark.parametrize(
    ("network", "chosen", "said"),
    [
        ({"build_network_choice": True}, None, "`cloudify settings set buildNetwork filtered --project "),
        ({"build_network_choice": True, "build_network": "filtered"}, "none", "set buildNetwork filtered"),
        ({"build_network": "filtered"}, "none", "`cloudify settings unset buildNetwork --project "),
        # Chosen while it was allowed.
        ({}, "filtered", "ask the operator, who can allow it"),
    ],
)
def test_a_build_without_a_network_says_how_to_get_one(
    opened: Open, server: Any, network: dict[str, Any], chosen: str | None, said: str
) -> None:
    with opened(**network) as pipeline:
        installed = pipeline.install(site("https://cms.example.invalid/"))
        with pytest.raises(StageFailure) as failed:
            pipeline.build(installed, build_network=chosen)
        assert said in failed.value.message
        assert "The build reached" not in pipeline.log.text


def test_what_a_build_may_not_reach_is_named(opened: Open, server: Any) -> None:
    with opened(build_network="filtered") as pipeline:
        installed = pipeline.install(site(url_of(server), "http://169.254.169.254/latest/meta-data/"))
        with pytest.raises(StageFailure, match=r"It was refused these hosts: 169\.254\.169\.254\."):
            pipeline.build(installed)
        assert "The command tried to reach 169.254.169.254, which is not allowed." in pipeline.log.text
        assert f"The build reached {HOST}:{server.server_port} (" in pipeline.log.text
        assert " sent). 1 host was refused." in pipeline.log.text


def test_without_a_build_command_nothing_is_reached(opened: Open) -> None:
    with opened(build_network="filtered") as pipeline:
        built = pipeline.run({"index.html": "hello"})
        assert built == {"index.html": "hello"}
        assert "network" not in pipeline.log.text
