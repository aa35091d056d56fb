"""Memory in which a decode worker hands frames to the process that asked for them, used again when it is given back.

The worker decodes into an anonymous file; the other process maps it, and nothing is copied. New pages are dear (writing
to them costs a third of the time of a cheap clip), so both ends have a half here:

- `MappedFile`, where the frames are used. When the last array of a clip is gone it is unmapped, and its number noted.
- `FrameFiles`, in the worker. The next request brings those numbers, and what they name may be decoded into again.

A file is used again only when nobody can see it: a process forked since it was mapped may, so then it never is. The
mapping is private: what is written to a clip is seen by nobody else, neither a forked process nor the next clip.
"""

import ctypes
import functools
import itertools
import math
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# A worker remembers so many files that others use, and so many that nobody does.
_MOST_LENT, _MOST_FREE = 4, 2

# Together they take no more than this part of the worker's memory limit, which is for decoding.
_PART_FOR_FILES = 1 / 8

# No clip gets a file so many times too large for it: whoever holds the clip holds the file.
_MOST_TOO_LARGE = 4

# A file that so many clips in a row had no use for is given up.
_MOST_PASSED_OVER = 8


@dataclass(eq=False)
class FrameFile:
    """An anonymous file, mapped in the process that made it. It has no name, so a kill leaves nothing behind.

    Args:
        number: by which the process that it is lent to gives it back.
        memory: the bytes of the file, `[num_bytes]` uint8.
        passed_over: how many clips found it unsuitable since it was last used.
    """

    number: int
    descriptor: int
    memory: np.ndarray
    passed_over: int = 0

    @classmethod
    def new(cls, number: int, num_bytes: int) -> "FrameFile":
        descriptor = _anonymous_file()
        try:
            os.ftruncate(descriptor, num_bytes)
            return cls(number, descriptor, np.frombuffer(mmap.mmap(descriptor, num_bytes), np.uint8))
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Forget the file, whose memory stays until no array and no other process has it."""
        os.close(self.descriptor)
        del self.memory


class FrameFiles:
    """The frame files of a worker.

    Args:
        limit_bytes: how much memory the worker may hold.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._most_bytes = math.floor(limit_bytes * _PART_FOR_FILES)
        self._numbers = itertools.count()
        self._lent: list[FrameFile] = []  # oldest first, as below
        self._free: list[FrameFile] = []

    def take(self, num_bytes: int) -> FrameFile:
        """A file of at least that many bytes, which may hold anything; the caller lends it, frees it or closes it."""
        fitting = [file for file in self._free if num_bytes <= file.memory.nbytes <= _MOST_TOO_LARGE * num_bytes]
        taken = min(fitting, key=lambda file: file.memory.nbytes, default=None)
        if taken is not None:
            self._free.remove(taken)
            taken.passed_over = 0
        for file in self._free:
            file.passed_over += 1
        self._close_surplus(self._most_bytes - num_bytes)
        return taken or FrameFile.new(next(self._numbers), num_bytes)

    def lend(self, file: FrameFile) -> None:
        """Another process has mapped the file, or will: it is not used until `give_back` names it."""
        self._lent.append(file)
        self._close_surplus(self._most_bytes)

    def give_back(self, numbers: Iterable[int]) -> None:
        """These files are mapped no more; numbers of files that are forgotten may be among them."""
        given = set(numbers)
        for file in [file for file in self._lent if file.number in given]:
            self._lent.remove(file)
            self.free(file)

    def free(self, file: FrameFile) -> None:
        """Nobody uses the file any more."""
        self._free.append(file)

    def _close_surplus(self, most_bytes: int) -> None:
        """Close free files that are not worth their memory, then forget the oldest lent ones."""
        for file in [file for file in self._free if file.passed_over >= _MOST_PASSED_OVER]:
            self._close(self._free, file)
        while len(self._free) > _MOST_FREE:
            self._close(self._free, self._free[0])
        while len(self._lent) > _MOST_LENT:
            self._close(self._lent, self._lent[0])
        while self._lent + self._free and sum(file.memory.nbytes for file in self._lent + self._free) > most_bytes:
            files = self._free or self._lent
            self._close(files, files[0])

    def _close(self, files: list[FrameFile], file: FrameFile) -> None:
        files.remove(file)
        file.close()


class GivenBack:
    """Numbers of the files of one worker that were lent and that nobody uses any more. For any thread."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def add(self, number: int) -> None:
        self._numbers.append(number)

    def take_all(self) -> list[int]:
        """The numbers since the last call."""
        taken = self._numbers[:]
        del self._numbers[: len(taken)]
        return taken


class MappedFile:
    """The first bytes of another process's frame file as an array's memory, given back when no array refers to it.

    Not `mmap.mmap`, which before Python 3.13 keeps a descriptor open for as long: 1,000 clips, 1,000 open files.

    Args:
        descriptor: of the file; it may be closed afterwards.
        num_bytes: how much of it.
        number: of the file.
        given_back: where the number is noted.

    Raises:
        OSError: if it cannot be mapped.
    """

    def __init__(self, descriptor: int, num_bytes: int, number: int, given_back: GivenBack) -> None:
        with _no_fork:
            address = _c_library().mmap(
                None, num_bytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, descriptor, 0
            )
            if address == ctypes.c_void_p(-1).value:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            weakref.finalize(self, _unmap, address, num_bytes, number, given_back, _num_forks).atexit = False
        self.__array_interface__ = {"version": 3, "shape": (num_bytes,), "typestr": "|u1", "data": (address, False)}


def _unmap(address: int, num_bytes: int, number: int, given_back: GivenBack, num_forks: int) -> None:
    _c_library().munmap(address, num_bytes)
    # Looked at after unmapping: what forks from here on has no part of the file.
    if num_forks == _num_forks:
        given_back.add(number)


@functools.cache
def _c_library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    size, number = ctypes.c_size_t, ctypes.c_int
    library.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
    library.mmap.restype = ctypes.c_void_p
    library.munmap.argtypes = [ctypes.c_void_p, size]
    return library


def _anonymous_file() -> int:
    """Descriptor of a new file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


# How often this process was forked, and a lock that is held while it is: no file is mapped between count and fork.
_num_forks = 0
_no_fork = threading.RLock()


def _before_fork() -> None:
    global _num_forks
    _no_fork.acquire()
    _num_forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_no_fork.release, after_in_child=_no_fork.release)
