"""Keep freed memory in the process: a fresh page costs more than a step's arithmetic on it.

glibc returns every block over 32 MiB to the system when it is freed and faults it in again at the
next step. Raising two thresholds keeps such blocks in the process.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_ONE_GIB = 1 << 30
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc not to return freed blocks to the system; ``True`` if it agreed.

    Only Linux with glibc is touched; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _ONE_GIB) and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
