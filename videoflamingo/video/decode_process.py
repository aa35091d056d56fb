"""One decode process, seen from the pool: what it is sent and answers, and when it is killed.

The other end is `worker.serve`.
"""

import contextlib
import errno
import mmap
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from videoflamingo.clip import Clip
from videoflamingo.errors import VideoError
from videoflamingo.video.frame_memory import GivenBack, MappedFile
from videoflamingo.video.worker import ANSWER_HEADER, REQUEST_HEADER, Failure, Raised, SharedClip, gibibytes

# How often a waiting thread looks at its worker's memory, and whether the pool was closed.
_LOOK_SECONDS = 0.05

# An interpreter starts in 0.3 s; on a machine that is busy or reads its libraries over a network, it takes far longer.
_START_SECONDS = 120.0

# A worker that is told to end does so in milliseconds; after this it is killed.
_GOODBYE_SECONDS = 5.0

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
NEED_LESS = "ask for fewer frames, scale them down with short_side, or give a larger memory_limit_bytes"
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
_CHUNK_BYTES = 1 << 18
_KEPT_OUTPUT_BYTES = 4096


class WorkerLostError(Exception):
    """A worker ended or was killed: the rest of a sentence that begins with the file, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class DecodeProcess:
    """A running `worker.serve`, the socket to it, and the end of what it printed. One thread uses it, the same always.

    Args:
        memory_limit_bytes: above it, the process is killed.

    Raises:
        OSError: if no process can be started.
    """

    def __init__(self, memory_limit_bytes: int) -> None:
        self.num_files = 0
        self.given_back = GivenBack()
        self._memory_limit_bytes = memory_limit_bytes
        self._seconds = _START_SECONDS
        self._output = b""
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                program = "from videoflamingo.video.worker import serve; serve()"
                words = [str(number) for number in (theirs.fileno(), os.getpid(), memory_limit_bytes)]
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", program, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C is for the parent, and a kill reaches what the worker has started
                    env={**os.environ, "PYTHONPATH": _python_path(), **_ONE_THREAD},
                )
        except BaseException:
            self._channel.close()
            raise
        assert self._process.stdout is not None
        self._printed = self._process.stdout
        self._selector = selectors.DefaultSelector()
        for end in (self._channel, self._printed):
            os.set_blocking(end.fileno(), False)
            self._selector.register(end, selectors.EVENT_READ)

    def wait_until_ready(self, is_killed: Callable[[], bool]) -> None:
        """Wait until it has imported what it needs.

        Raises:
            WorkerLostError: if it ends, or the pool is killed.
        """
        self._exchange(b"", _START_SECONDS, is_killed)

    def ask(self, request: bytes, seconds: float, is_killed: Callable[[], bool]) -> tuple[bytearray, list[int]]:
        """Have one request answered.

        Returns:
            The pickled answer, and descriptors that came with it, which are now the caller's to close.

        Raises:
            WorkerLostError: if it passes the deadline, wants too much memory, or dies; it is dead by then.
        """
        self.num_files += 1
        self._output = b""
        return self._exchange(REQUEST_HEADER.pack(seconds, len(request)) + request, seconds, is_killed)

    def waits(self) -> bool:
        """Whether it is there to take a request: of a dead one the socket has ended."""
        return not any(key.fileobj is self._channel for key, _ in self._selector.select(0))

    def resident_bytes(self, shared: bool = True) -> int:
        """Memory it holds, with or without what it shares (frames, libraries); 0 where no system tells (Linux does)."""
        try:
            descriptor = os.open(f"/proc/{self._process.pid}/statm", os.O_RDONLY)
        except OSError:
            return 0
        try:
            _, resident, of_these_shared, *_ = (int(word) * mmap.PAGESIZE for word in os.read(descriptor, 200).split())
        except (OSError, ValueError):  # it ended just now
            return 0
        finally:
            os.close(descriptor)
        return resident if shared else resident - of_these_shared

    def end(self) -> None:
        """Let it end by itself, which one that waits does at once; kill it if it does not."""
        self.forget()  # so it reads the end of its requests
        try:
            self._process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()

    def forget(self) -> None:
        """Close what this process has of it; in a forked copy of this process that is all there is to do."""
        self._channel.close()
        self._printed.close()
        self._selector.close()

    def _exchange(self, message: bytes, seconds: float, is_killed: Callable[[], bool]) -> tuple[bytearray, list[int]]:
        """Send a message and wait for the answer."""
        self._seconds = seconds
        deadline = time.monotonic() + seconds
        unsent = memoryview(message)
        watches_room = False
        received = bytearray()
        descriptors: list[int] = []
        try:
            while True:
                if unsent:
                    unsent = unsent[self._send(unsent) :]
                if watches_room != bool(unsent):
                    watches_room = bool(unsent)
                    watched = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
                    self._selector.modify(self._channel, watched)
                seconds_left = deadline - time.monotonic()
                for key, events in self._selector.select(max(0.0, min(_LOOK_SECONDS, seconds_left))):
                    if key.fileobj is self._printed:
                        self._keep_printed()
                    elif events & selectors.EVENT_READ and self._receive(received, descriptors):
                        return received[ANSWER_HEADER.size :], descriptors
                self._kill_if_due(deadline, is_killed)
        except BaseException:
            _close_all(descriptors)
            raise

    def _send(self, message: memoryview) -> int:
        """Send what the socket takes now, and say how much."""
        try:
            return self._channel.send(message[:_CHUNK_BYTES])
        except BlockingIOError:
            return 0
        except ConnectionError as error:
            raise self._lost() from error

    def _receive(self, received: bytearray, descriptors: list[int]) -> bool:
        """Take what is there, and say whether that completes the answer."""
        try:
            data, new, _, _ = socket.recv_fds(self._channel, _CHUNK_BYTES, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        except BlockingIOError:
            return False
        except ConnectionError as error:
            raise self._lost() from error
        descriptors.extend(new)
        if not data:
            raise self._lost()
        received += data
        num_bytes = len(received) - ANSWER_HEADER.size
        return num_bytes >= 0 and num_bytes >= ANSWER_HEADER.unpack_from(received)[0]

    def _kill_if_due(self, deadline: float, is_killed: Callable[[], bool]) -> None:
        lost = None
        if is_killed():
            lost = WorkerLostError("not read, because its DecodePool was closed", "close it after its results are in")
        elif time.monotonic() >= deadline:
            lost = _too_late(self._seconds)
        elif self.resident_bytes() > self._memory_limit_bytes:
            lost = WorkerLostError(too_large(self._memory_limit_bytes), NEED_LESS)
        elif self._process.poll() is not None:  # dead, and a process it started keeps the socket open
            lost = self._lost()
        if lost is not None:
            self._kill()
            raise lost

    def _lost(self) -> WorkerLostError:
        """How a worker ended that closed its socket, which it does by dying."""
        try:
            code = self._process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        self._kill()  # and what it has started
        while self._keep_printed():
            pass
        if b"bad_alloc" in self._output:  # how decord takes a refusal of memory
            return WorkerLostError(too_large(self._memory_limit_bytes), NEED_LESS)
        last_line = self._output.decode("utf-8", "replace").strip().rpartition("\n")[2][:300] or "no message"
        if code == -signal.SIGKILL:
            return WorkerLostError(
                "its decoding process died with signal 9 (SIGKILL), sent by another process or the system",
                "if memory ran out, use fewer workers or a smaller memory_limit_bytes",
            )
        if code == -signal.SIGALRM:  # the kernel was quicker than this thread
            return _too_late(self._seconds)
        end = f"code {code}" if code >= 0 else f"signal {-code} ({_signal_name(-code)})"
        return WorkerLostError(
            f"its decoding process died with {end} ({last_line})", "check the file, or convert it with ffmpeg"
        )

    def _keep_printed(self) -> bool:
        """Take what it has printed, so that it never waits for that; whether there was any."""
        try:
            printed = os.read(self._printed.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not printed and self._printed in self._selector.get_map():
            self._selector.unregister(self._printed)  # it has closed its output
        self._output = (self._output + printed)[-_KEPT_OUTPUT_BYTES:]
        return bool(printed)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def received(body: bytearray, descriptors: list[int], given_back: GivenBack) -> object:
    """An answer, with a `Clip` made of the frames in a descriptor; the descriptors are closed.

    Args:
        given_back: where the number of the frames' file is noted when the clip is gone.
    """
    try:
        answer = pickle.loads(body)
        return _clip(answer, descriptors, given_back) if isinstance(answer, SharedClip) else answer
    except Exception as error:  # noqa: BLE001 (whatever a class raises while it is unpickled; it is reported)
        return Failure("answer", f"{type(error).__name__}: {error}", traceback.format_exc())
    finally:
        _close_all(descriptors)


def _clip(shared: SharedClip, descriptors: list[int], given_back: GivenBack) -> Clip | Raised:
    try:
        if not descriptors:  # the kernel drops a descriptor for which this process has no number left
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        memory = np.asarray(MappedFile(descriptors[0], shared.num_bytes, shared.number, given_back))
    except OSError as error:
        return Raised(
            VideoError(
                f"{shared.others['source']}: its frames cannot be mapped into this process ({error.strerror}); hold "
                f"fewer clips and open files at a time"
            )
        )
    frames: np.ndarray = np.ndarray(shared.shape, np.uint8, memory, shared.offset, shared.strides)
    return Clip(frames, **shared.others)


def current_folder() -> str:
    """Where relative paths begin; the root if that folder was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep


def _too_late(seconds: float) -> WorkerLostError:
    return WorkerLostError(
        f"not read within {seconds:g} s, so its decoding process was killed",
        "ask for a shorter range, or give a longer deadline",
    )


def too_large(limit_bytes: int) -> str:
    """What to say of a file whose decoding wants more memory."""
    return f"needs more memory than the {gibibytes(limit_bytes)} a decode worker may use"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return "no name"


def _python_path() -> str:
    """Where this process imports from, so that a worker finds the same modules."""
    entries = [entry or current_folder() for entry in sys.path]
    return os.pathsep.join([*entries, *([] if _PACKAGE_PARENT in entries else [_PACKAGE_PARENT])])


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
