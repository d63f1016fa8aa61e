"""Copies a file, unless that takes too long: a program of its own (`sqlite.py` says why).

Usage: copy_file.py SOURCE TARGET SECONDS PROBE_BYTES, with exit code 0 when all is copied. After
PROBE_BYTES it is estimated how long the rest takes.
"""

import os
import sys
import time

_AT_ONCE_BYTES = 64 * 1024  # what a processor's cache holds


def main(source: str, target: str, seconds: float, probe_bytes: int) -> int:
    buffer = memoryview(bytearray(_AT_ONCE_BYTES))
    start = time.monotonic()
    done = 0
    with open(source, "rb", buffering=0) as file, open(target, "wb") as copy:
        size = os.fstat(file.fileno()).st_size
        while count := file.readinto(buffer):
            copy.write(buffer[:count])
            done += count
            if done >= probe_bytes and (time.monotonic() - start) * size / done > seconds:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
