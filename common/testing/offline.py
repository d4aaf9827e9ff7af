"""Run a command that cannot reach the network; loopback still works.

    python -m common.testing.offline python -m papers.x.train

Where the system lets a user have a network namespace, the kernel cuts the command and all its
children off. Elsewhere Python processes refuse by themselves (``offline_guard/sitecustomize.py``).
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

GUARD = Path(__file__).parent / "offline_guard"

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_REQUEST = "16sh14x"  # struct ifreq: a name and its flags


def cut_off_by_kernel() -> bool:
    """Move this process, which has one thread, into a network of its own; whether that worked."""
    if not sys.platform.startswith("linux"):
        return False
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _raise_loopback()
    except OSError as error:
        sys.stderr.write(f"offline: without loopback: {error}\n")
    return True


def _raise_loopback() -> None:
    """A new network's ``lo`` is down until somebody sets its flag."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack(_REQUEST, b"lo", 0))
        name, flags = struct.unpack(_REQUEST, asked)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack(_REQUEST, name, flags | _IFF_UP))


def main(command: Sequence[str]) -> None:
    """Become ``command``, cut off."""
    if not command:
        sys.exit("error: expected a command: python -m common.testing.offline python -m papers.x")
    if not cut_off_by_kernel():
        paths = [str(GUARD), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1:])
