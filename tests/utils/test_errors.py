"""How a command line ends."""

import subprocess
import sys

TALKS = """
import sys
from common.utils.errors import exit_on_error
with exit_on_error():
    for number in range(100_000):
        sys.stdout.write(f"{number}\\n")
"""


def test_a_reader_that_stops_reading_is_no_fault() -> None:
    command = f"{sys.executable} -c '{TALKS}' | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout == "0\n"
    assert result.returncode == 141
    assert result.stderr == ""
