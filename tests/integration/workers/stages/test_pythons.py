"""A project gets the Python that it asks for: the operator's, or one that uv fetches from a mirror."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Generator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shared.db.database import Database
from shared.settings import NetworkSettings, ObjectStoreSettings, PythonSettings
from tests.support.package_registry import HOST
from tests.support.stage_pipeline import TENANT, open_pipeline
from workers.executors.toolchain import Toolchain

pytestmark = pytest.mark.integration

PREFIX = Path(sys.base_prefix).resolve()
VERSION = ".".join(str(part) for part in sys.version_info[:3])
LINE = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE: dict[str, str | bytes] = {
    "requirements.txt": "pathspec==1.1.1\n",
    "build.py": (
        "import os, pathspec, sys\nos.mkdir('dist')\n"
        "open('dist/index.html', 'w').write(f'{sys.base_prefix} {sys.version_info[:2]} {pathspec.__name__}')\n"
    ),
}
SETTINGS = {"build_command": "python build.py", "output_directory": "dist"}


@contextlib.contextmanager
def empty_mirror() -> Generator[tuple[str, list[str]]]:
    """The address of a mirror that has nothing, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Not on the tests' output."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://user:hidden@{HOST}:{server.server_port}/pythons", asked
        finally:
            server.shutdown()


@pytest.mark.skipif(PREFIX.is_relative_to("/usr"), reason="this Python is not in a folder of its own")
def test_a_python_of_the_operators_folder(
    tmp_path: Path, database: Database, object_store_settings: ObjectStoreSettings
) -> None:
    folder = tmp_path / "pythons"
    folder.mkdir()
    (folder / f"cpython-{VERSION}-linux-x86_64-gnu").symlink_to(PREFIX)
    (folder / "notes").mkdir()
    # As if Cloudify ran with another one.
    toolchain = replace(Toolchain.discover(), python_version="3.99.1")
    site = {**SITE, ".python-version": f"{LINE}\n"}
    python = PythonSettings(directory=folder)
    with open_pipeline(tmp_path / "a", toolchain, database, object_store_settings, python=python) as pipeline:
        installed = pipeline.install(site, **SETTINGS)
        assert f"Python {VERSION}: the operator's (CLOUDIFY_PYTHON_DIRECTORY)." in pipeline.log.lines
        assert [(tool.name, tool.version) for tool in installed.output.tools] == [("python", VERSION)]
        built = pipeline.build(installed, **SETTINGS)
        with pipeline.snapshots.attach(TENANT, built.output.output) as output:
            page = (output / "index.html").read_text()
        assert page == f"/opt/tools/python {sys.version_info[:2]} pathspec"
        # Nothing that the host has installed there comes with it.
        with pipeline.snapshots.attach("tools", installed.output.tools[0].digest) as tree:
            assert list((tree / f"lib/python{LINE}/site-packages").iterdir()) == []
        assert pipeline.install(site, **SETTINGS).is_cache_hit


def test_a_python_that_is_not_available_is_named_with_its_source_and_the_setting(
    tmp_path: Path, database: Database, object_store_settings: ObjectStoreSettings
) -> None:
    with empty_mirror() as (address, asked):
        python = PythonSettings(mirror=address)
        network = NetworkSettings(egress_allowed_networks=(f"{HOST}/32",))
        toolchain = replace(Toolchain.discover(), python_version="3.99.1")
        directory = tmp_path / "b"
        with open_pipeline(directory, toolchain, database, object_store_settings, network, python=python) as pipeline:
            site = {**SITE, ".python-version": "3.13\n"}
            installed = pipeline.install(site, **SETTINGS)
            assert f"from {HOST} (CLOUDIFY_PYTHON_MIRROR), so 3.99.1 is used." in pipeline.log.text
            assert "CLOUDIFY_PYTHON_DIRECTORY" in pipeline.log.text
            assert "hidden" not in pipeline.log.text
            assert installed.output.tools == []
            assert any("/cpython-3.13." in path for path in asked)
            # Each try takes seconds: the next deployment doesn't wait for another one.
            before = len(asked)
            pipeline.install({**site, "README.md": "other"}, **SETTINGS)
            assert len(asked) == before
