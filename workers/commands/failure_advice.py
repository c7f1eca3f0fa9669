"""What a person can do about a command that failed, from what the tools of the field print."""

from __future__ import annotations

import re
from typing import Literal

from workers.commands.advice_rows import FURTHER_ADVICE, Advice, advice

# The first that fits is given: what is more particular comes first.
_ADVICE: tuple[Advice, ...] = (
    advice(
        rb"heap out of memory",
        "Node's heap was full: set the variable NODE_OPTIONS to --max-old-space-size=… (in MiB, below the plan's"
        " memory), or let the build do less at once.",
    ),
    advice(
        rb"ERR_OSSL_EVP_UNSUPPORTED|error:0308010C",
        "This webpack is older than the Node that runs it: update it, or ask for Node 16 (`engines` in package.json or"
        " .nvmrc), or set the variable NODE_OPTIONS to --openssl-legacy-provider.",
    ),
    advice(
        rb"Treating warnings as errors because process\.env\.CI",
        "Warnings are errors where CI is set: fix them, or set the variable CI to false.",
        "build",
    ),
    advice(
        rb"Failed to replace env in config: \$\{|Environment variable not found \(|npm (?:ERR!|error) code E40[13]"
        rb"|ERR_PNPM_FETCH_40[13]|YN0033|YN0041",
        "A registry wants credentials: name a variable in the package manager's configuration (`${NPM_TOKEN}` in"
        " .npmrc), and set it for installs, which see no other: `cloudify env set NPM_TOKEN --stage install`.",
        "install",
    ),
    advice(
        rb"npm (?:ERR!|error) code ERESOLVE",
        "Peer dependencies contradict each other: run `npm install` where you develop, fix what it reports and commit"
        " package-lock.json, or set the install command to `npm install --legacy-peer-deps`.",
        "install",
    ),
    advice(
        rb"npm (?:ERR!|error) code EBADENGINE|ERR_PNPM_UNSUPPORTED_ENGINE|The engine \"node\" is incompatible",
        "A package doesn't run on this Node: name another version in .nvmrc, in `engines` of package.json or in the"
        " project's settings.",
        "install",
    ),
    advice(
        rb"gyp ERR! stack Error: (?:not found: (?:make|g\+\+)|Could not find any Python)"
        rb"|\b(?:g\+\+|cc|gcc|make): not found",
        "A package has to be compiled, and the worker's machine has no compiler: install g++ and make there, or use a"
        " version of the package that comes compiled.",
        "install",
    ),
    advice(
        rb"unable to detect version|SETUPTOOLS_SCM_PRETEND_VERSION",
        "The package takes its version from git's history, which builds don't have: set the install command to"
        " `SETUPTOOLS_SCM_PRETEND_VERSION=1.0.0 uv sync`, with the version that the site is to name.",
        "install",
    ),
    advice(
        rb'binary with name "go" not found',
        "Hugo fetches modules with Go, and this build has none: run `hugo mod vendor` and commit the directory _vendor,"
        " or make the theme a git submodule.",
        "build",
    ),
)

# A build that reaches nothing, as the tools of the field say it. A refused connection to the sandbox's own loopback is
# the project's own server, which a network doesn't start.
_NO_NETWORK = re.compile(
    b"|".join(
        (
            # Node and what is built on it.
            rb"getaddrinfo|EAI_(?:AGAIN|FAIL)|\bENOTFOUND\b|ENETUNREACH|EHOSTUNREACH",
            rb"fetch failed|ERR_PNPM_META_FETCH_FAIL",
            rb"ECONNREFUSED (?!127\.|\[?::1|localhost)|FailedToOpenSocket|ConnectionRefused downloading",
            rb"Failed to fetch|Inlining of fonts failed|net::ERR_(?:NAME_NOT_RESOLVED|INTERNET_DISCONNECTED)",
            # The C library, curl, wget and git.
            rb"name resolution|name or service not known|name does not resolve|nodename nor servname",
            rb"no address associated with hostname|network is unreachable|no route to host",
            rb"(?:could not|couldn't|unable to|failed to) resolve|curl: \([67]\)|unable to access 'https?:",
            # Python.
            rb"NewConnectionError|NameResolutionError|Max retries exceeded with|urlopen error",
            rb"failed to reach any of the inventories|intersphinx inventory [^\n]{1,200} not fetchable",
            # Go and Hugo.
            rb"dial tcp: lookup|no such host|dial tcp [^\n]{1,100}: (?:connect: )?(?:connection refused|i/o timeout)",
            rb"failed to (?:fetch|get) (?:remote )?resource|calling (?:resources\.)?GetRemote|failed to download",
            # Rust, Deno, Ruby, Java and PHP.
            rb"failed to lookup address information|dns error|error sending request for url",
            rb"Failed to open TCP connection|SocketError|UnknownHostException|php_network_getaddresses",
            rb"proxy[^\n]{0,100}connection refused",
        )
    ),
    re.IGNORECASE,
)

# What tools also say without failing is looked for in the last lines alone.
_ENDING_BYTES = 8192
# As dash and bash say it; npm puts the shell's name before it.
_NOT_FOUND = re.compile(rb"(?m)(?:^|[ :])([A-Za-z0-9@._/-]{1,60}): (?:command )?not found\s*$")


def advice_for(output: bytes, kind: Literal["install", "build"], network: str = "") -> str:
    """One or two sentences for a failure message, or nothing. `output` is the end of what the command printed.

    `network`: what to say if the command seems to have reached nothing.
    """
    for rows, printed in ((_ADVICE, output), (FURTHER_ADVICE, output[-_ENDING_BYTES:])):
        for row in rows:
            match = row.printed.search(printed) if row.kind in (None, kind) else None
            if match is not None:
                return row.said_of(match)
    if network and _NO_NETWORK.search(output):
        return network
    missing = _NOT_FOUND.findall(output)
    if not missing:
        return ""
    return (
        f"The program `{missing[-1].decode()}` was not found: add the package that has it to the project's"
        " dependencies, and commit the lockfile, too."
    )
