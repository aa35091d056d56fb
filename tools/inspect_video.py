"""`videoflamingo inspect`: what is in video files, which times would be sampled, and which frames are shown then."""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from videoflamingo.clip import Clip, VideoInfo
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video import READERS, DecodePool, ReadOptions, Sampling, contact_sheet, open_video, read_clip
from videoflamingo.video.sampling import SamplingMethod

_INPUT_FAILED = 3
_SEED = 0  # the same random times at every look

_DURATION_SOURCES = {
    "stream": "stream header",
    "container": "container header",
    "frames": "end of the last frame; the headers are silent or wrong",
    "folder": "number of pictures and their rate",
    "picture": "a picture",
}


@dataclass(frozen=True)
class Inspection:
    """What is in one file, the times asked for, and the clip those gave."""

    info: VideoInfo
    times_seconds: list[float]
    clip: Clip


def inspect(source: str, sampling: Sampling, options: ReadOptions) -> Inspection:
    """Look into one file and sample it.

    Raises:
        VideoError: if the file cannot be read.
        SamplingError: if the sampling does not fit it.
    """
    isolated = options.reader == "decord"
    with open_video(source, replace(options, reader="auto") if isolated else options) as video:
        info = video.info
        rng = np.random.default_rng(_SEED)
        clip = None if isolated else read_clip(video, sampling, rng, tolerance_seconds=options.tolerance_seconds)
    if clip is None:
        with DecodePool(1) as pool:
            clip = pool.read(source, sampling, options, _SEED).result()
    if info.duration_from == "picture":
        return Inspection(info, [0.0], clip)
    rng = np.random.default_rng(_SEED)
    return Inspection(info, sampling.times(source, info.duration_seconds, info.last_frame_seconds, rng), clip)


def main(argv: list[str] | None = None) -> int:
    """Run `videoflamingo inspect`.

    Returns:
        0, or 3 if some file failed; the others are still done.

    Raises:
        UsageError: if the options contradict each other, or the contact sheet cannot be written.
    """
    arguments = _parser().parse_args(argv)
    sampling = _sampling(arguments)
    options = ReadOptions(
        arguments.reader, tolerance_seconds=arguments.tolerance, images_per_second=arguments.images_per_second
    )
    if arguments.contact_sheet is not None:
        _check_destination(arguments.contact_sheet)
    clips, num_failed = [], 0
    for source in arguments.videos:
        try:
            inspection = inspect(source, sampling, options)
        except (VideoError, SamplingError) as error:
            num_failed += 1
            if arguments.json:
                print(json.dumps({"video": source, "error": str(error)}), flush=True)
            print(f"videoflamingo inspect: {error}", file=sys.stderr)
            continue
        print(json.dumps(_record(source, inspection)) if arguments.json else _text(inspection), flush=True)
        if arguments.contact_sheet is not None:
            clips.append(inspection.clip)
    if clips:
        sheet = contact_sheet(clips)
        try:
            sheet.save(arguments.contact_sheet)
        except OSError as error:
            raise UsageError(f"{arguments.contact_sheet}: cannot be written ({error}); name another file") from error
        print(f"contact sheet: {arguments.contact_sheet} ({sheet.width}x{sheet.height})", file=sys.stderr)
    return _INPUT_FAILED if num_failed else 0


def _sampling(arguments: argparse.Namespace) -> Sampling:
    method = arguments.sampling
    if method is None:
        method = "uniform" if arguments.fps is None else "fps"
    return Sampling(
        method=method,
        num_frames=arguments.num_frames,
        frames_per_second=arguments.fps,
        max_frames=arguments.max_frames,
        start_seconds=arguments.start,
        end_seconds=arguments.end,
    )


def _check_destination(path: Path) -> None:
    if path.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"{path}: not the name of a picture; end it in .png")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; create it first")


def _record(source: str, inspection: Inspection) -> dict[str, object]:
    info = asdict(inspection.info)
    del info["source"]
    return {
        "video": source,
        **info,
        "times_asked": inspection.times_seconds,
        "frame_times": inspection.clip.pts_seconds.tolist(),
        "reader": inspection.clip.reader,
        "reader_reason": inspection.clip.reader_reason,
    }


def _text(inspection: Inspection) -> str:
    info, clip = inspection.info, inspection.clip
    rotation = f", turned {info.rotation} degrees clockwise to be upright" if info.rotation else ""
    size = f"{info.width}x{info.height}{rotation}"
    lines = [info.source, f"  picture   {size}, {info.codec}, {info.pixel_format}, {info.num_bytes:,} bytes"]
    if info.duration_from != "picture":
        kind = {True: "variable", False: "constant", None: "constant or variable, unknown"}[info.variable_frame_rate]
        rate = "unknown" if info.frames_per_second is None else f"{info.frames_per_second:.6g} frames per second"
        count = "no frame count" if info.num_frames_from_header is None else f"{info.num_frames_from_header} frames"
        hidden = "; an edit list hides some frames" if info.edit_list else ""
        lines += [
            f"  duration  {info.duration_seconds:.3f} s ({_DURATION_SOURCES[info.duration_from]}), "
            f"first frame at {info.start_seconds:.3f} s of the file's clock",
            f"  rate      {rate} ({kind}), {count} in the header{hidden}",
        ]
    return "\n".join(
        [
            *lines,
            f"  asked     {_seconds(inspection.times_seconds)}",
            f"  got       {_seconds(clip.pts_seconds.tolist())}   ({clip.reader}: {clip.reader_reason})",
        ]
    )


def _seconds(times: list[float]) -> str:
    return " ".join(f"{time:.3f}" for time in times) + " s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videoflamingo inspect",
        description="Show what is in video files, which times would be sampled, and which frames are shown then.",
    )
    parser.add_argument(
        "videos", metavar="VIDEO", nargs="+", help="video or picture file, URL, or folder of numbered pictures"
    )
    parser.add_argument("--num-frames", type=int, default=8, help="frames to sample (default: 8)")
    parser.add_argument(
        "--sampling", choices=get_args(SamplingMethod), help="how times are chosen (default: uniform; fps with --fps)"
    )
    parser.add_argument("--fps", type=float, help="frames per second to sample, in place of --num-frames")
    parser.add_argument("--max-frames", type=int, help="with --fps: sample this many evenly where it would be more")
    parser.add_argument("--start", type=float, metavar="S", help="seconds after the first frame to sample from")
    parser.add_argument("--end", type=float, metavar="S", help="seconds after the first frame to sample to")
    parser.add_argument("--reader", choices=READERS, default="auto", help="what decodes (default: auto, which is pyav)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="S",
        help="take a keyframe this near instead (default: 0, exact)",
    )
    parser.add_argument("--images-per-second", type=float, metavar="R", help="of a folder of numbered pictures")
    parser.add_argument("--contact-sheet", type=Path, metavar="OUT.png", help="draw the sampled frames into a picture")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    return parser
