"""What an installation chooses between: the names that CLOUDIFY_EXECUTOR and CLOUDIFY_PUBLISHER take.

Each names a module or package of `workers/executors/` or `workers/publishers/`, where `table.py` finds it.
"""

from __future__ import annotations

# The first one is the default.
EXECUTORS = ("bubblewrap", "docker", "kubernetes")
PUBLISHERS = ("router_fleet",)
