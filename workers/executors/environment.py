"""The environment variables of a sandboxed command."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.errors import PlatformError
from shared.settings import NetworkSettings
from workers.executors.base import ExecutionSpec
from workers.executors.layout import CA_BUNDLE, EGRESS_DIRECTORY, HOME, PROXY_PORT
from workers.executors.toolchain import Toolchain

# Read by npm, pnpm, yarn and bun. Not YARN_REGISTRY: yarn 1 reads npm's as well, and yarn 2 refuses to start with it.
NPM_VARIABLES = (
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
    "pnpm_config_registry",
    "YARN_NPM_REGISTRY_SERVER",
    "BUN_CONFIG_REGISTRY",
    "COREPACK_NPM_REGISTRY",
)
# Read by pip, uv and pipenv. Poetry reads none: its registry stands in pyproject.toml.
PYTHON_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIPENV_PYPI_MIRROR")
# Copied from the worker's environment into commands that may reach the network, unless a setting decides: they name a
# company's own package registries. Credentials in such a URL are seen by the build.
REGISTRY_VARIABLES = (
    *NPM_VARIABLES,
    *PYTHON_VARIABLES,
    *("PIP_EXTRA_INDEX_URL", "UV_INDEX", "GOPROXY", "GOSUMDB", "HUGO_MODULE_PROXY"),
)
_CERTIFICATE_VARIABLES = (
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
)
PROXY_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
)


def build_environment(
    spec: ExecutionSpec, toolchain: Toolchain, host_environment: Mapping[str, str], *, has_certificates: bool
) -> dict[str, str]:
    """The command's variables; `spec.environment` overrides every default.

    Of `host_environment`, only REGISTRY_VARIABLES are used, and only where the command may reach the network.
    """
    environment = {
        "PATH": toolchain.path,
        "HOME": HOME,
        "USER": "build",
        "LOGNAME": "build",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
        "CI": "true",
        **toolchain.environment,
    }
    if has_certificates:
        environment.update(dict.fromkeys(_CERTIFICATE_VARIABLES, CA_BUNDLE))
    if spec.network == "proxy":
        environment.update(dict.fromkeys(PROXY_VARIABLES, f"http://127.0.0.1:{PROXY_PORT}"))
        environment.update(dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"))
        environment["NODE_USE_ENV_PROXY"] = "1"
        environment.update({name: host_environment[name] for name in REGISTRY_VARIABLES if name in host_environment})
    environment.update(spec.environment)
    return environment


def listening_command(python: str, command: Sequence[str]) -> list[str]:
    """The command, started once the proxy has the port on the sandbox's loopback."""
    listener, socket = f"{EGRESS_DIRECTORY}/listener.py", f"{EGRESS_DIRECTORY}/proxy.sock"
    return [python, "-I", "-S", listener, str(PROXY_PORT), socket, *command]


def registry_environment(settings: NetworkSettings, host_environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell every package manager its registry: those of the worker's environment, and over them
    those of the settings.
    """
    environment = {name: host_environment[name] for name in REGISTRY_VARIABLES if name in host_environment}
    if settings.npm_registry:
        environment |= dict.fromkeys(NPM_VARIABLES, settings.npm_registry)
    if settings.python_index:
        environment |= dict.fromkeys(PYTHON_VARIABLES, settings.python_index)
    return environment


def gather_certificates(settings: NetworkSettings, host_environment: Mapping[str, str], directory: Path) -> Path | None:
    """The file of certificates that commands trust: the host's, with those of the settings added.

    With settings' certificates, a new file is written to `directory` at each start. Raises PlatformError if that fails.
    """
    of_host = find_certificates(host_environment)
    if settings.ca_bundle is None:
        return of_host
    bundles = [path for path in (of_host, settings.ca_bundle) if path is not None]
    try:
        content = b"\n".join(path.read_bytes() for path in bundles)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Workers share the directory: each replaces the whole file, and a file in use stays unchanged.
        descriptor, written = tempfile.mkstemp(dir=directory, prefix=".certificates-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(written).chmod(0o644)
        return Path(written).rename(directory / ".certificates.pem")
    except OSError as error:
        raise PlatformError(f"The certificates of CLOUDIFY_CA_BUNDLE can't be prepared: {error}.") from error


def find_certificates(host_environment: Mapping[str, str]) -> Path | None:
    """The host's CA bundle: SSL_CERT_FILE, the distribution's, then certifi's."""
    candidates = [
        host_environment.get("SSL_CERT_FILE", ""),
        CA_BUNDLE,
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    ]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate).resolve()
    try:
        import certifi
    except ImportError:
        return None
    return Path(certifi.where())
