"""What a decoder may do to a worker, in functions that `tests/video/test_pool.py` has workers call."""

import contextlib
import ctypes
import mmap
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import psutil

from videoflamingo.errors import VideoError

_KEPT: list[object] = []


def process() -> int:
    return os.getpid()


def resident_bytes_and_frame_files() -> tuple[int, int]:
    """Of this process: its memory, and how many frame files it has open."""
    files = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            if "memfd:frames" in os.readlink(f"/proc/self/fd/{name}"):
                files.add(os.stat(f"/proc/self/fd/{name}").st_ino)
    return psutil.Process().memory_info().rss, len(files)


def sleep_with_the_lock(seconds: int) -> None:
    """In C, holding the interpreter lock: no Python thread and no Python signal handler runs."""
    ctypes.PyDLL(None).sleep(seconds)


def spin_with_the_lock(mark: str) -> bool:
    """In C, at full load, for longer than anyone waits; `mark` is a file that tells when it begins."""
    with open(mark, "w") as file:
        file.write(str(os.getpid()))
    return re.match(r"(a+)+$", "a" * 64 + "b") is not None


def take_private_memory(num_bytes: int) -> int:
    return int(np.ones(num_bytes, np.uint8).sum(dtype=np.int64))


def take_shared_memory(num_bytes: int) -> None:
    """Of a kind that RLIMIT_DATA does not count; taken page by page, then held."""
    memory = mmap.mmap(-1, num_bytes)
    for place in range(0, num_bytes, mmap.PAGESIZE):
        memory[place] = 1
    time.sleep(3600)


def leak(num_bytes: int) -> int:
    _KEPT.append(np.ones(num_bytes, np.uint8))
    return os.getpid()


def run_out_of_memory_as_readers_report_it() -> None:
    try:
        raise OSError(12, "Cannot allocate memory")
    except OSError as error:
        raise VideoError("clip.mp4: is damaged after 0.00 s") from error


def die(signal_number: int) -> None:
    print("moov atom not found", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal_number)


def leave(code: int) -> None:
    sys.exit(code)


def print_much(num_lines: int) -> str:
    line = b"[h264 @ 0x55] error while decoding MB 12 7" * 20 + b"\n"
    for _ in range(num_lines):
        os.write(1, line)
        os.write(2, line)
    return "done"


def start_a_process_and_hang(mark: str) -> None:
    process = subprocess.Popen(["sleep", "3600"])
    with open(mark, "w") as file:
        file.write(str(process.pid))
    time.sleep(3600)


def fork_and_die() -> None:
    """The child holds the socket open, so the pool never sees its end."""
    if os.fork() == 0:
        time.sleep(3600)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.01)
    return path


def double(number: int) -> int:
    return 2 * number


def where_is(path: str) -> str:
    return os.path.abspath(path)


def echo(thing: object) -> object:
    return thing


def variable(name: str) -> str | None:
    return os.environ.get(name)


def modules() -> list[str]:
    return list(sys.modules)
