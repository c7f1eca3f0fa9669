"""A worker takes all the open files that it may have."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import resource
from workers.main import raise_file_limit
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
raise_file_limit()
now, same = resource.getrlimit(resource.RLIMIT_NOFILE)
assert same == most
assert now == (65536 if most == resource.RLIM_INFINITY else min(65536, most)), now
"""


def test_a_worker_may_open_as_many_files_as_the_system_allows() -> None:
    # In a process of its own: the limit is the whole process's.
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True, timeout=120)
