"""What runs inside a decode process: it answers the requests of a `DecodePool`, one at a time, until the pool is gone.

The process is a bare interpreter, not a `multiprocessing` child: those import the caller's main script again, with
whatever it imports (torch, and an unguarded script would run twice), and cannot be started from a DataLoader's daemonic
workers. It imports no torch.

Requests and answers are pickles on a socket, each after its length. Frames are not among them: they are written to an
anonymous file in memory, whose descriptor goes to the pool; see `frame_memory`.
"""

import ctypes
import errno
import math
import os
import pickle
import signal
import socket
import struct
import sys
import traceback
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from videoflamingo.clip import Clip
from videoflamingo.errors import VideoError, VideoFlamingoError
from videoflamingo.video.frame_memory import FrameFile, FrameFiles
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.reader import open_video, read_clip
from videoflamingo.video.sampling import Sampling
from videoflamingo.video.source import SourceFile

# Before each pickle: seconds the request may take and its length in bytes; of an answer, its length.
REQUEST_HEADER = struct.Struct("<dQ")
ANSWER_HEADER = struct.Struct("<Q")

# The pool kills at the deadline. This much later the kernel does, should the pool be gone or stopped.
ALARM_SLACK_SECONDS = 2.0

_LONGEST_ALARM_SECONDS = 1e8  # a kernel's timer is finite

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer, where it was no error of this package.

    Args:
        kind: `"request"` (it could not be understood), `"memory"`, `"bug"` (an exception nobody foresaw) or `"answer"`
            (it could not be sent).
        cause: one line.
        details: the traceback.
    """

    kind: str
    cause: str
    details: str = ""


@dataclass(frozen=True)
class Raised:
    """An error of this package that the function raised."""

    error: VideoFlamingoError


@dataclass(frozen=True)
class SharedClip:
    """A clip whose frames are in a frame file: all that is needed to see them there.

    Args:
        number: of the file.
        num_bytes: how much of the file, from its beginning, the clip is given.
        offset, shape, strides: of the frames in it, in bytes; they are uint8.
        others: the other fields of the `Clip`.
    """

    number: int
    num_bytes: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    others: dict[str, Any] = field(repr=False)


class ClipMemory:
    """Memory for the frames of one clip that another process can map: a frame file.

    Args:
        name: of the source, for messages.
        files: where the file comes from. More than this process may hold is refused before any is taken.
    """

    def __init__(self, name: str, files: FrameFiles) -> None:
        self._name = name
        self._files = files
        self._memory: np.ndarray | None = None
        self.file: FrameFile | None = None
        self.clip: SharedClip | None = None

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        """An array in a frame file, of any content; an earlier file of this object is given up.

        Raises:
            VideoError: if it needs more than the limit.
        """
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        limit_bytes = self._files.limit_bytes
        if num_bytes > limit_bytes:
            raise VideoError(
                f"{self._name}: {shape[0]} frames of {shape[2]}x{shape[1]} need {gibibytes(num_bytes)}, more than the "
                f"{gibibytes(limit_bytes)} a decode worker may use; ask for fewer frames, or scale them down "
                f"with short_side"
            )
        self.free()
        self.file = self._files.take(num_bytes)
        self._memory = self.file.memory[:num_bytes]
        return self._memory.view(dtype).reshape(shape)

    def hold(self, clip: Clip) -> None:
        """Be the memory of this clip, whose frames are copied only if they are not in it already."""
        frames = clip.frames
        if self._memory is None or not np.may_share_memory(frames, self._memory):  # a picture, or chosen frames
            count, channels, height, width = frames.shape
            there = self.allocate((count, height, width, channels)).transpose(0, 3, 1, 2)
            there[:] = frames
            frames = there
        assert self._memory is not None and self.file is not None
        begin = self._memory.__array_interface__["data"][0]
        offset = frames.__array_interface__["data"][0] - begin
        others = {each.name: getattr(clip, each.name) for each in fields(clip) if each.name != "frames"}
        self.clip = SharedClip(self.file.number, self._memory.nbytes, offset, frames.shape, frames.strides, others)

    def free(self) -> None:
        """Give up the file, which no other process has seen."""
        if self.file is not None:
            self._files.free(self.file)
        self.file, self._memory = None, None


def read_shared(
    files: FrameFiles, source: SourceFile, sampling: Sampling, options: ReadOptions, seed: int | None
) -> ClipMemory:
    """Read a clip into a frame file; what `DecodePool.read` calls in the worker, which adds the files.

    Raises:
        VideoError: if the source cannot be read, or its frames need more memory than the worker may hold.
        SamplingError: if the sampling does not fit the video.
    """
    if options.num_threads is None:  # the pool's workers are the parallelism
        options = replace(options, num_threads=1)
    rng = None if seed is None else np.random.default_rng(seed)
    memory = ClipMemory(source.name, files)
    try:
        with open_video(source, options, killable=True) as video:
            memory.hold(read_clip(video, sampling, rng, memory.allocate, options.tolerance_seconds))
        return memory
    except BaseException:
        memory.free()
        raise


def serve() -> None:
    """The life of a decode process, started as `python -c ... SOCKET PARENT_PID MEMORY_LIMIT_BYTES`."""
    descriptor, parent, limit_bytes = (int(word) for word in sys.argv[1:4])
    os.set_inheritable(descriptor, False)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills, also where the interpreter is stuck and no handler runs
    _die_with(parent)
    _limit_memory(limit_bytes)
    channel = socket.socket(fileno=descriptor)
    files = FrameFiles(limit_bytes)
    channel.sendall(ANSWER_HEADER.pack(0))  # ready
    go_on = True
    while go_on and (header := _receive(channel, REQUEST_HEADER.size)) is not None:
        seconds, num_bytes = REQUEST_HEADER.unpack(header)
        signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST_ALARM_SECONDS) + ALARM_SLACK_SECONDS)
        request = _receive(channel, num_bytes)
        if request is None:
            break
        go_on = _answer(channel, request, files)
        signal.setitimer(signal.ITIMER_REAL, 0)


def gibibytes(num_bytes: float) -> str:
    """A size for people.

    >>> gibibytes(3 << 29), gibibytes(300 << 20)
    ('1.5 GiB', '300 MiB')
    """
    return f"{num_bytes / (1 << 30):.1f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / (1 << 20):.0f} MiB"


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the pool's thread that started it ends, where the kernel can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it is gone already
        sys.exit(0)


def _limit_memory(limit_bytes: int) -> None:
    """Have the kernel refuse more private memory, so that a decoder gets an error before the pool has to kill."""
    import resource  # POSIX only; this module is imported everywhere

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _receive(channel: socket.socket, num_bytes: int) -> bytearray | None:
    """So many bytes; None if the pool has closed its end."""
    received = bytearray(num_bytes)
    rest = memoryview(received)
    while rest:
        count = channel.recv_into(rest)
        if not count:
            return None
        rest = rest[count:]
    return received


def _answer(channel: socket.socket, request: bytearray, files: FrameFiles) -> bool:
    """Do what is asked and send what came of it.

    Returns:
        Whether this process is fit for more.
    """
    answer = _result(request, files)
    file = answer.file if isinstance(answer, ClipMemory) else None
    if isinstance(answer, ClipMemory):
        answer = answer.clip
    try:
        body = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 (whatever a class raises while it is pickled; it is reported)
        answer = _failure("answer", error)
        body = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    message = ANSWER_HEADER.pack(len(body)) + body
    num_sent = 0
    if file is not None:
        num_sent = socket.send_fds(channel, [message], [file.descriptor])
        files.lend(file)
    channel.sendall(memoryview(message)[num_sent:])
    return not (isinstance(answer, Failure) and answer.kind == "memory")


def _result(request: bytearray, files: FrameFiles) -> object:
    try:
        folder, given_back, pickled = pickle.loads(request)
        files.give_back(given_back)
        try:
            os.chdir(folder)
        except OSError:  # it is gone, and a relative path must not mean what it meant in an earlier folder
            os.chdir(os.sep)
        function, args = pickle.loads(pickled)
    except Exception as error:  # noqa: BLE001 (whatever a class raises while it is unpickled; it is reported)
        return _failure("request", error)
    try:
        return read_shared(files, *args) if function is read_shared else function(*args)
    except Exception as error:  # noqa: BLE001 (one file must not stop the others; the error is sent to the pool)
        if _ran_out_of_memory(error):
            return _failure("memory", error)
        return Raised(error) if isinstance(error, VideoFlamingoError) else _failure("bug", error)


def _failure(kind: str, error: Exception) -> Failure:
    if _ran_out_of_memory(error):
        kind = "memory"
    cause = f"{type(error).__name__}: {error}".strip(": ").replace("\n", " ")
    return Failure(kind, cause, "".join(traceback.format_exception(error)))


def _ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether that is behind an error: readers report what a decoder says, and it calls this damage."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or error.__context__
    return False
