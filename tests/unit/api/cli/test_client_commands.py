from __future__ import annotations

import json
import locale
import re
import shlex
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from api.cli.main import COMMANDS, cli
from api.cli.work_tree import WorkTree
from schemas.accounts import DEVICE_COOKIE

NOW = "2026-01-01T00:00:00Z"


def project(identifier: str, slug: str, **fields: object) -> dict[str, Any]:
    return {
        "id": identifier, "name": slug, "slug": slug, "repositoryUrl": "https://example.com/a.git",
        "repositoryBranch": "main", "rootDirectory": ".", "framework": None, "installCommand": None,
        "buildCommand": None, "outputDirectory": None, "nodeVersion": None, "url": f"http://{slug}.localhost:8080",
        "isPinned": False, "activeDeploymentId": None, "createdAt": NOW, "updatedAt": NOW, **fields,
    }  # fmt: skip


def deployment(identifier: str, status: str = "queued", **fields: object) -> dict[str, Any]:
    return {
        "id": identifier, "projectId": "proj_1", "project": {"name": "site", "slug": "site"}, "status": status,
        "branch": "main", "commitSha": None, "commitMessage": None, "url": "http://site.localhost:8080",
        "buildTimeSeconds": 2.0, "isActive": status == "ready", "isPreview": False, "createdAt": NOW,
        "startedAt": None, "finishedAt": None, "stages": [], "error": None, "queue": None, "createdBy": None,
        "trigger": "api", **fields,
    }  # fmt: skip


class Api(httpx.BaseTransport):
    """Answers from memory: projects, deployments, their log frames, and what was asked of it."""

    def __init__(self) -> None:
        self.projects: list[dict[str, Any]] = []
        self.deployments: list[dict[str, Any]] = []
        self.outcome: dict[str, Any] = deployment("depl_new", "ready")
        self.lines = ["hello"]
        self.bodies: list[tuple[str, str, Any]] = []
        self.cookies: list[str | None] = []
        self.overrides: dict[tuple[str, str], httpx.Response | Callable[[], httpx.Response]] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api")
        body = json.loads(request.content) if request.content else None
        self.bodies.append((request.method, path, body))
        self.cookies.append(request.headers.get("Cookie"))
        override = self.overrides.get((request.method, path))
        if override is not None:
            return override if isinstance(override, httpx.Response) else override()
        return self._route(request.method, path, body, request.url.params)

    def _route(self, method: str, path: str, body: Any, query: Mapping[str, str]) -> httpx.Response:
        match [method, *path.strip("/").split("/")]:
            case ["GET", "auth", "me"]:
                return ok({"id": "user_1", "email": "a@example.com", "name": "A", "plan": "FREE", "image": None})
            case ["GET", "projects"]:
                return ok(self.projects)
            case ["GET", "projects", "by-slug", slug]:
                return self._one(self.projects, "slug", slug)
            case ["GET", "projects", identifier]:
                return self._one(self.projects, "id", identifier)
            case ["POST", "projects"]:
                self.projects.append(
                    project("proj_1", body["name"], **{k: v for k, v in body.items() if k not in ("name", "slug")})
                )
                return ok(self.projects[-1])
            case ["POST", "deployments"]:
                self.deployments.insert(0, self.outcome)
                return ok({**self.outcome, "status": "queued"})
            case ["GET", "deployments"]:
                wanted = query.get("status", "").split(",")
                return ok([item for item in self.deployments if wanted == [""] or item["status"] in wanted])
            case ["GET", "deployments", _, "logs"]:
                return self._log_page(query)
            case ["GET", "deployments", _, "logs", "stream"]:
                return self._stream()
            case ["GET", "deployments", identifier]:
                return self._one(self.deployments, "id", identifier)
            case ["POST", "deployments", identifier, "rollback" | "promote"]:
                for item in self.deployments:
                    item["isActive"] = item["id"] == identifier
                return self._one(self.deployments, "id", identifier)
            case ["POST", "deployments", identifier, "cancel"]:
                return self._one(self.deployments, "id", identifier)
            case _:
                return failed(404, "NOT_FOUND", "There is no such route.")

    def _one(self, items: list[dict[str, Any]], key: str, value: str) -> httpx.Response:
        return next((ok(item) for item in items if item[key] == value), failed(404, "NOT_FOUND", "There is none."))

    def _lines(self) -> list[dict[str, Any]]:
        return [
            {"seq": seq, "ts": 0, "stage": "build", "stream": "stdout", "text": text}
            for seq, text in enumerate(self.lines, 1)
        ]

    def _log_page(self, query: Mapping[str, str]) -> httpx.Response:
        """Two lines a page, so that tests see paging."""
        size = min(2, int(query["limit"]))
        if query.get("direction") == "backward":
            before = int(query.get("after", len(self.lines) + 1))
            found = [item for item in reversed(self._lines()) if item["seq"] < before]
        else:
            found = [item for item in self._lines() if item["seq"] > int(query["after"])]
        page = found[:size]
        cursor = str(page[-1]["seq"]) if page else query.get("after")
        return ok(page, pagination={"hasMore": len(found) > size, "cursor": cursor})

    def _stream(self) -> httpx.Response:
        last = len(self.lines) + 2
        end = {"status": self.outcome["status"], "seq": last, "url": self.outcome["url"], "error": None}
        frames = [
            ("log", {"lines": self._lines()}, last - 2),
            ("status", {"seq": last - 1, "status": "building", "stage": "build", "attempt": 1}, last - 1),
            ("end", end, last),
        ]
        content = "".join(f"id: {seq}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for name, data, seq in frames)
        return httpx.Response(200, content=content, headers={"Content-Type": "text/event-stream"})

    def sent(self, method: str, path: str) -> list[Any]:
        return [body for asked, at, body in self.bodies if (asked, at) == (method, path)]


def ok(data: object, **meta: object) -> httpx.Response:
    return httpx.Response(200, json={"ok": True, "data": data, "meta": meta})


def failed(status: int, code: str, message: str) -> httpx.Response:
    return httpx.Response(status, json={"ok": False, "error": {"code": code, "message": message, "requestId": "req-7"}})


Run = Callable[..., Result]


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def run(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.chdir(directory)
    for name, value in {
        "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "CLOUDIFY_TOKEN": "cfy_secret",
        "CLOUDIFY_API_URL": "http://127.0.0.1:1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
        # No test asks a server of git; remotes are directories here.
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.https.allow", "GIT_CONFIG_VALUE_0": "never",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CLOUDIFY_HOME", raising=False)

    def invoke(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(cli, arguments, input=stdin, obj=api)

    return invoke


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def make_repository(branch: str = "main") -> str:
    git("init", "-q", "-b", branch)
    Path("index.html").write_text("hello")
    git("add", ".")
    git("commit", "-qm", "start")
    return git("rev-parse", "HEAD")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_an_unknown_command_is_wrong_usage(run: Run) -> None:
    assert run("deplyo").exit_code == 2


def test_help_imports_no_command_and_no_http_client() -> None:
    import sys

    code = "import sys, api.cli.main; print([m for m in ('httpx', 'rich', 'msgspec') if m in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert finished.stdout.strip() == "[]"


def test_deploy_makes_a_project_links_it_and_prints_only_the_address(run: Run, api: Api) -> None:
    make_repository()
    result = run("deploy")
    assert result.exit_code == 0, result.output
    assert result.stdout == "http://site.localhost:8080\n"
    assert "build    hello" in result.stderr
    [created] = api.sent("POST", "/projects")
    assert created["repositoryUrl"] == f"file://{Path.cwd()}"
    assert created["rootDirectory"] == "."
    assert git("config", "cloudify.project") == "proj_1"
    [asked] = api.sent("POST", "/deployments")
    assert asked == {
        "projectId": "proj_1", "branch": "main", "commitSha": None, "isPreview": False, "clean": False,
        "ifChanged": False, "priority": 5
    }  # fmt: skip
    assert run("deploy").exit_code == 0
    assert len(api.sent("POST", "/projects")) == 1


def test_deploy_takes_the_remote_and_a_folder_of_it(run: Run, api: Api) -> None:
    make_repository("trunk")
    git("remote", "add", "origin", "https://me:secret@example.com/me/repo.git")
    Path("docs").mkdir()
    result = run("deploy", "docs", "--yes")
    [created] = api.sent("POST", "/projects")
    assert created["repositoryUrl"] == "https://example.com/me/repo.git"
    assert created["repositoryBranch"] == "trunk"
    assert created["rootDirectory"] == "docs"
    assert created["name"] == "docs"
    assert "password" in result.stderr
    assert "trunk was never pushed or fetched here" in result.stderr


def make_clone(tmp_path: Path, *branches: str) -> str:
    """The current directory becomes a clone, whose origin has main and these branches, each one commit ahead."""
    commit = make_repository()
    for branch in branches:
        git("checkout", "-qb", branch)
        git("commit", "-qm", branch, "--allow-empty")
    git("checkout", "-q", "main")
    git("clone", "-q", "--bare", ".", str(tmp_path / "origin.git"))
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    git("fetch", "-q", "origin")
    return commit


def test_a_new_project_follows_the_default_branch_if_that_is_checked_out(run: Run, api: Api, tmp_path: Path) -> None:
    make_clone(tmp_path, "topic")
    assert run("deploy").exit_code == 0
    assert (api.sent("POST", "/projects")[-1]["repositoryBranch"], last_deployment(api)["branch"]) == (None, "main")
    # Another one that is checked out is named.
    git("config", "--unset", "cloudify.project")
    api.projects.clear()
    git("checkout", "-q", "topic")
    assert run("deploy").exit_code == 0
    assert api.sent("POST", "/projects")[-1]["repositoryBranch"] == "topic"


def test_production_is_the_default_branch_of_now(run: Run, api: Api, tmp_path: Path) -> None:
    make_clone(tmp_path, "topic")
    assert run("deploy").exit_code == 0
    git("checkout", "-q", "topic")
    refused = run("deploy")
    assert (refused.exit_code, "not the production branch of site, which is main" in refused.stderr) == (2, True)
    git("--git-dir", str(tmp_path / "origin.git"), "symbolic-ref", "HEAD", "refs/heads/topic")
    assert run("deploy").exit_code == 0
    assert (last_deployment(api)["branch"], last_deployment(api)["isPreview"]) == ("topic", False)
    # A HEAD that names no branch decides nothing.
    git("--git-dir", str(tmp_path / "origin.git"), "symbolic-ref", "HEAD", "refs/heads/absent")
    assert "which that is isn't known here" in run("deploy").stderr
    git("checkout", "-q", "--detach")
    assert run("deploy").exit_code == 0
    assert last_deployment(api)["isPreview"]


def test_what_was_seen_last_counts_where_the_remote_does_not_answer(run: Run, api: Api) -> None:
    make_repository("trunk")
    git("remote", "add", "origin", "https://example.com/a.git")
    api.projects = [project("proj_9", "docs", repositoryBranch=None, defaultBranch="trunk")]
    assert run("deploy", "--project", "docs").exit_code == 0
    api.projects[0]["defaultBranch"] = "main"
    assert run("deploy", "--project", "docs").exit_code == 2


def test_the_branch_of_a_work_tree_is_named(run: Run, api: Api) -> None:
    make_repository("trunk")
    git("checkout", "-q", "-b", "main")
    git("checkout", "-q", "--detach")
    run("deploy")
    assert api.sent("POST", "/projects")[-1]["repositoryBranch"] == "main"


def test_the_branch_of_a_project_that_names_none(run: Run, api: Api) -> None:
    api.projects = [project("proj_1", "site", repositoryBranch=None, defaultBranch="trunk")]
    assert run("ls").stdout.splitlines()[-1].split()[2:4] == ["trunk", "(default)"]
    listed = run("settings", "ls", "--project", "site").stdout
    assert re.search(r"repositoryBranch +\(the repository's default branch\)", listed)


def last_deployment(api: Api) -> dict[str, Any]:
    return api.sent("POST", "/deployments")[-1]


def test_a_detached_head_goes_to_production_when_only_its_branch_contains_it(
    run: Run, api: Api, tmp_path: Path
) -> None:
    commit = make_clone(tmp_path)
    assert run("deploy").exit_code == 0
    git("commit", "-qm", "newer", "--allow-empty")
    git("push", "-q", "origin", "main")
    git("checkout", "-q", "--detach", commit)
    for option in ((), ("--if-changed",)):
        result = run("deploy", *option)
        assert result.exit_code == 0
        sent = last_deployment(api)
        assert (sent["commitSha"], sent["branch"], sent["isPreview"]) == (commit, "main", False)
        assert "went to production, as main is the only branch" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("branches", [("feature",), ("a", "b", "c", "d")])
def test_a_detached_head_that_several_branches_contain_is_a_preview(
    run: Run, api: Api, tmp_path: Path, branches: tuple[str, ...]
) -> None:
    commit = make_clone(tmp_path, *branches)
    run("deploy")
    git("checkout", "-q", "--detach")
    result = run("deploy")
    sent = last_deployment(api)
    assert (sent["commitSha"], sent["branch"], sent["isPreview"]) == (commit, "main", True)
    assert "it is a preview" in result.stderr.splitlines()[-1]
    assert "--production" in result.stderr.splitlines()[-1]
    assert run("deploy", "--production").exit_code == 0
    assert (last_deployment(api)["commitSha"], last_deployment(api)["isPreview"]) == (commit, False)


def test_a_detached_head_of_another_branch_is_a_preview_of_it(run: Run, api: Api, tmp_path: Path) -> None:
    make_clone(tmp_path, "feature")
    run("deploy")
    git("checkout", "-q", "--detach", "feature")
    result = run("deploy")
    sent = last_deployment(api)
    assert (sent["commitSha"], sent["branch"], sent["isPreview"]) == (git("rev-parse", "HEAD"), "feature", True)
    assert "on feature, not on main" in result.stderr.splitlines()[-1]


def test_a_detached_head_that_was_never_pushed_is_a_preview(run: Run, api: Api, tmp_path: Path) -> None:
    make_clone(tmp_path)
    run("deploy")
    git("checkout", "-q", "--detach")
    git("commit", "-qm", "mine", "--allow-empty")
    result = run("deploy")
    assert (last_deployment(api)["commitSha"], last_deployment(api)["isPreview"]) == (git("rev-parse", "HEAD"), True)
    assert "no branch contains it" in result.stderr.splitlines()[-1]


def test_too_little_history_makes_no_production_deployment(
    run: Run, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = make_clone(tmp_path, "feature")
    clone = tmp_path / "shallow"
    git("clone", "-q", "--depth=1", (tmp_path / "origin.git").as_uri(), str(clone))
    monkeypatch.chdir(clone)
    git("checkout", "-q", "--detach")
    result = run("deploy", "--yes")
    assert (last_deployment(api)["commitSha"], last_deployment(api)["isPreview"]) == (commit, True)
    assert "feature may contain it" in result.stderr.splitlines()[-1]


def test_a_branch_that_was_never_pushed_is_refused_with_what_to_do(run: Run, api: Api, tmp_path: Path) -> None:
    make_clone(tmp_path)
    run("deploy")
    git("checkout", "-qb", "work", "--track", "origin/main")
    result = run("deploy", "--preview")
    assert result.exit_code == 2
    for words in ("never pushed", "git push -u origin work", "--branch main", "--local"):
        assert words in result.stderr
    assert len(api.sent("POST", "/deployments")) == 1
    git("push", "-q", "-u", "origin", "work")
    assert run("deploy", "--preview").exit_code == 0


def test_a_branch_that_was_deleted_after_its_merge_is_not_called_unpushed(run: Run, tmp_path: Path) -> None:
    make_clone(tmp_path, "feature")
    run("deploy")
    git("checkout", "-q", "feature")
    git("-C", str(tmp_path / "origin.git"), "branch", "-qD", "feature")
    refused = run("deploy", "--preview")
    assert refused.exit_code == 2
    assert "isn't there any more" in refused.stderr
    assert "never pushed" not in refused.stderr


@pytest.mark.parametrize("options", [(), ("--production",), ("--local",)])
def test_a_detached_commit_that_the_remote_may_lack_is_warned_about(
    run: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    make_clone(tmp_path)
    run("deploy")
    git("checkout", "-q", "--detach")
    assert "may not have it" not in run("deploy", "--preview").stderr
    git("commit", "-qm", "mine", "--allow-empty")
    assert ("may not have it; push it first" in run("deploy", "--yes", *options).stderr) == (options != ("--local",))


@pytest.mark.parametrize("branch", ["main", "next", None])
def test_a_named_commit_that_the_remote_may_lack_is_warned_about(
    run: Run, api: Api, tmp_path: Path, branch: str | None
) -> None:
    make_clone(tmp_path)
    run("deploy")
    options = ("--commit", "HEAD", "--yes", *(("--branch", branch) if branch else ()))
    assert "may not have it" not in run("deploy", *options).stderr
    git("commit", "-qm", "mine", "--allow-empty")
    assert "may not have it; push it first" in run("deploy", *options).stderr
    sent = last_deployment(api)
    assert (sent["branch"], sent["commitSha"]) == (branch or "main", git("rev-parse", "HEAD"))


def test_unpushed_work_is_judged_by_the_branch_that_is_fetched(run: Run, tmp_path: Path) -> None:
    make_clone(tmp_path)
    run("deploy")
    git("commit", "-qm", "mine", "--allow-empty")
    # Another remote, and another branch of the same one, have the commit; the branch that is deployed hasn't.
    git("clone", "-q", "--bare", ".", str(tmp_path / "mirror.git"))
    git("remote", "add", "mirror", str(tmp_path / "mirror.git"))
    git("fetch", "-q", "mirror")
    git("push", "-q", "origin", "main:other")
    assert "1 commit isn't pushed to main" in run("deploy").stderr
    git("push", "-q", "origin", "main")
    assert "pushed" not in run("deploy").stderr


def test_newer_commits_of_the_remote_are_mentioned(run: Run, tmp_path: Path) -> None:
    make_clone(tmp_path)
    run("deploy")
    git("commit", "-qm", "theirs", "--allow-empty")
    git("push", "-q", "origin", "main")
    git("reset", "-q", "--hard", "HEAD~1")
    assert "main of file://" in run("deploy").stderr
    assert "1 commit that" in run("deploy").stderr


@pytest.mark.parametrize("name", ["a b", "it's", "plain"])
def test_the_advice_about_ownership_can_be_pasted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    repository = tmp_path / name
    (repository / "below").mkdir(parents=True)
    monkeypatch.chdir(repository)
    make_repository()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    configuration = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    refused = run("deploy", f"{name}/below")
    assert refused.exit_code == 2
    [command] = re.findall(r"`(git config .*)` if", refused.stderr)
    subprocess.run(["sh", "-c", command], check=True)
    allowed = run("deploy", f"{name}/below")
    assert allowed.exit_code == 0, allowed.stderr


def test_deploy_warns_about_what_is_not_committed(run: Run) -> None:
    make_repository()
    Path("new.html").write_text("x")
    assert "1 file has changes that aren't committed" in run("deploy").stderr


@pytest.mark.parametrize(("status", "code"), [("ready", 0), ("failed", 1), ("cancelled", 5)])
def test_the_exit_code_says_how_it_ended(run: Run, api: Api, status: str, code: int) -> None:
    make_repository()
    api.outcome = deployment("depl_new", status)
    if status == "failed":
        api.outcome["error"] = {"code": "COMMAND_FAILED", "stage": "build", "message": "The command exited with 3."}
    result = run("deploy")
    assert result.exit_code == code
    assert bool(result.stdout) == (status == "ready")
    if status == "failed":
        assert "Failed in build (COMMAND_FAILED): The command exited with 3." in result.stderr
    assert run("logs", "-f", "depl_new").exit_code == code


@pytest.mark.parametrize(
    ("options", "fields", "is_live"),
    [
        ((), {"status": "ready"}, True),
        (("--production",), {"status": "ready"}, True),
        ((), {"status": "ready", "isActive": False}, False),
        ((), {"status": "failed"}, False),
        (("--production",), {"status": "cancelled"}, False),
        (("--if-changed",), {"status": "cancelled", "ignored": "Nothing has changed."}, False),
        (("--no-wait",), {"status": "ready"}, False),
    ],
)
def test_a_deployment_is_reported_as_in_production_only_if_it_is_served(
    run: Run, api: Api, tmp_path: Path, options: tuple[str, ...], fields: dict[str, Any], *, is_live: bool
) -> None:
    make_clone(tmp_path)
    run("deploy")
    git("checkout", "-q", "--detach")
    api.outcome = deployment("depl_new", **fields)
    said = run("deploy", *options).stderr
    assert ("it went to production" in said, "it is for production" in said) == (is_live, not is_live)


def test_warnings_are_at_the_end_of_what_is_said(run: Run, api: Api) -> None:
    make_repository()
    api.outcome = deployment("depl_new", "ready", warnings=["There is no index.html."])
    result = run("deploy")
    lines = result.stderr.splitlines()
    assert "Warning: there is no index.html." in lines[lines.index("Ready in 2.0 s.") + 1]
    assert result.exit_code == 0


def test_deploy_json_prints_one_object(run: Run, api: Api) -> None:
    make_repository()
    assert json.loads(run("deploy", "--json").stdout)["status"] == "ready"
    queued = json.loads(run("deploy", "--json", "--no-wait").stdout)
    assert (queued["id"], queued["status"]) == ("depl_new", "queued")


def test_deploy_outside_a_repository_says_what_to_do(run: Run) -> None:
    result = run("deploy")
    assert result.exit_code == 2
    assert "git init" in result.stderr


def test_deploy_without_a_commit_says_what_to_do(run: Run) -> None:
    git("init", "-q")
    result = run("deploy")
    assert result.exit_code == 2
    assert "git commit" in result.stderr


def test_another_branch_goes_to_production_only_on_purpose(run: Run, api: Api) -> None:
    make_repository()
    run("deploy")
    git("checkout", "-qb", "feature")
    refused = run("deploy")
    assert refused.exit_code == 2
    assert "--preview" in refused.stderr
    assert "--production" in refused.stderr
    assert run("deploy", "--preview").exit_code == 0
    assert api.sent("POST", "/deployments")[-1]["isPreview"] is True
    for option in ("--yes", "--production"):
        assert run("deploy", option).exit_code == 0
        sent = last_deployment(api)
        assert (sent["branch"], sent["isPreview"]) == ("feature", False)
    assert run("deploy", "--preview", "--production").exit_code == 2


def test_commits_are_sent_in_full(run: Run, api: Api) -> None:
    commit = make_repository()
    assert run("deploy", "--commit", commit[:7]).exit_code == 0
    assert api.sent("POST", "/deployments")[-1]["commitSha"] == commit
    assert run("deploy", "--commit", "nothing").exit_code == 2
    assert run("deploy", "--commit", "--output=/tmp/x").exit_code == 2


def test_a_named_commit_goes_to_production_only_on_purpose(run: Run, api: Api, tmp_path: Path) -> None:
    commit = make_clone(tmp_path, "feature")
    run("deploy")
    git("checkout", "-q", "feature")
    assert run("deploy", "--commit", "HEAD").exit_code == 2
    assert run("deploy", "--commit", "HEAD", "--production").exit_code == 0
    assert (last_deployment(api)["branch"], last_deployment(api)["isPreview"]) == ("feature", False)
    # Neither on another branch nor without one.
    for place in ("main", "--detach"):
        git("checkout", "-q", place)
        assert run("deploy", "--commit", "feature").exit_code == 0
        assert (last_deployment(api)["branch"], last_deployment(api)["isPreview"]) == ("feature", True)
    git("checkout", "-q", "main")
    assert run("deploy", "--commit", commit).exit_code == 0
    assert (last_deployment(api)["branch"], last_deployment(api)["isPreview"]) == ("main", False)


def test_the_first_deployment_of_a_commit_takes_the_branch(run: Run, api: Api) -> None:
    make_repository("master")
    assert run("deploy", "--commit", "HEAD").exit_code == 0
    assert api.sent("POST", "/projects")[0]["repositoryBranch"] == "master"


OTHER = "https://example.com/other.git"


@pytest.mark.parametrize("state", ["main", "--detach", "-bwork"])
@pytest.mark.parametrize("options", [("--project", "docs"), ()])
def test_a_checkout_of_another_repository_decides_nothing(
    run: Run, api: Api, tmp_path: Path, options: tuple[str, ...], state: str
) -> None:
    make_clone(tmp_path)
    api.projects = [project("proj_9", "docs", repositoryUrl=OTHER, repositoryBranch="trunk")]
    if not options:
        git("config", "cloudify.project", "proj_9")
    git("checkout", "-q", state)
    Path("new.html").write_text("x")
    for preview in ((), ("--preview",)):
        result = run("deploy", *options, *preview)
        assert result.exit_code == 0, result.stderr
        sent = last_deployment(api)
        assert (sent["branch"], sent["commitSha"], sent["isPreview"]) == (None, None, bool(preview))
        assert f"docs deploys {OTHER}; the checkout here is of another repository" in result.stderr
        assert "Warning" not in result.stderr
    assert WorkTree(Path.cwd(), Path.cwd()).linked_project() == (None if options else "proj_9")


def test_what_is_named_of_another_repository_is_deployed(run: Run, api: Api, tmp_path: Path) -> None:
    commit = make_clone(tmp_path)
    api.projects = [project("proj_9", "docs", repositoryUrl=OTHER)]
    named = ("--branch", "next", "--commit", commit, "--preview")
    result = run("deploy", "--project", "docs", *named)
    assert (last_deployment(api)["branch"], last_deployment(api)["commitSha"]) == ("next", commit)
    assert "may not have it" not in result.stderr
    # Short forms are of the checkout.
    assert run("deploy", "--project", "docs", "--commit", "HEAD").exit_code == 2


@pytest.mark.parametrize("remote", ["https://me@EXAMPLE.com:443/a.git/", "http://example.com/a", "/srv/b/../a.git"])
def test_another_address_of_the_repository_lets_the_checkout_decide(run: Run, api: Api, remote: str) -> None:
    commit = make_repository()
    git("remote", "add", "origin", remote)
    git("checkout", "-q", "--detach")
    address = "file:///srv/a" if remote.startswith("/") else "ssh://git@example.com/a"
    api.projects = [project("proj_9", "docs", repositoryUrl=address)]
    assert "another repository" not in run("deploy", "--project", "docs").stderr
    assert last_deployment(api)["commitSha"] == commit
    assert git("config", "cloudify.project") == "proj_9"


def test_a_project_of_the_directory_itself_deploys_what_was_never_pushed(run: Run, api: Api, tmp_path: Path) -> None:
    make_clone(tmp_path)
    assert run("deploy", "--local").exit_code == 0
    git("checkout", "-qb", "work")
    result = run("deploy", "--preview")
    assert last_deployment(api)["branch"] == "work"
    assert f"site deploys file://{Path.cwd()}" in result.stderr


def test_a_second_work_tree_is_of_the_same_repository(
    run: Run, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_repository()
    run("deploy")
    git("worktree", "add", "-q", "-b", "work", str(tmp_path / "second"))
    monkeypatch.chdir(tmp_path / "second")
    assert run("deploy", "--preview").exit_code == 0
    assert last_deployment(api)["branch"] == "work"


def test_a_directory_is_linked_only_to_what_deploys_it(run: Run, api: Api) -> None:
    make_repository()
    api.projects = [project("proj_9", "docs", repositoryUrl=OTHER)]
    assert run("deploy", "--project", "docs", "--local").exit_code == 2
    assert WorkTree(Path.cwd(), Path.cwd()).linked_project() is None


def test_a_project_of_the_same_name_from_elsewhere_is_left_alone(run: Run, api: Api) -> None:
    api.projects = [project("proj_9", "site")]
    make_repository()
    result = run("deploy")
    assert result.exit_code == 2
    assert "--name" in result.stderr
    assert api.sent("POST", "/deployments") == []


def test_a_link_to_a_deleted_project_is_replaced(run: Run, api: Api) -> None:
    make_repository()
    git("config", "cloudify.project", "proj_gone")
    assert run("deploy").exit_code == 0
    assert git("config", "cloudify.project") == "proj_1"


@pytest.mark.parametrize("name", ["", "--api-url", "--profile"])
def test_a_deployment_to_another_api_leaves_the_link_alone(
    run: Run, api: Api, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_repository()
    monkeypatch.delenv("CLOUDIFY_API_URL")
    for url in ("http://127.0.0.1:2", "http://127.0.0.1:1"):
        assert run("login", "--token", "cfy_mine", "--api-url", url).exit_code == 0
    assert run("deploy").exit_code == 0
    link = git("config", "--get-regexp", "cloudify")
    assert "http://127.0.0.1:1" in link
    # An id that means something else there.
    api.projects = [project("proj_2", "site", repositoryUrl=f"file://{Path.cwd()}"), project("proj_1", "theirs")]
    other = [name, "127.0.0.1:2" if name == "--profile" else "http://127.0.0.1:2"] if name else []
    if not name:
        monkeypatch.setenv("CLOUDIFY_API_URL", "http://127.0.0.1:2")
    deployed = run("deploy", *other)
    assert deployed.exit_code == 0
    assert "stays linked" in deployed.stderr
    assert last_deployment(api)["projectId"] == "proj_2"
    assert git("config", "--get-regexp", "cloudify") == link
    refused = run("inspect", *other)
    assert refused.exit_code == 2
    assert "another API" in refused.stderr
    if name:
        assert run("deploy").exit_code == 0
        assert last_deployment(api)["projectId"] == "proj_1"


@pytest.mark.parametrize("before", ["https://example.com/a.git", "https://example.com/me/shop.git"])
def test_changing_the_repository_of_a_project_needs_yes(run: Run, api: Api, before: str) -> None:
    api.projects = [project("proj_1", "shop", repositoryUrl=before)]
    api.overrides["PATCH", "/projects/proj_1"] = lambda: ok(project("proj_1", "shop"))
    arguments = ["deploy", "--project", "shop", "--repository", "git@example.com:me/shop.git", "--branch", "main"]
    assert run(*arguments).exit_code == 2
    assert run(*arguments, "--yes").exit_code == 0
    assert api.sent("PATCH", "/projects/proj_1") == [{"repositoryUrl": "ssh://git@example.com/me/shop.git"}]


def test_logs_are_made_harmless_but_kept_whole_in_json(run: Run, api: Api) -> None:
    api.deployments = [deployment("depl_1", "ready")]
    api.lines = ["\x1b[2J\x1b[31mred\x07", "two"]
    plain = run("logs", "depl_1")
    assert plain.stdout == "build    red␇\nbuild    two\n"
    assert run("logs", "depl_1", "--tail", "1").stdout == "build    two\n"
    lines = [json.loads(line) for line in run("logs", "depl_1", "--json").stdout.splitlines()]
    assert lines[0] == {
        "event": "log", "seq": 1, "ts": 0, "stage": "build", "stream": "stdout", "text": "\x1b[2J\x1b[31mred\x07"
    }  # fmt: skip
    followed = [json.loads(line) for line in run("logs", "-f", "depl_1", "--json").stdout.splitlines()]
    assert [line["event"] for line in followed] == ["log", "log", "status", "end"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_logs_are_read_page_by_page_from_both_ends(run: Run, api: Api, count: int) -> None:
    api.deployments = [deployment("depl_1", "ready")]
    api.lines = [f"line {number}" for number in range(1, count + 1)]
    shown = [f"build    {text}" for text in api.lines]
    assert run("logs", "depl_1").stdout.splitlines() == shown
    assert run("logs", "depl_1", "--after", "2").stdout.splitlines() == shown[2:]
    assert run("logs", "depl_1", "--tail", "3").stdout.splitlines() == shown[-3:]
    assert run("logs", "depl_1", "--tail", "3", "--after", "4").stdout.splitlines() == shown[4:]


def test_ctrl_c_stops_watching_and_cancels_nothing(run: Run, api: Api) -> None:
    api.deployments = [deployment("depl_1", "building")]

    class Interrupted(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            line = {"seq": 1, "ts": 0, "stage": "build", "stream": "stdout", "text": "one"}
            yield f"event: log\nid: 1\ndata: {json.dumps({'lines': [line]})}\n\n".encode()
            raise KeyboardInterrupt

    api.overrides["GET", "/deployments/depl_1/logs/stream"] = lambda: httpx.Response(
        200, stream=Interrupted(), headers={"Content-Type": "text/event-stream"}
    )
    result = run("logs", "-f", "depl_1")
    assert result.exit_code == 130
    assert "cloudify logs -f depl_1 --after 1" in result.stderr
    assert [path for method, path, _ in api.bodies if method == "POST"] == []


def test_errors_are_a_sentence_with_the_request_id(run: Run, api: Api) -> None:
    result = run("inspect", "depl_none")
    assert result.exit_code == 4
    assert result.stderr == "Error: There is none.\nRequest id: req-7\n"
    described = run("inspect", "depl_none", "--json")
    assert json.loads(described.stdout) == {
        "ok": False,
        "error": {"code": "NOT_FOUND", "message": "There is none.", "status": 404, "requestId": "req-7"},
    }


def test_every_wrong_field_is_named(run: Run, api: Api) -> None:
    make_repository()
    fields = [{"field": "name", "message": "is too long"}, {"field": "rootDirectory", "message": "leaves the tree"}]
    error = {"code": "VALIDATION_ERROR", "message": "No.", "requestId": "r", "details": {"fields": fields}}
    api.overrides["POST", "/projects"] = httpx.Response(422, json={"ok": False, "error": error})
    result = run("deploy")
    assert result.exit_code == 2
    assert "name: is too long" in result.stderr
    assert "rootDirectory: leaves the tree" in result.stderr


def test_without_a_token_nothing_is_asked(run: Run, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDIFY_TOKEN")
    result = run("ls")
    assert result.exit_code == 3
    assert "cloudify login" in result.stderr
    assert api.bodies == []


def test_ls_lists_projects_and_deployments(run: Run, api: Api) -> None:
    api.projects = [project("proj_1", "site", name="My\x1b[2J site", activeDeploymentId="depl_1")]
    api.deployments = [deployment("depl_1", "ready")]
    assert "My site" in run("ls").stdout
    assert "depl_1" in run("ls", "site").stdout
    assert json.loads(run("ls", "--json").stdout)["projects"][0]["slug"] == "site"
    assert json.loads(run("ls", "site", "--json").stdout)["deployments"][0]["id"] == "depl_1"
    assert run("ls", "nothing").exit_code == 4


def test_rollback_takes_the_one_before_the_active(run: Run, api: Api) -> None:
    api.projects = [project("proj_1", "site")]
    api.deployments = [
        deployment("depl_4", "failed"), deployment("depl_3", "ready", isActive=False), deployment("depl_2", "ready"),
        deployment("depl_1", "ready", isActive=False),
    ]  # fmt: skip
    result = run("rollback", "site")
    assert result.exit_code == 0, result.output
    assert api.sent("POST", "/deployments/depl_1/rollback") == [None]
    assert run("rollback", "site").exit_code == 4
    assert run("rollback", "--to", "depl_3").exit_code == 0
    assert run("promote", "depl_2", "--json").exit_code == 0


def test_cancel_and_inspect_take_the_latest_of_the_linked_project(run: Run, api: Api) -> None:
    make_repository()
    assert run("cancel").exit_code == 2
    run("deploy", "--no-wait")
    assert json.loads(run("cancel", "--json").stdout)["id"] == "depl_new"
    assert "Deployment depl_new" in run("inspect").stdout


def test_open_prints_the_address_of_what_is_live(run: Run, api: Api) -> None:
    api.projects = [project("proj_1", "site", activeDeploymentId="depl_1"), project("proj_2", "empty")]
    assert run("open", "site").stdout == "http://site.localhost:8080\n"
    assert run("open", "empty").exit_code == 4
    api.projects[0]["url"] = "file:///etc/passwd"
    assert run("open", "site").exit_code == 1


def test_environment_variables_are_set_listed_and_removed(run: Run, api: Api) -> None:
    api.projects = [project("proj_1", "site")]
    variable = {
        "key": "API_KEY", "targets": ["production"], "stages": ["install"], "createdAt": NOW, "updatedAt": NOW
    }  # fmt: skip
    api.overrides["PUT", "/projects/proj_1/env/API_KEY"] = lambda: ok(variable)
    api.overrides["GET", "/projects/proj_1/env"] = lambda: ok([variable])
    api.overrides["DELETE", "/projects/proj_1/env/API_KEY"] = lambda: httpx.Response(204)
    only = ["--target", "production", "--stage", "install"]
    result = run("env", "set", "API_KEY", "--project", "site", *only, stdin="s3cret\n")
    assert result.exit_code == 0, result.output
    assert "s3cret" not in result.output
    assert api.sent("PUT", "/projects/proj_1/env/API_KEY") == [
        {"value": "s3cret", "targets": ["production"], "stages": ["install"]}
    ]
    assert re.search("API_KEY +production +install", run("env", "ls", "--project", "site").stdout)
    assert run("env", "rm", "API_KEY", "--project", "site", "--json").stdout == '{"removed":["API_KEY"]}\n'
    assert run("env", "set", "1A=x", "--project", "site").exit_code == 2


def test_credentials_of_a_repository_are_set_shown_and_removed(run: Run, api: Api, tmp_path: Path) -> None:
    api.projects = [project("proj_1", "site")]
    path = "/projects/proj_1/repository-credentials"
    token = {
        "kind": "token", "host": "https://git.example.com:443", "username": "oauth2", "fingerprint": None,
        "publicKey": None, "updatedAt": NOW,
    }  # fmt: skip
    api.overrides["PUT", path] = api.overrides["GET", path] = lambda: ok(token)
    api.overrides["DELETE", path] = lambda: httpx.Response(204)
    result = run("credentials", "set", "--username", "oauth2", "--project", "site", stdin="s3cret\n")
    assert result.exit_code == 0, result.output
    assert "s3cret" not in result.output
    assert api.sent("PUT", path) == [{"kind": "token", "username": "oauth2", "token": "s3cret", "privateKey": None}]
    assert "a token of oauth2" in run("credentials", "show", "--project", "site").stdout
    assert run("credentials", "rm", "--project", "site", "--json").stdout == '{"removed":true}\n'
    key = token | {"kind": "sshKey", "username": None, "fingerprint": "SHA256:abc", "publicKey": "ssh-ed25519 AAAA"}
    api.overrides["PUT", path] = lambda: ok(key)
    (tmp_path / "deploy_key").write_text("private half")
    result = run("credentials", "set", "--key", str(tmp_path / "deploy_key"), "--project", "site")
    assert result.exit_code == 0, result.output
    assert "ssh-ed25519 AAAA" in result.output
    assert "private half" not in result.output
    sent = {"kind": "sshKey", "username": None, "token": None, "privateKey": "private half"}
    assert api.sent("PUT", path)[-1] == sent
    assert run("credentials", "set", "--key", str(tmp_path / "absent"), "--project", "site").exit_code == 2


def test_variables_for_development_are_pulled_into_a_private_file(run: Run, api: Api, tmp_path: Path) -> None:
    api.projects = [project("proj_1", "site")]
    values = {"PLAIN": "a b", "QUOTED": "it's", "PRICE": "$5", "LINES": "one\ntwo"}
    data = {"variables": values, "withheld": ["API_KEY"]}
    api.overrides["GET", "/projects/proj_1/env/for-development"] = lambda: ok(data)
    path = tmp_path / "settings.env"
    result = run("env", "pull", str(path), "--project", "site")
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "PLAIN='a b'\n" in text
    assert "QUOTED=`it's`\n" in text
    assert "LINES='one\ntwo'\n" in text
    assert "# Tools read PRICE differently" in text
    assert "PRICE='$5'\n" in text
    assert "read PRICE differently" in result.stderr
    assert "# API_KEY" in text
    assert "API_KEY=" not in text
    # Its own file is replaced, somebody else's is not.
    assert run("env", "pull", str(path), "--project", "site").exit_code == 0
    path.write_text("MINE=1\n")
    assert run("env", "pull", str(path), "--project", "site").exit_code == 2
    assert path.read_text() == "MINE=1\n"
    assert run("env", "pull", str(path), "--project", "site", "--force").exit_code == 0
    assert "PLAIN" in path.read_text()


def test_files_are_utf_8_in_any_locale_and_whole_or_absent(run: Run, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.projects = [project("proj_1", "site")]
    pulled = {"variables": {"NAME": "naïve 語"}, "withheld": []}
    api.overrides["GET", "/projects/proj_1/env/for-development"] = lambda: ok(pulled)
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        result = run("env", "pull", "a.env", "--project", "site")
        git("init", "-q", "-b", "naïve")
        assert WorkTree(Path.cwd(), Path.cwd()).branch() == "naïve"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert result.exit_code == 0, result.output
    assert "NAME='naïve 語'\n" in Path("a.env").read_text(encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    assert run("env", "pull", "b.env", "--project", "site").exit_code == 1
    assert run("login", "--token", "cfy_mine").exit_code == 1
    assert [path.name for path in Path().iterdir() if ".env" in path.name] == ["a.env"]
    assert not [path for path in Path("../config/cloudify").iterdir() if "cfy_mine" in path.read_text()]


def test_login_stores_the_token_it_was_given(run: Run, api: Api, tmp_path: Path) -> None:
    result = run("login", "--token", "-", stdin="cfy_mine\n")
    assert result.exit_code == 0, result.output
    path = tmp_path / "config/cloudify/credentials.json"
    login = {"name": "127.0.0.1:1", "apiUrl": "http://127.0.0.1:1", "token": "cfy_mine"}
    assert json.loads(path.read_text()) == {"current": "127.0.0.1:1", "profiles": [login]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "cfy_mine" not in result.output


def test_login_makes_a_token_with_a_password(run: Run, api: Api, tmp_path: Path) -> None:
    token = {
        "id": "tok_1", "name": "x", "prefix": "cfy_a", "scopes": [], "expiresAt": None, "lastUsedAt": None,
        "createdAt": NOW, "token": "cfy_made",
    }  # fmt: skip
    api.overrides["POST", "/auth/login"] = lambda: ok({"accessToken": "jwt"})
    api.overrides["POST", "/auth/tokens"] = lambda: ok(token)
    result = run("login", "--email", "a@example.com", "--password-stdin", stdin="correct horse\n")
    assert result.exit_code == 0, result.output
    assert api.sent("POST", "/auth/login") == [{"email": "a@example.com", "password": "correct horse"}]
    assert "cfy_made" in (tmp_path / "config/cloudify/credentials.json").read_text()
    assert "cfy_made" not in result.output
    assert run("login").exit_code == 2


def test_a_login_is_known_again_at_the_next_one(run: Run, api: Api) -> None:
    token = {
        "id": "tok_1", "name": "x", "prefix": "cfy_a", "scopes": [], "expiresAt": None, "lastUsedAt": None,
        "createdAt": NOW, "token": "cfy_made",
    }  # fmt: skip
    cookies: list[str | None] = []

    def signed_in() -> httpx.Response:
        cookies.append(api.cookies[-1])
        answer = ok({"accessToken": "jwt"})
        answer.headers["Set-Cookie"] = f"{DEVICE_COOKIE}=device-{len(cookies)}; Path=/; Secure; HttpOnly"
        return answer

    api.overrides["POST", "/auth/login"] = signed_in
    api.overrides["POST", "/auth/tokens"] = lambda: ok(token)
    for api_url in ("http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:1"):
        arguments = ("--email", "a@example.com", "--password-stdin", "--api-url", api_url)
        result = run("login", *arguments, stdin="correct horse\n")
        assert result.exit_code == 0, result.output
    assert cookies == [None, f"{DEVICE_COOKIE}=device-1", None, f"{DEVICE_COOKIE}=device-2"]


def test_a_refused_token_is_not_stored(run: Run, api: Api, tmp_path: Path) -> None:
    api.overrides["GET", "/auth/me"] = lambda: failed(401, "UNAUTHENTICATED", "The token is not known.")
    assert run("login", "--token", "cfy_bad").exit_code == 3
    assert not (tmp_path / "config").exists()
    assert run("whoami").exit_code == 3


@pytest.mark.parametrize("profile", ["127.0.0.1:1", "of staging"])
def test_the_advice_about_a_refused_token_can_be_pasted(
    run: Run, api: Api, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    make_repository()
    for name in ("CLOUDIFY_TOKEN", "CLOUDIFY_API_URL"):
        monkeypatch.delenv(name)
    run("login", "--token", "cfy_old", "--api-url", "http://127.0.0.1:1", "--profile", profile)
    run("deploy")
    run("login", "--token", "cfy_other", "--api-url", "http://127.0.0.1:2")
    api.overrides["GET", "/projects/proj_1"] = lambda: failed(401, "SESSION_REVOKED", "The token was revoked.")
    refused = run("inspect")
    assert refused.exit_code == 3
    [command] = re.findall(r"`cloudify (login .*?)`", refused.stderr)
    for arguments in (shlex.split(command), ["login"], ["login", "--api-url", "http://127.0.0.1:1"]):
        assert run(*arguments, "--token", "cfy_new").exit_code == 0
        assert json.loads(run("whoami", "--json").stdout)["profile"] == profile
    assert run("inspect", "--token", "x").stderr.count("--token") == 1
    monkeypatch.setenv("CLOUDIFY_TOKEN", "cfy_env")
    assert "Set CLOUDIFY_TOKEN to a valid token" in run("inspect").stderr


def test_whoami_names_account_and_source(run: Run) -> None:
    result = run("whoami")
    assert result.stdout == "a@example.com (FREE) at http://127.0.0.1:1\n"
    assert json.loads(run("whoami", "--json").stdout)["tokenSource"] == "CLOUDIFY_TOKEN"
