"""Every kind of file through every reader, judged by a sequential ffmpeg decode; writes docs/readers.md.

    python tests/video/readers_table.py                # all of it, about six minutes on one core
    python tests/video/readers_table.py --kinds "HEVC MP4" --readers pyav decord --json table.json

Each cell runs in a process of its own that is killed at a deadline: a decoder may hang or abort.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.video.kinds import CLOSE, KINDS, Kind, Shown, build, read_index, shown_by_ffmpeg, shown_of_undamaged  # noqa: E402
from videoflamingo.errors import VideoError  # noqa: E402
from videoflamingo.video.options import ReadOptions  # noqa: E402
from videoflamingo.video.reader import VideoReader, open_video  # noqa: E402

READERS = ("auto", "pyav", "decord", "torchcodec")
DOCUMENT = ROOT / "docs" / "readers.md"
DEADLINE_SECONDS = 60
MEMORY_BYTES = 12 << 30  # of addresses, torch's own included; a bomb must not take the machine down

# Times read by another library pass through float32 (decord) or other roundings; frames are at least 10 ms apart.
TIME_TOLERANCE_SECONDS = 2e-3

# Mean levels of 255 by which pixels of decord and torchcodec, which use other FFmpegs, may differ from ffmpeg's.
OTHER_FFMPEG_CLOSE = 1.0

EXACT, SALVAGED, REFUSED, PARTLY = "exact", "salvaged", "refused", "PARTLY"
WRONG, HANG, CRASH = "WRONG", "HANG", "CRASH"


@dataclass
class Tally:
    """What a reader answered of one kind.

    Args:
        right: times answered with the frame ffmpeg shows, or that the undamaged file shows.
        concealed: those of them that only ffmpeg shows: damage painted over by the decoder.
        refused: times that ended in a `VideoError`.
        wrong: what was wrong, in words, one for each time.
        reasons: distinct messages of the `VideoError`s.
        largest_difference: of the pixels of right frames, mean levels of 255.
        reader: the reader that answered.
    """

    right: int = 0
    concealed: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    largest_difference: float = 0.0
    reader: str = ""

    def word(self, damaged: bool) -> str:
        """The word for the table."""
        if self.wrong:
            return WRONG
        if not self.refused:
            return EXACT
        if not self.right:
            return REFUSED
        return SALVAGED if damaged else PARTLY

    def refuse(self, error: VideoError, times: int) -> None:
        self.refused += times
        if str(error) not in self.reasons:
            self.reasons.append(str(error))


def examine(
    open_reader: Callable[[], VideoReader],
    shown: Shown,
    undamaged: Shown | None = None,
    close: float = 0.0,
    progress: Callable[[str], None] = lambda stage: None,
) -> Tally:
    """Ask a reader for frames in every way, and compare each with what ffmpeg shows.

    25 times at random in one call; each frame's own time, and just before it; before the first frame and after the
    last; ten random times one by one; and four each alone in a newly opened reader. Where a call ends in a
    `VideoError`, each of its times is asked again alone, of the same reader.

    Args:
        shown: what ffmpeg shows; empty if nothing may be answered.
        undamaged: what ffmpeg shows of the file before it was damaged.
        close: mean levels of 255 by which pixels may differ.
        progress: told what is asked next.
    """
    tally = Tally()
    if not len(shown):
        progress("opening, then time 0")
        try:
            with open_reader() as reader:
                frames, _ = reader.frames_at([0.0])
                tally.wrong.append(f"answered a frame of {list(frames.shape[1:])}, where there is none to show")
        except VideoError as error:
            tally.refuse(error, 1)
        return tally
    whole = shown if undamaged is None else undamaged
    rng = np.random.default_rng(0)
    at_random = rng.uniform(0, whole.times[-1] + 0.02, 25).tolist()
    calls = {
        "25 random times": at_random,
        "each frame's own time": whole.times.tolist(),
        "just before each frame": (whole.times[1:] - 1e-4).tolist() or [0.0],
        "before the first and after the last": [-1.0, whole.times[-1] + 1000.0],
    }
    calls |= {f"time {time:.4f} alone": [time] for time in at_random[5:15]}
    alone = at_random[:4]
    try:
        progress("opening")
        with open_reader() as reader:
            tally.reader = reader.name
            for what, times in calls.items():
                progress(what)
                _ask(reader, times, shown, undamaged, close, tally, what)
        for time in alone:
            progress(f"time {time:.4f} in a new reader")
            with open_reader() as reader:
                _ask(reader, [time], shown, undamaged, close, tally, "alone in a new reader")
    except VideoError as error:
        tally.refuse(error, sum(len(times) for times in calls.values()) + len(alone))
    return tally


def _ask(
    reader: VideoReader,
    times: Sequence[float],
    shown: Shown,
    undamaged: Shown | None,
    close: float,
    tally: Tally,
    what: str,
) -> None:
    try:
        frames, pts_seconds = reader.frames_at(times)
    except VideoError as error:
        if len(times) == 1:
            tally.refuse(error, 1)
            return
        for time in times:
            _ask(reader, [time], shown, undamaged, close, tally, what + ", one by one after an error")
        return
    for time, frame, pts in zip(times, frames, pts_seconds, strict=True):
        upright = frame.transpose(1, 2, 0)  # [height, width, 3]
        difference = _difference(upright, float(pts), shown, time)
        if difference <= close:
            tally.concealed += undamaged is not None and _difference(upright, float(pts), undamaged, time) > close
        elif undamaged is not None:
            difference = _difference(upright, float(pts), undamaged, time)
        if difference <= close:
            tally.right += 1
            tally.largest_difference = max(tally.largest_difference, difference)
        else:
            at = shown.at(time)
            tally.wrong.append(
                f"{what}: asked {time:.6f} s, got frame {read_index(upright)} of {upright.shape[1]}x{upright.shape[0]} "
                f"at {pts:.6f} s, expected frame {read_index(shown.frames[at])} at {shown.times[at]:.6f} s "
                f"(mean difference {difference:.2f})"
            )


def _difference(frame: np.ndarray, pts_seconds: float, shown: Shown, seconds: float) -> float:
    """Mean difference in levels from the frame to be shown; infinite if size, index or time is another."""
    at = shown.at(seconds)
    expected = shown.frames[at]
    if frame.shape != expected.shape or abs(pts_seconds - shown.times[at]) > TIME_TOLERANCE_SECONDS:
        return np.inf
    if read_index(frame) != read_index(expected):
        return np.inf
    return float(np.abs(frame.astype(np.int16) - expected).mean())


@dataclass
class Cell:
    """One kind through one reader.

    Args:
        word: for the table.
        tally: what was answered; None if the process hung or died.
        stage: what was asked last, if it did.
    """

    kind: str
    reader: str
    word: str
    tally: Tally | None
    stage: str = ""


def closeness(kind: Kind, reader: str) -> float:
    """Mean levels of 255 by which this reader's pixels may differ from ffmpeg's."""
    return max(kind.close, OTHER_FFMPEG_CLOSE) if reader in ("decord", "torchcodec") else kind.close


def run_cell(kind: Kind, reader: str, folder: Path, deadline_seconds: float = DEADLINE_SECONDS) -> Cell:
    """Run one cell in a process of its own, killed at the deadline."""
    path = build(kind, folder)
    order = {
        "path": path,
        "reader": reader,
        "images_per_second": kind.images_per_second,
        "close": closeness(kind, reader),
    }
    own = Path(tempfile.mkdtemp(dir=folder))
    stage = own / "stage"
    stage.write_text("starting")
    (own / "order.json").write_text(json.dumps(order))
    shown, undamaged = shown_by_ffmpeg(kind, folder), shown_of_undamaged(kind, folder)
    np.savez(own / "shown.npz", times=shown.times, frames=shown.frames)
    if undamaged is not None:
        np.savez(own / "undamaged.npz", times=undamaged.times, frames=undamaged.frames)
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--cell", str(own)], capture_output=True, timeout=deadline_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Cell(kind.name, reader, HANG, None, stage.read_text())
    if done.returncode != 0:
        last_line = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Cell(kind.name, reader, CRASH, None, f"{stage.read_text()}: exit status {done.returncode}, {last_line}")
    tally = Tally(**json.loads((own / "tally.json").read_text()))
    tally.reasons = [reason.removeprefix(f"{path}: ").replace(path, "FILE") for reason in tally.reasons]
    return Cell(kind.name, reader, tally.word(undamaged is not None), tally)


def serve_cell(own: Path) -> None:
    """The program of the cell's process: whatever is not a `VideoError` ends it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    order = json.loads((own / "order.json").read_text())
    options = ReadOptions(reader=order["reader"], images_per_second=order["images_per_second"])

    def progress(stage: str) -> None:
        (own / "stage").write_text(stage)

    undamaged = _load(own / "undamaged.npz") if (own / "undamaged.npz").exists() else None
    tally = examine(
        lambda: open_video(order["path"], options, killable=True),
        _load(own / "shown.npz"),
        undamaged,
        order["close"],
        progress,
    )
    (own / "tally.json").write_text(json.dumps(asdict(tally)))


def _load(path: Path) -> Shown:
    with np.load(path) as saved:
        return Shown(saved["times"], saved["frames"])


def run_table(kinds: Iterable[str], readers: Sequence[str], folder: Path, jobs: int) -> list[Cell]:
    """All cells, each kind's files made first."""
    orders = [(KINDS[kind], reader) for kind in kinds for reader in readers]
    for kind, _ in orders:
        build(kind, folder)
        shown_by_ffmpeg(kind, folder)
        shown_of_undamaged(kind, folder)
    cells = []
    with ThreadPoolExecutor(jobs) as pool:
        for cell in pool.map(lambda order: run_cell(order[0], order[1], folder), orders):
            cells.append(cell)
            print(f"{len(cells):4d} of {len(orders)}  {cell.word:9s} {cell.reader:10s} {cell.kind}", flush=True)
            for line in cell.tally.wrong[:3] if cell.tally else [cell.stage]:
                print(f"      {line}", flush=True)
    return cells


WORDS = f"""# What each reader makes of each kind of file

Written by `python tests/video/readers_table.py`; the same words are asserted by `tests/video/test_kinds.py`.

Every kind below is made by `tests/video/kinds.py`: 128 x 96 pixels, a few seconds, each frame with its number
drawn in it. The judge is the program `ffmpeg`, which decodes the whole file in order on one thread, with the
file's own times and without dropping or repeating frames. Times count from the first frame it shows, and the
frame for a time is the last that starts at or before it.

Of each reader are asked: 25 random times in random order in one call; every frame's own time, and 0.1 ms before
it; a time before the first frame and one long after the last; ten of the random times one by one; and four each
alone in a newly opened reader. An answer is right if the number drawn in the frame, its size, its time (to
{TIME_TOLERANCE_SECONDS * 1000:g} ms) and its pixels are those of ffmpeg.

Pixels must be equal for `pyav` and 8-bit 4:2:0 of even size. Otherwise they may differ by a few levels in the
mean, because scalers round differently: by {OTHER_FFMPEG_CLOSE:g} of 255 for decord and torchcodec, which use
another FFmpeg, and by {CLOSE:g} where a kind has more than 8 bits, is not 4:2:0, of odd size, interlaced, a
JPEG, or scaled. One wrong bit of a frame's number would change the mean by 13.

| word | means |
| --- | --- |
| `exact` | every time was answered with the right frame |
| `salvaged` | of a damaged file: what was answered is right, other times end in a `VideoError` naming the cause |
| `refused` | a `VideoError`, at opening or for every time; the reasons stand below |

Of a damaged file, an answer is right if it is the frame that ffmpeg shows at that time, or the one that the
file showed before it was damaged. So a frame in which the decoder painted over damage counts as right if
ffmpeg, decoding in order, paints the same; how often is said below the table. Any other frame would
be `WRONG`; a reader that had to be killed after {DEADLINE_SECONDS} s would be `HANG`, one that died or raised
something else than `VideoError` `CRASH`, and one that answers only some times of an undamaged file `PARTLY`.
None of these words may appear: the program that writes this page fails if one does.

`auto` is what is used if no reader is named. Pictures, animated WebP and folders of numbered pictures have
readers of their own, whatever reader is named. torchcodec is only opened where it can be imported, and decord
only in a process that can be killed.
"""


def document(cells: Sequence[Cell]) -> str:
    """The page docs/readers.md."""
    found = {(cell.kind, cell.reader): cell for cell in cells}
    lines = [WORDS, f"Versions: {versions()}.", "", "## Table", ""]
    lines += [f"| kind | what is special | {' | '.join(READERS)} |", "| --- " * (2 + len(READERS)) + "|"]
    for name, kind in KINDS.items():
        words = " | ".join(found[name, reader].word for reader in READERS)
        lines.append(f"| {name} | {kind.about} | {words} |")
    lines += ["", "## Damage that is not seen", "", UNSEEN]
    for cell in cells:
        tally = cell.tally
        if tally is not None and tally.concealed:
            lines.append(f"- {cell.kind}, {cell.reader}: {tally.concealed} of {tally.right}")
    lines += ["", "## Reasons for refusing", "", "As the message says it, after the file's name.", ""]
    reasons: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        if cell.tally is not None:
            for reason in cell.tally.reasons[:1]:
                reasons.setdefault(reason, {}).setdefault(cell.kind, []).append(cell.reader)
    for reason, kinds in reasons.items():
        where = "; ".join(f"{kind} ({', '.join(readers)})" for kind, readers in kinds.items())
        lines.append(f"- {where}: “{reason}”")
    return "\n".join([*lines, "", SEEN])


SEEN = """## What was seen of ffmpeg itself

- A cut with `-ss 0.7 -t 1.1 -c copy` ends in storage order, so the last frames may leave out some in between.
- Matroska blocks before 0 are read without a time; ffmpeg guesses times that overlap those of later frames.
- Of interlaced files the static ffmpeg converts chroma field by field when it makes RGB; libraries that are
  asked for RGB do not, so pixels differ by a tenth of a level in the mean.
- A file cut off in the middle of a frame shows that frame with its lower part painted over.

Not built: field pictures (PAFF), which none of the encoders here writes; and Matroska with times before 0 that
ffmpeg reads.
"""


UNSEEN = """decord and torchcodec hand out what their FFmpeg paints over damage, without an error. On damage other than
that of the files above it need not be what ffmpeg paints, decoding in order: use `auto` on files that may be damaged.

Answers that equal ffmpeg's but not the undamaged file's, of all answers: frames in which the decoder painted over
damage that its format cannot notice, or the last frame of a file that does not say that more should follow.
"""


def versions() -> str:
    """Of everything that decodes."""
    named = []
    for package in ("av", "decord", "torchcodec", "torch", "pillow"):
        try:
            named.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            named.append(f"{package} not installed")
    libraries = ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in av.library_versions.items())
    program = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-version"], capture_output=True, text=True, check=True)
    return f"{', '.join(named)}; FFmpeg inside av: {libraries}; judge: {program.stdout.split(' Copyright')[0]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table; exit status 1 if a word that must never appear did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--json", type=Path, help="also write every cell with its counts here")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cell", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.cell:
        serve_cell(arguments.cell)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        cells = run_table(arguments.kinds, arguments.readers, Path(folder), arguments.jobs)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))
    if arguments.kinds == list(KINDS) and arguments.readers == list(READERS):
        DOCUMENT.write_text(document(cells))
        print(f"written: {DOCUMENT}")
    bad = [cell for cell in cells if cell.word not in (EXACT, SALVAGED, REFUSED)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
