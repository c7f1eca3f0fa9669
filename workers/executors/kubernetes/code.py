"""The archive of the code that runs in build pods."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import workers

_ROOT = Path(str(workers.__file__)).parents[1]
# All that `pod/main.py` imports; a test compares. Each needs nothing but Python's standard library.
MODULES = (
    "shared/__init__.py",
    "shared/text/__init__.py",
    "shared/text/written.py",
    "workers/__init__.py",
    "workers/executors/__init__.py",
    "workers/executors/disk_usage.py",
    "workers/executors/docker/__init__.py",
    "workers/executors/docker/entry.py",
    "workers/executors/kubernetes/__init__.py",
    "workers/executors/kubernetes/pod/__init__.py",
    "workers/executors/kubernetes/pod/command.py",
    "workers/executors/kubernetes/pod/ending.py",
    "workers/executors/kubernetes/pod/fetch.py",
    "workers/executors/kubernetes/pod/frames.py",
    "workers/executors/kubernetes/pod/layout.py",
    "workers/executors/kubernetes/pod/main.py",
    "workers/executors/kubernetes/pod/memory.py",
    "workers/executors/kubernetes/pod/network_proof.py",
    "workers/executors/kubernetes/pod/pack.py",
    "workers/executors/kubernetes/pod/store.py",
    "workers/filesystem/__init__.py",
    "workers/filesystem/descent.py",
    "workers/snapshots/__init__.py",
    "workers/snapshots/tar_format.py",
    "workers/snapshots/tree_reader.py",
    "workers/snapshots/tree_writer.py",
)
_MAIN = "from workers.executors.kubernetes.pod.main import main\n\nmain()\n"
_TIME = (1980, 1, 1, 0, 0, 0)


def build_archive() -> bytes:
    """A zip that Python runs. The same bytes for the same code."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _TIME), _MAIN, zipfile.ZIP_DEFLATED)
        for name in MODULES:
            archive.writestr(zipfile.ZipInfo(name, _TIME), (_ROOT / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return written.getvalue()
