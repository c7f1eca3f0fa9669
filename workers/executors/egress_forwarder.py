"""Runs inside the sandbox: `forwarder.py PORT SOCKET COMMAND…` carries 127.0.0.1:PORT to the proxy's Unix socket.

It listens, leaves a process that forwards, and becomes the command, so the command never starts before the proxy
can be reached. Standard library only: the sandbox shows it as a single file to the toolchain's Python.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    port, path, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    child = os.fork()
    if child:
        # The forwarder is nobody's child, so no `wait` of the command meets it.
        os.waitpid(child, 0)
        listener.close()
        os.execvp(command[0], command)  # noqa: S606
    if os.fork():
        os._exit(0)
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.chdir("/")
    _end_with(lifeline)
    _forward(listener, path)


def _end_with(lifeline: int) -> None:
    """The other end of the sandbox's first input is the worker's: when it closes, everything here ends."""
    import select
    import signal
    import threading

    def watch() -> None:
        poller = select.poll()
        poller.register(lifeline, 0)  # only the hang-up: what is in the pipe is the command's to read
        poller.poll()
        try:
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _forward(listener: socket.socket, path: str) -> None:
    import asyncio

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            proxy_reader, proxy_writer = await asyncio.open_unix_connection(path)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, proxy_writer), copy(proxy_reader, writer))
        proxy_writer.close()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(connect, sock=listener)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
