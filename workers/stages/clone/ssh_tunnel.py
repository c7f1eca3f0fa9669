"""ssh's ProxyCommand (with ProxyUseFdpass): `ssh_tunnel.py HOST PORT`.

Opens a tunnel through the HTTP proxy in CLOUDIFY_CLONE_PROXY, passes the connection to ssh, and exits. Uses only the
standard library, because it runs as a file without the platform's packages.
"""

from __future__ import annotations

import base64
import os
import socket
import sys
from urllib.parse import urlsplit

_SECONDS = 60.0
_MAXIMUM_HEAD = 4096


def main() -> None:
    host, port = sys.argv[1:]
    proxy = urlsplit(os.environ["CLOUDIFY_CLONE_PROXY"])
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    credentials = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    with socket.create_connection((proxy.hostname, proxy.port), timeout=_SECONDS) as connection:
        connection.sendall(request.encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            # The bytes after the head are for ssh.
            byte = connection.recv(1)
            if not byte or len(head) > _MAXIMUM_HEAD:
                sys.exit("The clone's proxy closed the connection.")
            head += byte
        if not head.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"The clone's proxy refused the tunnel: {head.splitlines()[0].decode('ascii', 'replace')}")
        connection.settimeout(None)
        with socket.socket(fileno=sys.stdout.fileno()) as ssh:
            socket.send_fds(ssh, [b"\0"], [connection.fileno()])


if __name__ == "__main__":
    main()
