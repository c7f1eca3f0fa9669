"""Paths inside a sandbox, and sizes of it, that are the same for every executor."""

from __future__ import annotations

HOME = "/home/build"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
EGRESS_DIRECTORY = "/run/egress"
# Port of the proxy on the sandbox's own loopback.
PROXY_PORT = 3128

NODE_TARGET = "/opt/node"
PYTHON_TARGET = "/opt/python"
UV_TARGET = "/opt/uv/uv"
# Small scripts in front of everything else on PATH. The `pip` of an interpreter that was moved names its old
# place in its first line and does not start; npm's own script looks for its library in its own directory.
SHIM_TARGET = "/opt/bin"

SHARED_MEMORY_BYTES = 64 * 1024 * 1024
# One file may pass the disk limit by this before SIGXFSZ, so that the watchdog sees that the limit was passed.
FILE_SIZE_MARGIN = 64 * 1024 * 1024
