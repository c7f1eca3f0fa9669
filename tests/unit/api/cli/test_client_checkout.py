"""Where a commit that is checked out without a branch is deployed: to production or as a preview."""

from __future__ import annotations

import subprocess
from pathlib import Path

from api.cli.checkout import place_detached, read_checkout
from api.cli.work_tree import WorkTree


def test_a_remote_that_does_not_answer_puts_nothing_into_production(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for arguments in (
        ["init", "-q", "-b", "main", origin],
        ["-C", origin, *identity, "commit", "-q", "--allow-empty", "-m", "Start"],
        ["clone", "-q", origin, clone],
        ["-C", clone, "checkout", "-q", "--detach"],
    ):
        subprocess.run(["git", *map(str, arguments)], check=True)
    tree = WorkTree(clone, clone)

    def place(*, production: bool = False) -> tuple[bool, str]:
        checkout = read_checkout(tree, tree.repository(local=False))
        assert checkout is not None
        placement = place_detached(checkout, "main", preview=False, production=production)
        return placement.is_preview, placement.reason(is_live=False) or ""

    assert place()[0] is False
    # What the last fetch knew may have changed since.
    origin.rename(tmp_path / "elsewhere")
    is_preview, reason = place()
    assert is_preview
    assert "can't be asked now" in reason
    assert place(production=True)[0] is False
