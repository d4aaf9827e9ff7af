"""A PostgreSQL server of one's own on the loopback, in a temporary folder, gone afterwards."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "p-1/s w%"  # what has to be escaped in an address
ESCAPED = "p-1%2Fs%20w%25"


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The address of the empty database ``postgres``."""
        return f"postgresql://reprise:{ESCAPED}@127.0.0.1:{self.port}/postgres"


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``."""
    found = shutil.which("initdb")
    if found and (Path(found).resolve().parent / "postgres").exists():
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return versions[-1].parent if versions else None


@contextmanager
def server() -> Iterator[Server]:
    """Start a server; as root under another user's name, for it refuses to be root."""
    folder = programs()
    assert folder is not None
    home = Path(tempfile.mkdtemp(prefix="reprise-pg-"))
    as_user: dict[str, int] = {}
    if os.getuid() == 0:
        user = pwd.getpwnam("nobody")
        as_user = {"user": user.pw_uid, "group": user.pw_gid}
        os.chown(home, user.pw_uid, user.pw_gid)
    try:
        secret = home / "password"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        data = home / "data"
        subprocess.run(
            [
                *(folder / "initdb", "-D", data, "-U", "reprise", "--pwfile", secret),
                *("--auth", "scram-sha-256", "-N", "--locale", "C", "-E", "UTF8"),
            ],
            check=True,
            capture_output=True,
            cwd=home,
            **as_user,
        )
        port = free_port()
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        process = subprocess.Popen(
            [folder / "postgres", "-D", data, "-p", str(port), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=home,
            **as_user,
        )
        try:
            _wait(port, process)
            yield Server(port, process)
        finally:
            process.send_signal(signal.SIGINT)  # which does not wait for those still connected
            process.wait(timeout=30)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    for _ in range(300):
        assert process.poll() is None, "the server ended"
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user="reprise", password=PASSWORD, dbname="postgres"
            ).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")
