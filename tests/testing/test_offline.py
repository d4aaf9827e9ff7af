"""An offline command reaches loopback and nothing else, whoever cuts it off."""

import os
import subprocess
import sys

import pytest

from common.testing.offline import GUARD
from common.utils.paths import get_project_root

PROGRAM = """
import socket, subprocess, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), timeout=5).close()
print("loopback")
for address in (("192.0.2.1", 80), ("example.org", 80)):
    try:
        socket.create_connection(address, timeout=5)
        print("reached")
    except OSError as error:
        print("refused" if "timed out" not in str(error) else "timed out")
"""
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PROGRAM!r}])"


@pytest.mark.parametrize("by", ["kernel or guard", "guard"])
@pytest.mark.parametrize("program", [PROGRAM, CHILD], ids=["process", "child"])
def test_only_loopback_is_reached(by: str, program: str) -> None:
    command, environment = [sys.executable, "-c", program], dict(os.environ)
    if by == "guard":
        environment["PYTHONPATH"] = str(GUARD)
    else:
        command = [sys.executable, "-m", "common.testing.offline", *command]
    done = subprocess.run(
        command, env=environment, cwd=get_project_root(), capture_output=True, text=True
    )
    assert done.stdout.split() == ["loopback", "refused", "refused"], done.stderr


def test_the_exit_code_is_that_of_the_command() -> None:
    command = [sys.executable, "-m", "common.testing.offline", sys.executable, "-c", "exit(7)"]
    assert subprocess.run(command, cwd=get_project_root()).returncode == 7
