"""Runs inside the sandbox: `listener.py PORT SOCKET COMMAND…` makes 127.0.0.1:PORT the proxy's, then becomes COMMAND.

A listening socket belongs to the network namespace that it was made in, no matter which process accepts from it:
this one is sent to the worker over the Unix socket. So no process of ours runs next to the command, and its data is
copied once. Standard
library only: the sandbox shows it as a single file to the toolchain's Python.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    port, path, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as proxy:
            proxy.connect(path)
            socket.send_fds(proxy, [b"L"], [listener.fileno()])
            # The command must not start before it can be served; a dead worker sends nothing.
            if not proxy.recv(1):
                sys.exit("The network proxy is gone.")
    os.execvp(command[0], command)  # noqa: S606 - the project's command, without a shell


if __name__ == "__main__":
    main()
