"""`videoflamingo ask`: questions about videos answered, videos captioned, or given answers ranked."""

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoflamingo.clip import Clip
from videoflamingo.decoding import Decoding
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.prompt import Shot
from videoflamingo.startup import collection_paused
from videoflamingo.video import READERS, Sampling, load_clip

if TYPE_CHECKING:
    from videoflamingo.pipeline import VideoFlamingo

_INPUT_FAILED = 3

# Field of Decoding: the option that sets it.
_DECODING = {
    "num_beams": "--beams",
    "max_new_tokens": "--max-new-tokens",
    "temperature": "--temperature",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "seed": "--seed",
}

_SHOT_FIELDS = ("video", "start", "end", "question", "answer")
_SHOT_EXAMPLE = '{"video": "cat.mp4", "question": "What moves?", "answer": "a cat"}'


@dataclass(frozen=True)
class ShotLine:
    """One line of a shots file, checked but for the inside of its video.

    Args:
        place: `FILE:LINE`, for messages.
        video: the file, found from the shots file's folder.
        start_seconds, end_seconds: the part to show, None for the video's own ends.
        question: None for a caption.
        answer: what the model shall take as the right answer.
    """

    place: str
    video: Path
    start_seconds: float | None
    end_seconds: float | None
    question: str | None
    answer: str

    def load(self, num_frames: int, reader: str) -> Shot:
        """The shot with its frames.

        Raises:
            UsageError: naming the line, if its video cannot be read or has no such part.
        """
        try:
            clip = load_clip(
                self.video,
                num_frames=num_frames,
                start_seconds=self.start_seconds,
                end_seconds=self.end_seconds,
                reader=reader,
            )
        except (VideoError, SamplingError) as error:
            raise UsageError(f"{self.place}: {error}") from error
        return Shot(clip, self.question, self.answer)


def read_shots(path: Path) -> list[ShotLine]:
    """The lines of a shots file (JSON Lines; empty lines are skipped), each checked.

    Raises:
        UsageError: if the file cannot be read or holds no shot; for a wrong line, naming file, line, field and value.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
        raise UsageError(f"{path}: {why}; a shots file has lines such as {_SHOT_EXAMPLE}") from error
    shots = [_shot_line(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not shots:
        raise UsageError(f"{path}: holds no shot; write lines such as {_SHOT_EXAMPLE}, or leave out --shots")
    return shots


def _shot_line(path: Path, number: int, line: str) -> ShotLine:
    place = f"{path}:{number}"
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        found = f"is not JSON ({error.msg} at column {error.colno})"
        raise UsageError(f"{place}: {found}; write it like {_SHOT_EXAMPLE}") from error
    if not isinstance(fields, dict):
        raise UsageError(f"{place}: {_short(fields)} is not an object; write it like {_SHOT_EXAMPLE}")
    for name, value in fields.items():
        if name not in _SHOT_FIELDS:
            close = get_close_matches(name, _SHOT_FIELDS, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"fields are {', '.join(_SHOT_FIELDS)}"
            raise UsageError(f"{place}: field {name!r} (value {_short(value)}) is unknown; {remedy}")
    video, answer = _text(place, fields, "video"), _text(place, fields, "answer")
    if video is None or answer is None:
        missing = "video" if video is None else "answer"
        raise UsageError(f"{place}: field {missing!r} is missing; write the line like {_SHOT_EXAMPLE}")
    start, end = _seconds(place, fields, "start"), _seconds(place, fields, "end")
    if end is not None and end <= (start or 0.0):
        raise UsageError(
            f"{place}: field 'end' is {end:g}, which is not after the start at {start or 0.0:g} s; raise it"
        )
    file = path.parent / video
    if not file.is_file():
        raise UsageError(f"{place}: field 'video' is {video!r}, but there is no file {file}; correct its path")
    return ShotLine(place, file, start, end, _text(place, fields, "question"), answer)


def _text(place: str, fields: dict[str, object], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise UsageError(
            f"{place}: field {name!r} is {_short(value)}, but must be a text that is not empty; correct it"
        )
    return value


def _seconds(place: str, fields: dict[str, object], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        rule = "must be seconds from 0 upwards"
        raise UsageError(f"{place}: field {name!r} is {_short(value)}, but {rule}; correct it or leave it out")
    return float(value)


def _short(value: object) -> str:
    """A value as it stands in the file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def main(argv: list[str] | None = None) -> int:
    """Run `videoflamingo ask`. What can be wrong with the request is found before the model is loaded.

    Returns:
        0, or 3 if some video failed; the others are still answered.

    Raises:
        UsageError: if the options or the shots file are wrong.
        ModelError: if there is no such model or device.
    """
    arguments = _parser().parse_args(argv)
    _check(arguments)
    shot_lines = [] if arguments.shots is None else read_shots(arguments.shots)

    with collection_paused():  # here, because these import torch, which takes two seconds
        from videoflamingo.models.checkpoint import find_checkpoint, read_config
        from videoflamingo.pipeline import choose_device, load

    read_config(find_checkpoint(arguments.model))
    choose_device(arguments.device)
    shots = [line.load(arguments.num_frames, arguments.reader) for line in shot_lines]
    model = None
    num_failed = 0
    for source in arguments.videos:
        try:
            clip = load_clip(
                source,
                num_frames=arguments.num_frames,
                start_seconds=arguments.start,
                end_seconds=arguments.end,
                reader=arguments.reader,
                tolerance_seconds=arguments.tolerance,
                images_per_second=arguments.images_per_second if Path(source).is_dir() else None,
            )
        except (VideoError, SamplingError) as error:
            num_failed += 1
            if arguments.json:
                print(json.dumps({"video": source, "error": str(error)}), flush=True)
            print(f"videoflamingo ask: {error}", file=sys.stderr)
            continue
        if model is None:  # not before there is something to answer
            model = load(arguments.model, device=arguments.device, dtype=arguments.dtype)
        if arguments.stream:
            _print_stream(model, clip, shots, arguments, "" if len(arguments.videos) == 1 else f"{source}: ")
            continue
        record = _record(model, clip, shots, arguments)
        if arguments.json:
            print(json.dumps({"video": source, **record}), flush=True)
        else:
            answer = " ".join(str(record["answer"]).split())  # on one line, whatever the model wrote
            print(answer if len(arguments.videos) == 1 else f"{source}: {answer}", flush=True)
    return _INPUT_FAILED if num_failed else 0


def _check(arguments: argparse.Namespace) -> None:
    Sampling(num_frames=arguments.num_frames)
    start, end, choices = arguments.start, arguments.end, arguments.choices
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--start {start:g} is not before --end {end:g}; give an --end after --start")
    if arguments.question is not None and not arguments.question.strip():
        raise UsageError("--question is empty; write one, or leave it out for a caption")
    if choices is None and arguments.rank_by is not None:
        raise UsageError(f"--rank-by {arguments.rank_by} needs answers to rank; add --choices A B ...")
    if choices is not None and (len(set(choices)) < len(choices) or not all(choice.strip() for choice in choices)):
        raise UsageError(f"--choices {choices}: one is empty or given twice; give different, non-empty answers")
    try:
        decoding = Decoding(**_options(arguments))
    except UsageError as error:
        raise UsageError(re.sub(r"\w+", lambda word: _DECODING.get(word[0], word[0]), str(error))) from error
    if choices is not None and (decoding.samples or arguments.stream):
        raise UsageError("--choices ranks given answers, so none is drawn or streamed; leave out the one or the other")
    if arguments.stream and (arguments.json or decoding.num_beams > 1):
        raise UsageError("--stream shows a single answer while it is written; leave out --json, and --beams above 1")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Decoding` that were given."""
    given = {name: getattr(arguments, name) for name in _DECODING}
    return {name: value for name, value in given.items() if value is not None}


def _print_stream(
    model: "VideoFlamingo", clip: Clip, shots: list[Shot], arguments: argparse.Namespace, start: str
) -> None:
    """An answer on one line, as it is written."""
    print(start, end="", flush=True)
    said = shown = ""
    for piece in model.stream(clip, arguments.question, shots=shots, **_options(arguments)):
        said += piece
        line = " ".join(said.split())
        print(line[len(shown) :], end="", flush=True)
        shown = line
    print(flush=True)


def _record(model: "VideoFlamingo", clip: Clip, shots: list[Shot], arguments: argparse.Namespace) -> dict[str, object]:
    """What `--json` prints of one video, but for its name."""
    if arguments.choices is None:
        ranked = []
        best = model.answer(clip, arguments.question, shots=shots, **_options(arguments))
    else:
        ranked = model.rank(clip, arguments.question, arguments.choices, shots=shots, by=arguments.rank_by or "sum")
        best = ranked[0]
    record: dict[str, object] = {
        "question": arguments.question,
        "answer": best.text,
        "score": best.score,
        "num_tokens": best.num_tokens,
        "frame_times": clip.pts_seconds.tolist(),
        "reader": clip.reader,
        "model": model.name,
        "num_shots": len(shots),
    }
    if ranked:
        record["choices"] = [
            {"choice": answer.text, "score": answer.score, "num_tokens": answer.num_tokens} for answer in ranked
        ]
    return record


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videoflamingo ask",
        description="Answer a question about videos; without a question, caption them; with --choices, pick an answer.",
    )
    parser.add_argument(
        "videos", metavar="VIDEO", nargs="+", help="video or picture file, URL, or folder of numbered pictures"
    )
    parser.add_argument("-q", "--question", help="what to ask (default: caption the video)")
    parser.add_argument(
        "--shots", type=Path, metavar="FILE.jsonl", help=f"examples to go by, one a line: {_SHOT_EXAMPLE}"
    )
    parser.add_argument("--model", default="tiny", metavar="NAME|DIR", help="bundled model or folder (default: tiny)")
    parser.add_argument("--num-frames", type=int, default=8, metavar="N", help="frames of each video (default: 8)")
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
    parser.add_argument("--images-per-second", type=float, metavar="R", help="of videos that are folders of pictures")
    parser.add_argument("--choices", nargs="+", metavar="A", help="answers to pick from; put the videos before this")
    parser.add_argument(
        "--rank-by",
        choices=("sum", "mean"),
        help="compare choices by summed log-probability, or by its mean over tokens (default: sum)",
    )
    parser.add_argument(
        "--beams",
        dest="num_beams",
        type=int,
        metavar="N",
        help="beam search's width; 1 = greedy (default: 3, or 1 where tokens are drawn or streamed)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=30, metavar="N", help="bound on an answer's length (default: 30)"
    )
    parser.add_argument(
        "--temperature", type=float, metavar="X", help="draw the answer's tokens, the lower the likelier"
    )
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw among the likeliest that together have this share"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="draw among this many likeliest")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same again")
    parser.add_argument("--stream", action="store_true", help="show the answer while it is written")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="type of the weights (default: auto, which is bfloat16 where it is fast)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    return parser
