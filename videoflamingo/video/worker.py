"""Reading a clip in a process of its own, killed at a deadline: the only safe place for a decoder that can hang.

The process is a bare interpreter started for one clip (0.3 s), not a `multiprocessing` child: those import the caller's
main script again, with whatever it imports (torch, and an unguarded script would run twice), and cannot be started from
a DataLoader's daemonic workers. Request and answer are pickles over its pipes; both ends are this package.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from videoflamingo.clip import Clip
from videoflamingo.errors import VideoError, VideoFlamingoError
from videoflamingo.video.reader import check_reader, open_video_to_be_killed, read_clip
from videoflamingo.video.sampling import Sampling

Answer = TypeVar("Answer")

_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


def read_isolated(
    source: str, sampling: Sampling, *, reader: str = "auto", seed: int | None = None, deadline_seconds: float = 60.0
) -> Clip:
    """Read a clip in a separate process and kill it if it takes too long.

    Args:
        source: path of a video or picture.
        sampling: which frames.
        reader: `"decord"` or `"pyav"` is used as named; `"auto"` takes decord where it suits the file, and PyAV
            elsewhere or where decord fails.
        seed: for random sampling.
        deadline_seconds: how long the process may live, its start (0.3 s) included.

    Raises:
        VideoError: if the deadline passes, the process dies, or the source cannot be read.
        SamplingError: if the sampling does not fit the video.
    """
    check_reader(reader)
    return run_isolated(source, _read_clip_here, source, sampling, reader, seed, deadline_seconds=deadline_seconds)


def run_isolated(source: str, function: Callable[..., Answer], *args: object, deadline_seconds: float) -> Answer:
    """Call `function(*args)` in a fresh interpreter, killed with SIGKILL at the deadline.

    Args:
        source: what is being read, for messages.
        function: importable by name; it and its arguments are pickled.

    Raises:
        VideoError: if the deadline passes or the process dies.
        VideoFlamingoError: what the function raised of this package's errors, unchanged.
    """
    python_path = os.pathsep.join([_PACKAGE_PARENT, *(entry for entry in sys.path if entry)])
    try:
        process = subprocess.run(
            [sys.executable, "-c", "from videoflamingo.video.worker import serve; serve()"],
            input=pickle.dumps((function, args)),
            capture_output=True,
            timeout=deadline_seconds,
            env={**os.environ, "PYTHONPATH": python_path},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VideoError(
            f"{source}: not read within {deadline_seconds:g} s, so its decoding process was killed; try the reader "
            f"'pyav', a shorter range, or a longer deadline"
        ) from error
    if process.returncode != 0:
        end = "signal " + str(-process.returncode) if process.returncode < 0 else "code " + str(process.returncode)
        last_line = process.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise VideoError(
            f"{source}: its decoding process died with {end} ({last_line or 'no message'}); try the reader 'pyav'"
        )
    answer = pickle.loads(process.stdout)
    if isinstance(answer, VideoFlamingoError):
        raise answer
    return answer


def serve() -> None:
    """Answer one request on stdin; the entry point of the process."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder's library prints must not mix with the answer
    function, args = pickle.loads(sys.stdin.buffer.read())
    try:
        answer = function(*args)
    except VideoFlamingoError as error:
        answer = error
    with answers:
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)


def _read_clip_here(source: str, sampling: Sampling, reader: str, seed: int | None) -> Clip:
    rng = None if seed is None else np.random.default_rng(seed)
    try:
        with open_video_to_be_killed(source, reader) as video:
            return read_clip(video, sampling, rng)
    except VideoError:
        if reader != "auto":
            raise
    # decord failed or refused, or the file is damaged: PyAV reads it, or explains why it cannot be read.
    rng = None if seed is None else np.random.default_rng(seed)
    with open_video_to_be_killed(source, "pyav") as video:
        return read_clip(video, sampling, rng)
