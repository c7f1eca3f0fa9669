"""What tools print when they fail, and what a person can do about it: a table by subject.

The output is a tenant's, so every pattern takes linear time: no repetition in it is unbounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Advice:
    """`printed`: a pattern in the output; `kind`: the only command that it is said of, None for both. `{it}` in the
    text is what the first group of the pattern found, or `it`."""

    printed: re.Pattern[bytes]
    text: str
    kind: Literal["install", "build"] | None = None
    it: str = ""

    def said_of(self, match: re.Match[bytes]) -> str:
        found = next((group for group in match.groups() if group), b"")
        # It is a tenant's, and becomes a part of a sentence.
        name = re.sub(r"[^ -_a-~]", "?", found.decode("ascii", errors="replace").strip().rstrip("."))
        return self.text.replace("{it}", f"`{name}`" if name else self.it)


def advice(printed: bytes, text: str, kind: Literal["install", "build"] | None = None, *, it: str = "") -> Advice:
    return Advice(re.compile(printed), text, kind, it)


_ANOTHER_NODE = (
    "name another version in .nvmrc (`22`, for instance), in `engines` of package.json, or with"
    " `cloudify settings set nodeVersion 22`"
)
_LINUX_PACKAGES = (
    "delete node_modules and the lockfile where you develop, install again, and commit the new lockfile; then it has"
    " the packages of all systems"
)
_SKIP = "`cloudify env set {} --stage install` (value: {})"

NODE_ADVICE: tuple[Advice, ...] = (
    advice(
        rb"[Rr]equires? (?:a minimum |at least )?[Nn]ode(?:\.js)?\b|[Nn]ode(?:\.js)? version [^\n]{0,80}"
        rb"(?:is|are) (?:not supported|required)|[Mm]inimum Node\.js version|is not supported by Astro"
        rb"|crypto\.hash is not a function|ERR_REQUIRE_ESM|Unsupported engine\b|Unsupported Node\.js version",
        f"A program needs another Node than the one that runs it: {_ANOTHER_NODE}.",
    ),
    advice(
        rb"Node Sass does not yet support your current environment|Unsupported runtime \(\d|primordials is not defined",
        "A package is too old for this Node. Replace node-sass by sass (`npm uninstall node-sass && npm install sass`)"
        " and update gulp to version 4 or later; until then, ask for Node 16 in .nvmrc.",
    ),
    advice(
        rb"Cannot find (?:module|native binding)[^\n]{0,80}(?:linux-(?:x64|arm64)|npm has a bug)"
        rb"|Could not load the \"sharp\" module|The package \"@esbuild/linux-[a-z0-9]{1,10}\" could not be found"
        rb"|[Ff]ailed to (?:find|load)[^\n]{0,60}linux-(?:x64|arm64)|\.linux-(?:x64|arm64)-(?:gnu|musl)\.node",
        "A package's program for Linux is missing, mostly because the lockfile was made on another system:"
        f" {_LINUX_PACKAGES}.",
    ),
    advice(
        rb"Unsupported URL Type \"(?:workspace|catalog|link):|EUNSUPPORTEDPROTOCOL",
        "The project is one of pnpm, yarn or bun, whose versions (`workspace:`, `catalog:`) npm doesn't know. Name the"
        " manager in `packageManager` of package.json, or with `cloudify env set CLOUDIFY_PACKAGE_MANAGER`; where it is"
        " part of a workspace, the root directory's lockfile has to be committed.",
        "install",
    ),
    advice(
        rb"This project is configured to use (?:npm|pnpm|yarn|bun)|ERR_PNPM_BAD_PM_VERSION|EBADDEVENGINES"
        rb"|only-allow|Use \"(?:npm|pnpm|yarn|bun) install\" for installation in this project",
        "The project insists on another package manager: name it in `packageManager` of package.json, or with"
        " `cloudify env set CLOUDIFY_PACKAGE_MANAGER`, and commit its lockfile.",
        "install",
    ),
    advice(
        rb"ERR_PNPM_PEER_DEP_ISSUES",
        "Peer dependencies contradict each other: fix the versions that the log names and commit pnpm-lock.yaml, or put"
        " `strict-peer-dependencies=false` into .npmrc.",
        "install",
    ),
    advice(
        rb"ERR_PNPM_IGNORED_BUILDS",
        "pnpm runs no scripts of packages that the project didn't allow: run `pnpm approve-builds` where you develop,"
        " and commit what it changes.",
        "install",
    ),
    advice(
        rb"EINTEGRITY|ERR_PNPM_TARBALL_INTEGRITY|YN0018|[Ii]ntegrity check(?:sum)? failed"
        rb"|THESE PACKAGES DO NOT MATCH THE HASHES|[Hh]ash mismatch for",
        "A package isn't the one that the lockfile names by its hash. If it was published again, delete its entry from"
        " the lockfile, install again where you develop and commit the lockfile; otherwise ask why the registry"
        " changed.",
        "install",
    ),
    advice(
        rb"npm (?:ERR!|error) code E404|ERR_PNPM_FETCH_404|YN0035|is not in this registry|error: GET [^\n]{1,200} - 404"
        rb"|https?://[^\s\"]{1,200}: Not found",
        "The registry has no such package or version: correct its name, or another version if that one was withdrawn. A"
        " private package also answers this way: name its registry in .npmrc with `${NPM_TOKEN}` and set the token,"
        " `cloudify env set NPM_TOKEN --stage install`.",
        "install",
    ),
    advice(
        rb"No matching version found for ([^\s'\"]{1,120})|ERR_PNPM_NO_MATCHING_VERSION|YN0082"
        rb"|Couldn't find any versions for (\"[^\"\n]{1,120}\" that matches \"[^\"\n]{1,60}\")"
        rb"|No version matching (\"[^\"\n]{1,120}\" found for specifier \"[^\"\n]{1,60}\")"
        rb"|npm (?:ERR!|error) code ETARGET",
        "The registry that installs use has no version that fits {it}: name one that exists (`npm view NAME versions`),"
        " install where you develop and commit the lockfile.",
        "install",
        it="a package",
    ),
)

DOWNLOAD_ADVICE: tuple[Advice, ...] = (
    advice(
        rb"Failed to set up [Cc]hrom|PUPPETEER_SKIP_(?:CHROMIUM_)?DOWNLOAD|puppeteer[^\n]{0,80}(?:ERR!|rror)",
        "Puppeteer downloads a browser, which a site mostly doesn't need: leave it out with"
        f" {_SKIP.format('PUPPETEER_SKIP_DOWNLOAD', 'true')}.",
        "install",
    ),
    advice(
        rb"Failed to download (?:Chrom|Firefox|WebKit|FFmpeg)|PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD",
        "Playwright downloads browsers, which a site mostly doesn't need: leave them out with"
        f" {_SKIP.format('PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD', '1')}.",
        "install",
    ),
    advice(
        rb"Cypress App could not be downloaded|CYPRESS_INSTALL_BINARY",
        f"Cypress downloads a program for tests: leave it out with {_SKIP.format('CYPRESS_INSTALL_BINARY', '0')}.",
        "install",
    ),
    advice(
        rb"sentry-cli[^\n]{0,80}(?:[Ee]rror|[Ff]ailed)|Unable to download sentry-cli|SENTRYCLI_SKIP_DOWNLOAD",
        "Sentry's command is downloaded by the install: leave it out with"
        f" {_SKIP.format('SENTRYCLI_SKIP_DOWNLOAD', '1')}.",
        "install",
    ),
    advice(
        rb"hugo-(?:bin|extended)[^\n]{0,120}(?:[Ff]ailed|[Ee]rror|ECONN|ENOTFOUND|40[34])|Hugo installation failed",
        "The package hugo-bin or hugo-extended downloads Hugo from another host. Builds have Hugo without it: remove"
        " the package, and name the version with `cloudify env set HUGO_VERSION` or in a configuration file.",
    ),
    advice(
        rb"sharp: Installation error|sharp: Please (?:add|see)|electron@[^\n]{0,80}postinstall"
        rb"|Failed to install package \"@esbuild",
        "A package downloads its program while it is installed, and didn't get it. Newer versions come with it as"
        f" packages of the registry: update the package; then {_LINUX_PACKAGES}.",
        "install",
    ),
)

PYTHON_ADVICE: tuple[Advice, ...] = (
    advice(
        rb"requires a different Python|does not satisfy Python|is not (?:supported|allowed) by the project"
        rb"|Requires-Python|requires Python ?[<>=!~]|No interpreter found for Python|No compatible Python",
        "A package needs another Python than the one that runs: name the version in .python-version (such as `3.13`),"
        " or with `requires-python` in pyproject.toml; or name an older version of the package.",
    ),
    advice(
        rb"No matching distribution found for ([^\s'\"]{1,120})"
        rb"|(?:No solution found when resolving[^\n]{0,60}\n[^\n]{0,20})?Because ([\w.\[\]-]{1,100}) was not found in"
        rb"|was not found in the package registry|Could not find a version that satisfies"
        rb"|there (?:is|are) no versions? of ([^\s,]{1,120})|No solution found when resolving",
        "The package index that installs use has no version of {it} that fits this Python: correct the name or"
        " version, or name another Python in .python-version. A private index is named by a variable, such as"
        " `cloudify env set UV_INDEX --stage install`.",
        "install",
        it="a package",
    ),
    advice(
        rb"Unrecognised theme name: '([^'\n]{1,80})'|The \"([^\"\n]{1,80})\" plugin is not installed"
        rb"|Could not import extension ([\w.]{1,80})|no theme named '?([\w.-]{1,80})"
        rb"|No module named '([\w.]{1,80})'|Unrecognised theme name",
        "{it} isn't installed: add the Python package that brings this theme, plugin or module to requirements.txt or"
        " docs/requirements.txt (mkdocs-material for the theme `material`, for instance).",
        "build",
        it="A part of the site",
    ),
    advice(
        rb"Aborted with \d{1,6} warnings? in strict mode|warnings treated as errors|build finished with problems",
        "The build takes warnings for errors: fix those that the log lists, or leave `--strict` or `-W` out of the"
        " build command.",
        "build",
    ),
    advice(
        rb"command '[^'\n]{0,80}(?:gcc|cc|g\+\+)' failed|unable to execute '?(?:gcc|cc)|linker `cc` not found"
        rb"|fatal error: [\w./-]{1,80}\.h: No such file|pg_config executable not found",
        "A Python package has to be compiled, and a compiler or a system library is missing on the worker's machine:"
        " use a version that comes compiled (`name-binary`, or a newer one), or another Python in .python-version.",
        "install",
    ),
)

SITE_ADVICE: tuple[Advice, ...] = (
    advice(
        rb"this feature is not available in your current Hugo version|requires Hugo version"
        rb"|is not compatible with this Hugo version|function \"[\w.]{1,60}\" not defined"
        rb"|deprecated in Hugo v[^\n]{1,60}and was removed"
        # A site of an older Hugo.
        rb"|is not a valid cache name|can't evaluate field \w{1,60} in type",
        "The site is for another version of Hugo: name it with `cloudify env set HUGO_VERSION --stage install` (such as"
        " 0.152.2), or in a configuration file.",
        "build",
    ),
    advice(
        rb"module \"[^\"\n]{1,200}\" not found|found no layout file for|Unable to locate theme directory",
        "Hugo's theme is missing: add it as a git submodule and commit .gitmodules, or name it as a module in go.mod.",
        "build",
    ),
    advice(
        rb"[Mm]issing script:? \"?build|Command \"build\" not found|ERR_PNPM_NO_SCRIPT|Missing script \"build\"",
        "package.json has no such script: set the project's build command to one that it has, such as"
        ' `cloudify settings set buildCommand "npm run generate"`.',
        "build",
    ),
    advice(
        rb"(?:[Mm]issing|[Rr]equired|[Ii]nvalid|[Uu]nset|[Uu]ndefined|not set)[^\n]{0,60}[Ee]nv(?:ironment)? [Vv]ar"
        rb"|(?:[Ee]nv(?:ironment)? [Vv]ar[^\n]{0,80}|process\.env\.\w{1,80}[^\n]{0,40})"
        rb"(?:missing|required|undefined|not (?:set|defined|found))|supabaseUrl is required"
        rb"|KeyError: '[A-Z][A-Z0-9_]{2,80}'",
        "A variable is missing: set the one that the log names with `cloudify env set NAME`; if the install needs it,"
        " with `--stage install`.",
    ),
    advice(
        rb"(?:Can't resolve|Could not resolve|Cannot find module|[Ff]ailed to resolve import)[^\n]{0,4}"
        rb"['\"](?:\./|\.\./|@/|~/|src/)",
        "A file that the sources import isn't in the repository. Is it committed (and not in .gitignore)? Linux also"
        " distinguishes capital from small letters in names: `git mv` changes a name that differs in them.",
        "build",
    ),
    advice(
        rb"Cannot find (?:module|package) '[^'\n./][^'\n]{0,100}'|Can't resolve '[^'\n./][^'\n]{0,100}'"
        rb"|Rollup failed to resolve import \"[^\"\n./]",
        "A package that the sources import isn't among the project's dependencies: run `npm install NAME` with the one"
        " that the log names, and commit package.json and the lockfile.",
        "build",
    ),
    advice(
        rb"System limit for number of file watchers reached",
        "The build watches for changes and would never end: leave `--watch` out of the build command.",
        "build",
    ),
)

# After all others: husky and its like also say it where an install continues.
GIT_ADVICE: tuple[Advice, ...] = (
    advice(
        rb"not a git repository|[Uu]nable to find a git directory|InvalidGitRepositoryError",
        "A build gets the files of one commit, without .git: leave out there what asks git. In a script of package.json"
        " that is `lefthook install || true`, in MkDocs the option `fallback_to_build_date: true` of the plugin that"
        " dates pages; the variable CLOUDIFY is set in every build.",
    ),
)

FURTHER_ADVICE: tuple[Advice, ...] = (*DOWNLOAD_ADVICE, *NODE_ADVICE, *PYTHON_ADVICE, *SITE_ADVICE, *GIT_ADVICE)
