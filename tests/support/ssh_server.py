"""A real SSH server for repositories: Debian's sshd, as an ordinary user in a user namespace, so that it needs no
account, no installation and no rights."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.ports import free_ports
from workers.executors.bubblewrap.arguments import find_bubblewrap

# Where .ci/run unpacks the package openssh-server.
_UNPACKED = Path(__file__).parents[2] / ".venv" / "openssh"


class SshServer:
    """Logs in who has `authorized`'s key. `root` may hold programs in `bin`, which come first in its PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (self.port,) = free_ports(1)
        self.authorized = root / "authorized_keys"
        self.authorized.touch()
        self.output = root / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, path: Path) -> str:
        return f"ssh://git@127.0.0.1:{self.port}{path}"

    @property
    def origin(self) -> str:
        return f"ssh://127.0.0.1:{self.port}"

    def start(self) -> None:
        """With a host key of its own each time. Skips the test where it can't run."""
        program = _find_sshd()
        key = self.root / "host_key"
        key.unlink(missing_ok=True)
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(make_key()[0])
        configuration = self.root / "sshd_config"
        configuration.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {key}\nAuthorizedKeysFile {self.authorized}\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nMaxStartups 100\n"
            f"SetEnv PATH={self.root}/bin:/usr/local/bin:/usr/bin:/bin GIT_CONFIG_COUNT=1 "
            "GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*\n"
        )
        accounts = self.root / "passwd"
        accounts.write_text("git:x:1000:1000::/:/bin/sh\n")
        # sshd is a child of bubblewrap's, and doesn't outlive it.
        sandbox = [
            find_bubblewrap(),
            "--die-with-parent",
            "--unshare-user",
            "--uid",
            "1000",
            "--gid",
            "1000",
            "--bind",
            "/",
            "/",
        ]
        sandbox += ["--dev-bind", "/dev", "/dev", "--ro-bind", str(accounts), "/etc/passwd", "--"]
        libraries = [path for place in ("lib", "usr/lib") for path in (_UNPACKED / place).glob("*-linux-gnu")]
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [*sandbox, program, "-D", "-e", "-f", str(configuration)],
                env={"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": ":".join(map(str, libraries))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        while not self._answers():
            if self._process.poll() is not None:
                pytest.skip(f"sshd doesn't run here: {self.output.read_text()[-300:]}")
            threading.Event().wait(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
            while self._answers():
                threading.Event().wait(0.02)

    def _answers(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0


def make_key() -> tuple[str, str]:
    """The private half in OpenSSH's format, and the public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


@contextmanager
def running(root: Path) -> Generator[SshServer]:
    root.mkdir(parents=True)
    server = SshServer(root)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _find_sshd() -> str:
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh here; on Debian install the package openssh-client")
    # sshd wants to be called by its whole path.
    found = shutil.which("sshd", path=f"{_UNPACKED}/usr/sbin:/usr/sbin:/usr/local/sbin:{os.environ['PATH']}")
    if found is None:
        pytest.skip("there is no sshd here; on Debian install the package openssh-server")
    return found
