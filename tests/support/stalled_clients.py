"""Clients that open streams and then read nothing: `python -m tests.support.stalled_clients <address> <port>
<path> <count>`. Says `open` when all have been answered, then does nothing until it is killed."""

from __future__ import annotations

import signal
import socket
import sys


def main() -> None:
    address, port, path, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    clients: list[socket.socket] = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address, port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        clients.append(client)
    for client in clients:
        if not client.recv(12).endswith(b"200"):
            raise SystemExit("The stream was refused.")
    print("open", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
