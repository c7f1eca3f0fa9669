from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from shared.errors import StageFailure
from tests.support.stage_context import make_context
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
        b"Module not found: Error: Can't resolve './a'",
    ],
)
def test_other_failures_need_no_network(printed: bytes) -> None:
    assert advice_for(printed, "build", "Allow it.") == ""


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
