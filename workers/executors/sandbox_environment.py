"""The environment variables of a sandboxed command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from workers.executors.base import ExecutionSpec
from workers.executors.sandbox_arguments import CA_BUNDLE, HOME
from workers.toolchain import Toolchain

PROXY_PORT = 3128

# Copied from the worker's environment into commands that may reach the network: where a company's own package
# registries are. Credentials in such a URL are seen by the build.
REGISTRY_VARIABLES = (
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
    "YARN_NPM_REGISTRY_SERVER",
    "COREPACK_NPM_REGISTRY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
)
_CERTIFICATE_VARIABLES = (
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
)
_PROXY_VARIABLES = (
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
    """What the command sees; `spec.environment` wins over every default."""
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
        environment.update(dict.fromkeys(_PROXY_VARIABLES, f"http://127.0.0.1:{PROXY_PORT}"))
        environment.update(dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"))
        environment["NODE_USE_ENV_PROXY"] = "1"
        environment.update({name: host_environment[name] for name in REGISTRY_VARIABLES if name in host_environment})
    environment.update(spec.environment)
    return environment


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
