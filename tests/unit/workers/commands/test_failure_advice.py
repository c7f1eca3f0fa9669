from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest

from shared.errors import StageFailure
from tests.support.stage_context import make_context
from workers.commands.advice_rows import FURTHER_ADVICE
from workers.commands.failure_advice import advice_for
from workers.commands.sandboxed import raise_failure
from workers.executors.base import ExecutionResult, RunOutcome


@pytest.mark.parametrize(
    ("kind", "printed", "words"),
    [
        ("build", b"FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "NODE_OPTIONS"),
        ("install", b"FATAL ERROR: JavaScript heap out of memory", "NODE_OPTIONS"),
        ("build", b"  code: 'ERR_OSSL_EVP_UNSUPPORTED'\n\nNode.js v24.19.0", "Node 16"),
        ("build", b"Treating warnings as errors because process.env.CI = true.", "CI to false"),
        ("install", b"Error: Failed to replace env in config: ${NPM_TOKEN}", "--stage install"),
        (
            "install",
            b"Usage Error: Environment variable not found (NPM_TOKEN) in /workspace/.yarnrc.yml",
            "--stage install",
        ),
        ("install", b"npm error code E401\nnpm error Incorrect or missing password.", "wants credentials"),
        ("install", b"ERR_PNPM_FETCH_403  GET https://example.invalid/a: Forbidden - 403", "wants credentials"),
        ("install", b"setuptools-scm was unable to detect version for /workspace.", "SETUPTOOLS_SCM_PRETEND_VERSION="),
        ("install", b"fatal: not a git repository (or any parent up to mount point /)", "without .git"),
        ("build", b"WARNING - plugin: Unable to find a git directory and/or git is not installed.", "without .git"),
        ("install", b"npm error code ERESOLVE\nnpm error ERESOLVE could not resolve", "--legacy-peer-deps"),
        ("install", b"npm ERR! code ERESOLVE", "--legacy-peer-deps"),
        ("install", b"npm error code EBADENGINE", ".nvmrc"),
        ("install", b'error vite@7.3.8: The engine "node" is incompatible with this module.', ".nvmrc"),
        ("install", b"gyp ERR! stack Error: not found: make\ngyp ERR! stack", "compiler"),
        ("install", b"/bin/sh: 1: g++: not found", "compiler"),
        ("build", b"> tsc && vite build\n\nsh: 1: tsc: not found\n", "The program `tsc` was not found"),
        ("build", b"/bin/sh: line 1: mkdocs: command not found\n", "The program `mkdocs` was not found"),
        ("build", b'ERROR failed to load modules: binary with name "go" not found in PATH', "hugo mod vendor"),
        # The first of several reasons is the nearer one.
        ("build", b"ENOTFOUND\nJavaScript heap out of memory", "NODE_OPTIONS"),
    ],
)
def test_known_output_of_tools_leads_to_advice(kind: Literal["install", "build"], printed: bytes, words: str) -> None:
    assert words in advice_for(b"before\n" + printed + b"\nafter", kind)


@pytest.mark.parametrize(
    "printed",
    [
        b"TypeError: fetch failed\n  cause: getaddrinfo EAI_AGAIN api.example.invalid",
        b"Error: getaddrinfo ENOTFOUND fonts.example.invalid",
        b"Error: connect ENETUNREACH 2606:4700::6812:1:443 - Local (:::0)",
        b"Error: connect ECONNREFUSED 10.0.0.3:3128",
        b"Failed to fetch `Geist` from Google Fonts.",
        b"Error: next/font: error:\nFailed to fetch Inter from Google Fonts.\n",
        b"Inlining of fonts failed. https://fonts.invalid/css2 returned",
        b"net::ERR_NAME_NOT_RESOLVED at https://example.invalid/",
        b"ERR_PNPM_META_FETCH_FAIL  GET https://registry.invalid/a: request failed",
        b"error: ConnectionRefused downloading package manifest a",
        b"<urlopen error [Errno -3] Temporary failure in name resolution>",
        b"urlopen error [Errno -2] Name or service not known",
        b"requests.exceptions.ConnectionError: HTTPSConnectionPool(host='a.invalid'): Max retries exceeded with",
        b"urllib3.exceptions.NameResolutionError: Failed to resolve 'docs.invalid' ([Errno -3])",
        b"WARNING: failed to reach any of the inventories with the following issues:",
        b"intersphinx inventory 'https://docs.invalid/objects.inv' not fetchable due to",
        b"dial tcp: lookup proxy.golang.invalid on 127.0.0.53:53: read udp",
        b'Get "https://a.invalid/": dial tcp 10.0.0.1:443: connect: network is unreachable',
        b"dial tcp: lookup cms.invalid: no such host",
        b'ERROR error calling resources.GetRemote: Get "https://a.invalid": dial tcp',
        b"ERROR failed to fetch remote resource from 'https://a.invalid/a.json'",
        b"hugo: downloading modules \xe2\x80\xa6 failed to download modules: failed to execute 'go [mod download]'",
        b"curl: (6) Could not resolve host: example.invalid",
        b"curl: (7) Failed to connect to example.invalid port 443",
        b"wget: unable to resolve host address 'example.invalid'",
        b"fatal: unable to access 'https://git.invalid/a.git/': Could not resolve host",
        b"ssh: Could not resolve hostname git.invalid: Name does not resolve",
        b"error sending request for url (https://deno.invalid/a.ts): dns error: failed to lookup address information",
        b"java.net.UnknownHostException: repo.invalid",
        b"php_network_getaddresses: getaddrinfo failed",
        b"Failed to open TCP connection to rubygems.invalid:443",
        b"connect to proxy 10.1.1.1 port 3128 failed: Connection refused",
    ],
)
def test_a_build_that_reaches_nothing_is_told_how_to_get_a_network(printed: bytes) -> None:
    assert advice_for(b"before\n" + printed + b"\nafter", "build", "Allow it.") == "Allow it."


@pytest.mark.parametrize(
    "printed",
    [
        b"Error: connect ECONNREFUSED 127.0.0.1:4000",
        b"Error: connect ECONNREFUSED ::1:4000",
        b"Error: something else",
    ],
)
def test_other_failures_need_no_network(printed: bytes) -> None:
    assert advice_for(printed, "build", "Allow it.") == ""


@pytest.mark.parametrize(
    ("kind", "printed", "words"),
    [
        ("build", b'You are using Node.js 18.2.0. For Next.js, Node.js version ">=20.9.0" is required.', "nodeVersion"),
        ("build", b"Node.js v18.20.8 is not supported by Astro!\nPlease upgrade", ".nvmrc"),
        ("build", b"The Angular CLI requires a minimum Node.js version of v20.19", ".nvmrc"),
        ("build", b"[ERROR] Minimum Node.js version not met :(", ".nvmrc"),
        ("build", b"Vite requires Node.js version 20.19+ or 22.12+. Please upgrade", ".nvmrc"),
        ("build", b"Error: Node Sass does not yet support your current environment: Linux 64-bit", "npm install sass"),
        ("build", b"Error: Cannot find module @rollup/rollup-linux-x64-gnu. npm has a bug related to", "lockfile"),
        ("build", b"Error: Cannot find module '../lightningcss.linux-x64-gnu.node'", "lockfile"),
        ("build", b'Error: Could not load the "sharp" module using the linux-x64 runtime', "lockfile"),
        ("install", b'npm error code EUNSUPPORTEDPROTOCOL\nnpm error Unsupported URL Type "workspace:"', "pnpm, yarn"),
        ("install", b"error This project is configured to use pnpm because", "packageManager"),
        ("install", b"Use \"yarn install\" for installation in this project", "packageManager"),
        ("install", b"ERR_PNPM_PEER_DEP_ISSUES  Unmet peer dependencies", "strict-peer-dependencies"),
        ("install", b"ERR_PNPM_IGNORED_BUILDS  Ignored build scripts: esbuild", "pnpm approve-builds"),
        ("install", b"npm error code EINTEGRITY", "by its hash"),
        ("install", b"ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "by its hash"),
        ("install", b"npm error code E404\nnpm error 404 Not Found - GET", "NPM_TOKEN --stage install"),
        ("install", b"error: GET https://packages.invalid/nothing-here - 404", "NPM_TOKEN --stage install"),
        ("install", b"npm error code ETARGET\nnpm error notarget No matching version found for vite@99", "npm view"),
        ("install", b'Couldn\'t find any versions for "vite" that matches "99"', "npm view"),
        ("install", b"ERROR: Failed to set up chrome v131.0! Set \"PUPPETEER_SKIP_DOWNLOAD\"", "value: true"),
        ("install", b"Error: Failed to download Chromium 130", "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD"),
        ("install", b"The Cypress App could not be downloaded.", "CYPRESS_INSTALL_BINARY"),
        ("install", b"npm error path /workspace/node_modules/hugo-bin\nHugo installation failed", "HUGO_VERSION"),
        ("install", b"sharp: Installation error: getaddrinfo", "update the package"),
        ("install", b"ERROR: Package 'a' requires a different Python: 3.11.9 not in '>=3.12'", ".python-version"),
        ("install", b"Because the current Python version (3.11.9) does not satisfy Python>=3.12", ".python-version"),
        ("install", b"Current Python version (3.11.9) is not allowed by the project (>=3.13).", ".python-version"),
        ("install", b"ERROR: No matching distribution found for no-such-package", "package index"),
        ("install", b"Because no-such-package was not found in the package registry", "package index"),
        ("install", b"error: command '/usr/bin/gcc' failed: No such file or directory", "compiled"),
        ("build", b"Config value 'theme': Unrecognised theme name: 'material'.", "mkdocs-material"),
        ("build", b'Config value \'plugins\': The "awesome-pages" plugin is not installed', "docs/requirements.txt"),
        ("build", b"Could not import extension myst_parser (exception: No module named", "docs/requirements.txt"),
        ("build", b"Aborted with 3 warnings in strict mode!", "--strict"),
        ("build", b"TOCSS: this feature is not available in your current Hugo version", "HUGO_VERSION"),
        ("build", b'module "ananke" not found in "/workspace/themes/ananke"', "submodule"),
        ("build", b'npm error Missing script: "build"', "buildCommand"),
        ("build", b"Error: Missing required environment variable: CONTENTFUL_SPACE_ID", "env set NAME"),
        ("build", b"Error: supabaseUrl is required.", "env set NAME"),
        ("build", b"Error: process.env.API_URL is not defined", "env set NAME"),
        ("build", b"    raise KeyError(key)\nKeyError: 'API_TOKEN'", "env set NAME"),
        ("build", b"Module not found: Error: Can't resolve './components/Header'", "capital"),
        ("build", b'Could not resolve "./Header" from "src/App.jsx"', "capital"),
        ("build", b"Error: Cannot find module 'left-pad'", "npm install NAME"),
        ("build", b"Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'zod' imported from", "npm install NAME"),
        ("build", b"Error: ENOSPC: System limit for number of file watchers reached, watch", "--watch"),
    ],
)  # fmt: skip
def test_further_output_leads_to_a_command_or_a_setting(
    kind: Literal["install", "build"], printed: bytes, words: str
) -> None:
    assert words in advice_for(b"before\n" + printed + b"\nafter", kind)


def test_what_a_tool_said_long_before_the_end_is_no_reason() -> None:
    warning = b"warning: the environment variable SENTRY_DSN is not set\n"
    assert advice_for(warning, "build")
    assert advice_for(warning + b"compiled page 1\n" * 1000, "build") == ""


def test_no_pattern_repeats_without_bound() -> None:
    """A tenant writes the output, and it is searched in a worker."""
    for row in FURTHER_ADVICE:
        assert not re.search(rb"(?<!\\)[*+]|\{\d+,\}", row.printed.pattern), row.printed.pattern


@pytest.mark.parametrize(
    ("kind", "printed"),
    [
        ("build", b""),
        ("build", b"Error: something else"),
        # An install has a network; what it can't reach is said by the list of refused hosts.
        ("install", b"npm error getaddrinfo ENOTFOUND registry.invalid"),
        ("build", b"npm error code ERESOLVE"),
        ("build", b"\xff\xfe" * 1000),
        ("build", b"Error: page /a: not found, but linked"),
    ],
)
def test_unknown_failures_get_no_advice(kind: Literal["install", "build"], printed: bytes) -> None:
    assert advice_for(printed, kind) == ""


@pytest.mark.parametrize(("exit_code", "words"), [(127, "a program was not found"), (137, "no memory left")])
def test_exit_codes_of_the_shell_are_explained(tmp_path: Path, exit_code: int, words: str) -> None:
    result = ExecutionResult(RunOutcome.USER_ERROR, exit_code, "", 1.0, None)
    with pytest.raises(StageFailure, match=words):
        raise_failure(make_context(tmp_path / "stage"), result, "build command")


@pytest.mark.parametrize(
    ("kind", "printed", "named"),
    [
        ("install", "npm error notarget No matching version found for hexo@^4.0.0.\n", "`hexo@^4.0.0`"),
        ("install", "Couldn't find any versions for \"left-pad\" that matches \"^9.0.0\"\n", "left-pad"),
        ("install", "ERROR: No matching distribution found for sphinx>=99\n", "`sphinx>=99`"),
        ("install", "× No solution found when resolving dependencies:\n ╰─▶ Because it was not found in\n", "`it`"),
        ("build", "ModuleNotFoundError: No module named 'pymdownx'\n", "`pymdownx` isn't installed"),
        ("build", "cannot find module 'material.extensions.emoji' (No module named 'material')\n", "`material` isn't"),
        ("build", "ERROR   -  Config value 'theme': Unrecognised theme name: 'shadcn'.\n", "`shadcn` isn't installed"),
        ("build", 'Config value \'plugins\': The "macros" plugin is not installed\n', "`macros` isn't installed"),
        # What a tenant prints becomes no markup and no other line.
        ("build", "No module named '`x`'\nModuleNotFoundError: No module named\n", ""),
        ("build", 'failed to create config: "getjson" is not a valid cache name\n', "HUGO_VERSION"),
        ("install", "fatal: not a git repository\nsharp: Installation error: 502\n", "downloads its program"),
    ],
)  # fmt: skip
def test_advice_names_what_is_missing(kind: Literal["install", "build"], printed: str, named: str) -> None:
    text = advice_for(printed.encode(), kind)
    assert named in text
    assert "{it}" not in text
    assert "\n" not in text


def test_every_text_is_whole_without_a_name() -> None:
    for row in FURTHER_ADVICE:
        assert ("{it}" in row.text) == bool(row.it) == bool(row.printed.groups), row.text
