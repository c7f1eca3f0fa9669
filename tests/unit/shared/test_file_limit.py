"""A process takes all the open files that it may have."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import resource
from shared.open_files import raise_file_limit
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
now, same = resource.getrlimit(resource.RLIMIT_NOFILE)
assert same == most
assert now == (65536 if most == resource.RLIM_INFINITY else min(65536, most)), now
"""


def test_a_process_may_open_as_many_files_as_the_system_allows() -> None:
    # In a process of its own: the limit is the whole process's.
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True, timeout=120)
