"""Processes that read clips, kept from file to file, each killed and replaced when a decoder hangs, crashes or gorges.

    with DecodePool(num_workers=4, deadline_seconds=30) as pool:
        for path, clip in pool.map_in_order(paths, lambda path: pool.read(path, Sampling(num_frames=8))):
            try:
                use(clip.result())
            except VideoError as error:
                print(error)  # names the file and the cause; the next files are read all the same

Frames are not copied on their way: the worker decodes into an anonymous file in memory, and `Clip.frames` is that file,
mapped here. One thread here supervises each worker. See `worker` for what runs there, `frame_memory` for the files, and
docs/decisions/0014 for why.
"""

import atexit
import contextlib
import math
import os
import pickle
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

from videoflamingo.clip import Clip
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.video.decode_process import (
    NEED_LESS,
    DecodeProcess,
    WorkerLostError,
    current_folder,
    received,
    too_large,
)
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import Sampling
from videoflamingo.video.source import SourceFile
from videoflamingo.video.worker import Failure, Raised, gibibytes, read_shared

# How a worker may be asked; also the remedy where it cannot.
_IMPORTABLE = (
    "functions and classes in a call must come from a module that is not the main script, and everything in it must be "
    "picklable"
)

Answer = TypeVar("Answer")
Request = TypeVar("Request")

# An interpreter with NumPy and FFmpeg's libraries takes 70 MB; below this hardly a video can be decoded.
MIN_MEMORY_BYTES = 256 << 20
# A killed pool's threads end at once, unless one wants to answer a future that Ctrl-C left locked: between taking its
# lock and noting that, the thread that waited for it was interrupted, and nobody will ever free it.
STUCK_SECONDS = 5.0


class DecodePool:
    """Worker processes that read clips, and survive any file.

    Workers start when they are first needed (0.3 s) and are kept. Close the pool, best by `with`; a pool that is
    dropped finishes what was asked of it and ends its workers, and no worker outlives this process.

    Args:
        num_workers: processes; None for one per core this process may use.
        deadline_seconds: how long one file may take before its worker is killed.
        memory_limit_bytes: how much a worker may hold, frames included; it is replaced when it wants more.
        files_per_worker: a worker is replaced after so many files, which ends slow leaks of decoders.

    Raises:
        UsageError: if a number is out of range.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        *,
        deadline_seconds: float = 60.0,
        memory_limit_bytes: int = 4 << 30,
        files_per_worker: int = 500,
    ) -> None:
        if os.name == "nt":
            raise UsageError("DecodePool needs a POSIX system, such as Linux; here use load_clip(..., isolated=False)")
        if num_workers is None:
            num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if num_workers < 1:
            raise UsageError(f"num_workers={num_workers}: a pool needs 1 worker or more")
        _check_deadline(deadline_seconds)
        if memory_limit_bytes < MIN_MEMORY_BYTES:
            raise UsageError(
                f"memory_limit_bytes={memory_limit_bytes}: a worker needs {MIN_MEMORY_BYTES} bytes "
                f"({gibibytes(MIN_MEMORY_BYTES)}) or more"
            )
        if files_per_worker < 1:
            raise UsageError(f"files_per_worker={files_per_worker}: give 1 file or more")
        self.num_workers = num_workers
        self.deadline_seconds = deadline_seconds
        self._crew = _Crew(num_workers, memory_limit_bytes, files_per_worker)
        weakref.finalize(self, self._crew.finish).atexit = False

    def run(
        self, name: str, function: Callable[..., Answer], *args: object, deadline_seconds: float | None = None
    ) -> Future[Answer]:
        """Call `function(*args)` in a worker.

        Args:
            name: the file, for messages.
            function: importable by name, and not from the main script; it, its arguments and what it returns are
                pickled.
            deadline_seconds: for this call; None for the pool's.

        Returns:
            What the function returns, or an error: `VideoError` if it passed the deadline, wanted too much memory, died
            or raised something unforeseen; `UsageError` if it cannot be pickled; an error of this package as raised.

        Raises:
            UsageError: if the pool is closed, belongs to another process, or the deadline is not above 0.
        """
        seconds = self.deadline_seconds if deadline_seconds is None else deadline_seconds
        _check_deadline(seconds)
        task = _Task(name, function, args, seconds, current_folder(), Future())
        self._crew.take(task)
        return task.future

    def read(
        self,
        source: object,
        sampling: Sampling,
        options: ReadOptions | None = None,
        seed: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Future[Clip]:
        """Read one clip in a worker; `"decord"` may be named here.

        Args:
            source: a path, URL, bytes or an open binary file.
            sampling: which frames.
            options: which reader, and how; `num_threads=None` means 1 here, where the workers are the parallelism.
            seed: for random sampling, which takes the same frames wherever it is read.
            deadline_seconds: for this file; None for the pool's.

        Returns:
            The clip, whose `frames` may be written to and take their memory until no array refers to them; or an error,
            as for `run`.

        Raises:
            UsageError: as `run`, or if the source is none.
        """
        file = SourceFile.of(source)
        args = (file, sampling, options or ReadOptions(), seed)
        # The worker adds the first argument of `read_shared`, and what that returns becomes a Clip on its way.
        reading = cast(Callable[..., Clip], read_shared)
        return self.run(file.name, reading, *args, deadline_seconds=deadline_seconds)

    def map_in_order(
        self, requests: Iterable[Request], submit: Callable[[Request], Future[Answer]]
    ) -> Iterator[tuple[Request, Future[Answer]]]:
        """Submit requests as earlier ones are done, so that a million need no million futures, nor their frames.

        Args:
            requests: taken from as needed.
            submit: such as `lambda path: pool.read(path, sampling)`.

        Yields:
            Each request with its future, which is done, in the order of the requests. At most `4 * num_workers` are
            under way; those are cancelled if the iterator is closed early.
        """
        under_way: deque[tuple[Request, Future[Answer]]] = deque()
        try:
            for request in requests:
                if len(under_way) == 4 * self.num_workers:
                    yield _finished(under_way.popleft())
                under_way.append((request, submit(request)))
            while under_way:
                yield _finished(under_way.popleft())
        finally:
            for _, future in under_way:
                future.cancel()

    def close(self, wait: bool = True) -> None:
        """End the pool: what has not begun is cancelled. Afterwards no worker process and no thread of it is left.

        Args:
            wait: let files that are being read be finished, which lasts until their deadlines at most; False kills
                their workers, and their futures say so.
        """
        self._crew.close(kill=not wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *exc_info: object) -> None:
        self.close(wait=exception_type is None)


@dataclass(frozen=True)
class _Task:
    name: str
    function: Callable[..., Any]
    args: tuple[object, ...]
    deadline_seconds: float
    folder: str  # relative paths begin here
    future: Future[Any]


class _Crew:
    """The threads of a pool and what they share. It knows no pool, so that a pool nobody holds can be collected."""

    def __init__(self, num_workers: int, memory_limit_bytes: int, files_per_worker: int) -> None:
        self.memory_limit_bytes = memory_limit_bytes
        self._num_workers = num_workers
        self._files_per_worker = files_per_worker
        self._process = os.getpid()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()  # None: end
        self._lock = threading.RLock()  # closing may come from a signal's handler
        self._threads: list[threading.Thread] = []
        self._num_idle = threading.Semaphore(0)
        self._closed = False
        self._killed = False
        self.workers: set[DecodeProcess] = set()
        _CREWS.add(self)

    def take(self, task: _Task) -> None:
        if os.getpid() != self._process:
            raise UsageError(
                f"{task.name}: this DecodePool belongs to process {self._process}, from which this one was forked, and "
                f"cannot be used here; make the pool in the process that uses it (for a DataLoader: in its workers, "
                f"when the first item is asked for)"
            )
        with self._lock:
            if self._closed:
                raise UsageError(f"{task.name}: this DecodePool is closed; make another, or read before it is closed")
            self._tasks.put(task)
            if not self._num_idle.acquire(blocking=False) and len(self._threads) < self._num_workers:
                name = f"decode-{len(self._threads)}"
                thread = threading.Thread(target=self._supervise, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def finish(self) -> None:
        """End once everything asked for is answered, without waiting here. Takes no lock: collection may call this."""
        for _ in range(self._num_workers):
            self._tasks.put(None)

    def close(self, kill: bool) -> None:
        if os.getpid() != self._process:  # the threads and workers are those of another process
            return
        with self._lock:
            self._closed = True
            self._killed = self._killed or kill
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None and (task.future.cancel() or task.future.cancelled()):
                    task.future.set_running_or_notify_cancel()  # wakes who waits for it
        self.finish()
        try:
            self._join()
        except BaseException:  # Ctrl-C while waiting: not a moment longer
            self._killed = True
            self._join()
            raise

    def _join(self) -> None:
        for thread in list(self._threads):
            if thread is not threading.current_thread():  # as in a future's callback
                thread.join(STUCK_SECONDS if self._killed else None)
                if thread.is_alive():  # it ends with this process
                    self._threads.remove(thread)
                    for worker in list(self.workers):
                        self._dismiss(worker)

    def _supervise(self) -> None:
        """Life of a thread: take tasks and have its worker answer them."""
        worker: DecodeProcess | None = None
        try:
            while True:
                try:
                    task = self._tasks.get_nowait()
                except queue.Empty:
                    self._num_idle.release()
                    task = self._tasks.get()
                if task is None:
                    return
                if task.future.set_running_or_notify_cancel():
                    try:
                        worker = self._answer(task, worker)
                    except BaseException as error:  # noqa: BLE001 (nobody must wait in vain; the future has the error)
                        if worker is not None:
                            self._dismiss(worker)
                        worker = None
                        if not task.future.done():
                            task.future.set_exception(error)
                del task  # holds the frames, if nobody else does any more
        finally:
            if worker is not None:
                self._dismiss(worker)

    def _answer(self, task: _Task, worker: DecodeProcess | None) -> DecodeProcess | None:
        """Finish a task's future.

        Returns:
            The worker for the next task; None if there is none.
        """
        try:
            request = pickle.dumps((task.function, task.args), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 (whatever a class raises while it is pickled; it is reported)
            task.future.set_exception(_not_pickled(task, error))
            return worker
        if worker is not None and not worker.waits():  # killed from outside since its last file
            self._dismiss(worker)
            worker = None
        try:
            worker = worker or self._start()
            message = (task.folder, worker.given_back.take_all(), request)
            body, descriptors = worker.ask(
                pickle.dumps(message, pickle.HIGHEST_PROTOCOL), task.deadline_seconds, self._is_killed
            )
        except WorkerLostError as lost:
            if worker is not None:
                self._dismiss(worker)
            task.future.set_exception(VideoError(f"{task.name}: {lost.reason}; {lost.remedy}"))
            return None
        answer = received(body, descriptors, worker.given_back)
        # One that ran out of memory may be in any state, and no file pays for what others leaked.
        spent = isinstance(answer, Failure) and answer.kind == "memory"
        spent = spent or worker.resident_bytes(shared=False) > self.memory_limit_bytes // 2
        if spent or worker.num_files >= self._files_per_worker:
            self._dismiss(worker)
            worker = None
        if isinstance(answer, Failure):
            task.future.set_exception(_error_of(task, answer, self.memory_limit_bytes))
        elif isinstance(answer, Raised):
            task.future.set_exception(answer.error)
        else:
            task.future.set_result(answer)
        return worker

    def _start(self) -> DecodeProcess:
        remedy = "check that this program can start processes and import videoflamingo in them"
        try:
            worker = DecodeProcess(self.memory_limit_bytes)
        except OSError as error:
            raise WorkerLostError(f"no decoding process could be started ({error})", remedy) from error
        self.workers.add(worker)
        try:
            worker.wait_until_ready(self._is_killed)
        except WorkerLostError as lost:
            self._dismiss(worker)
            if self._killed:
                raise
            raise WorkerLostError(f"no decoding process could be started: {lost.reason}", remedy) from lost
        return worker

    def _dismiss(self, worker: DecodeProcess) -> None:
        worker.end()
        self.workers.discard(worker)

    def _is_killed(self) -> bool:
        return self._killed


def _error_of(task: _Task, failure: Failure, memory_limit_bytes: int) -> Exception:
    error: Exception
    if failure.kind == "memory":
        return VideoError(f"{task.name}: {too_large(memory_limit_bytes)}; {NEED_LESS}")
    if failure.kind == "request":
        error = UsageError(
            f"{task.name}: a decode worker cannot understand the call of {_name_of(task.function)} ({failure.cause}); "
            f"{_IMPORTABLE}"
        )
    elif failure.kind == "answer":
        error = UsageError(
            f"{task.name}: what {_name_of(task.function)} returned cannot be sent from a decode worker "
            f"({failure.cause}); return arrays, dataclasses and other things that can be pickled"
        )
    else:
        error = VideoError(
            f"{task.name}: {_name_of(task.function)} failed in a decode worker ({failure.cause}); the traceback from "
            f"there follows"
        )
    error.add_note(failure.details)
    return error


def _not_pickled(task: _Task, error: Exception) -> UsageError:
    return UsageError(
        f"{task.name}: the call of {_name_of(task.function)} cannot be sent to a decode worker "
        f"({type(error).__name__}: {error}); {_IMPORTABLE}"
    )


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _check_deadline(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"deadline_seconds={seconds}: give seconds above 0")


def _finished(under_way: tuple[Request, Future[Answer]]) -> tuple[Request, Future[Answer]]:
    wait([under_way[1]])
    return under_way


def _kill_all() -> None:
    """When this process exits: no pool that was left open keeps a worker, or keeps the exit waiting."""
    for crew in list(_CREWS):
        crew.close(kill=True)


def _forget_all() -> None:
    """In a forked process: give up the sockets, so that a worker sees their end when the process it belongs to dies."""
    for crew in list(_CREWS):
        for worker in list(crew.workers):
            worker.forget()


_CREWS: weakref.WeakSet[_Crew] = weakref.WeakSet()
atexit.register(_kill_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
