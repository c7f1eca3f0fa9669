"""What is checked out, compared with the repository that is deployed: which commit, on which of its branches."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from api.cli.work_tree import Repository, WorkTree
from api.client.errors import ClientError, ExitCode


@dataclass(frozen=True, slots=True)
class Checkout:
    """`branch` is None on a detached HEAD. `tips` are the branches of the repository that is deployed, with their
    commits, and `default` is the default one; `is_current` says whether they come from the repository itself just now,
    not from the last fetch, and `is_tree` whether that repository is the work tree itself."""

    tree: WorkTree
    branch: str | None
    commit: str
    tips: Mapping[str, str]
    default: str | None
    is_current: bool
    is_tree: bool

    @property
    def short_commit(self) -> str:
        return self.commit[:12]

    def branches_with_commit(self) -> tuple[list[str], list[str]]:
        """The branches that contain the commit, those that end with it first; and those of which this repository
        doesn't have enough history to tell."""
        known: list[str] = []
        unknown: list[str] = []
        for name, tip in sorted(self.tips.items(), key=lambda item: item[1] != self.commit):
            contains = self.tree.contains(tip, self.commit)
            if contains is None:
                unknown.append(name)
            elif contains:
                known.append(name)
        return known, unknown

    def warnings(self, url: str) -> list[str]:
        """How what is checked out differs from what the branch of the deployed repository has."""
        if self.branch is None:
            return self.warnings_of_absence(url)
        tip = self.tips.get(self.branch)
        if tip is None:
            state = f"{self.branch} was never pushed or fetched here, and {url} can't be asked now"
            return [f"{state}; whatever it has under this name is deployed."]
        if tip == self.commit:
            return []
        ahead, behind = self.tree.count_between(tip, self.commit), self.tree.count_between(self.commit, tip)
        if ahead is None or behind is None:
            difference = f"{self.branch} of {url} is at {tip[:12]}, and {self.short_commit} is checked out here"
            return [f"{difference}; {tip[:12]} is deployed. Pull or push first, or use --local."]
        found: list[str] = []
        if ahead:
            commits = "1 commit isn't" if ahead == 1 else f"{ahead} commits aren't"
            found.append(f"{commits} pushed to {self.branch}; {url} is deployed without. Push first, or use --local.")
        if behind:
            commits = "1 commit" if behind == 1 else f"{behind} commits"
            found.append(f"{self.branch} of {url} has {commits} that aren't checked out here; they are deployed, too.")
        return found

    def warnings_of_absence(self, url: str) -> list[str]:
        """Whether the deployed repository may lack the commit, whatever branch it is deployed for."""
        if self.is_tree or any(self.branches_with_commit()):
            return []
        return [f"no branch of {url} contains {self.short_commit}, so the remote may not have it; push it first."]


@dataclass(frozen=True, slots=True)
class Placement:
    """What is deployed, and where to. Where the work tree decided, `origin` says which commit it is, and `why` is the
    reason for where it goes, unless that was asked for."""

    branch: str | None
    commit: str | None
    is_preview: bool
    origin: str = ""
    why: str = ""

    def reason(self, *, is_live: bool) -> str | None:
        """A sentence for the user; None where all was asked for. `is_live`: production serves it now."""
        if not self.origin:
            return None
        place = "is a preview" if self.is_preview else "went to production" if is_live else "is for production"
        why = f", as {self.why}" if self.why else ""
        advice = " Add --production to put it into production." if self.is_preview and self.why else ""
        return f"{self.origin}; it {place}{why}.{advice}"


def place_detached(checkout: Checkout, production_branch: str | None, *, preview: bool, production: bool) -> Placement:
    """Where a commit goes that is checked out without a branch: to production only if the production branch is the
    one branch of the remote, as it is now, that contains it, or if that was asked for."""
    known, unknown = checkout.branches_with_commit()
    label = production_branch if production_branch in known else known[0] if known else None
    commit = f"The commit {checkout.short_commit} is not on a branch that is checked out"
    if production or preview:
        return Placement(label, checkout.commit, is_preview=preview, origin=commit)
    if known == [production_branch] and not unknown and checkout.is_current:
        why = f"{production_branch} is the only branch that contains it"
        return Placement(label, checkout.commit, is_preview=False, origin=commit, why=why)
    if not checkout.is_current:
        why = "the remote origin, whose branches decide that, can't be asked now"
    elif production_branch is None:
        why = "which branch is the default one isn't known"
    elif not known and not unknown:
        why = "no branch contains it"
    elif production_branch in known:
        others = [name for name in known if name != production_branch]
        why = f"{_listed(others)} contain{'s' if len(others) == 1 else ''} it, too" if others else ""
        why = why or f"{_listed(unknown)} may contain it, too"
    elif known:
        why = f"it is on {_listed(known)}, not on {production_branch}"
    else:
        why = f"this repository has too little history to tell whether only {production_branch} contains it"
    return Placement(label, checkout.commit, is_preview=True, origin=commit, why=why)


def check_pushed(checkout: Checkout, branch: str, url: str) -> None:
    """Raises ClientError for a branch that the repository doesn't have, so that nothing else is deployed for it."""
    if not checkout.is_current:
        return
    upstream = checkout.tree.upstream(branch)
    other = ""
    if upstream is not None and upstream in checkout.tips:
        other = f", deploy {upstream}, which it follows, with --branch {shlex.quote(upstream)}"
    was_there = branch in checkout.tree.tracked_branches().tips
    state = f"isn't there any more: {url} had it" if was_there else f"was never pushed: {url} doesn't have it"
    merged = ", check out the branch that it was merged into" if was_there else ""
    raise ClientError(
        f"The branch {branch} {state}.",
        f"Push it with `git push -u origin {shlex.quote(branch)}`{other}{merged}, or deploy what is here with --local.",
        exit_code=ExitCode.USAGE,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_checkout(tree: WorkTree, repository: Repository, named: str | None = None) -> Checkout | None:
    """None where the work tree has no commit. `named` stands for the commit that is checked out; one that isn't on the
    branch that is checked out has no branch."""
    commit = named or tree.commit("HEAD")
    if commit is None:
        return None
    branch = tree.branch() if named is None or tree.contains("HEAD", named) else None
    now = tree.remote_branches(is_local=repository.is_tree)
    known = now or tree.tracked_branches()
    return Checkout(tree, branch, commit, known.tips, known.default, now is not None, repository.is_tree)
