"""`videoflamingo demo`: what it makes, and what its page says."""

import base64
import contextlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from datamodules.world import Question
from datamodules.world.plan import FIRST_SEEDS, PICTURE_SEEDS
from tools import demo
from tools.demo import FILMS, FIRST_SEED, MADE, Exhibit, Reply, Watched, page, summary, watch
from videoflamingo import cli
from videoflamingo.clip import Clip
from videoflamingo.pipeline import Answer


class Run(NamedTuple):
    out: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: str) -> Run:
    """One demo, in JSON."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        assert demo.main(["--out", str(folder), "--model", random_checkpoint, "--json"]) == 0
    return Run(folder, stdout.getvalue(), stderr.getvalue())


class Page(HTMLParser):
    """Text of a page, and every address in it; complains of tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def watched(said: str, *, origin: str = "train", truth: str = "left", chance: float = 0.25) -> Watched:
    clip = Clip(np.zeros((2, 3, 8, 6), np.uint8), np.array([0.5, 1.5]))
    truths = (truth,) if truth else ()
    exhibit = Exhibit(Path("out/videos/a<b>.mp4"), origin, clip, truths, ())
    return Watched(exhibit, Reply(None, said, truths), (Reply("Where <to>?", said, truths, (), chance),))


def test_every_video_of_the_list_is_made_watched_and_kept(run: Run) -> None:
    records = [json.loads(line) for line in run.stdout.splitlines()]
    assert [record["origin"] for record in records] == [*(split for _, split in MADE), *("film" for _ in FILMS)]
    for record in records:
        assert Path(record["video"]).parent == run.out / "videos"
        assert Path(record["video"]).stat().st_size > 0
        caption, *answers = record["replies"]
        assert caption["question"] is None
        assert answers
        for reply in record["replies"]:
            assert (reply["right"] is None) == (record["origin"] == "film")
            assert reply["choices"] == [] or reply["said"] in reply["choices"]


def test_the_page_holds_its_pictures_and_links_to_videos_that_are_there(run: Run) -> None:
    shown = Page((run.out / "index.html").read_text("utf-8"))
    assert shown.open == []
    pictures = [address for address in shown.addresses if address.startswith("data:image/jpeg;base64,")]
    num_stills = sum(kind == "picture" for kind, _ in MADE)
    assert len(pictures) == 8 * (len(MADE) - num_stills + len(FILMS)) + num_stills
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))) as picture:
        assert picture.size == (192, 192)
    links = [address for address in shown.addresses if not address.startswith("data:")]
    assert len(links) == len(MADE) + len(FILMS)
    assert all((run.out / link).is_file() for link in links)


def test_the_page_and_the_terminal_tell_how_many_were_right(run: Run) -> None:
    replies = [reply for line in run.stdout.splitlines() for reply in json.loads(line)["replies"][1:]]
    right = sum(reply["right"] is True for reply in replies)
    for text in (Page((run.out / "index.html").read_text("utf-8")).text, run.stderr):
        found = re.findall(r"(\d+)\s+of\s+(\d+)\s+questions\s+right", text)
        assert sum(int(count) for count, _ in found) == right
        assert sum(int(count) for _, count in found) == sum(reply["right"] is not None for reply in replies)


def test_what_was_made_is_named_at_the_end(run: Run) -> None:
    with Image.open(run.out / "contact_sheet.png") as sheet:
        assert sheet.width > 8 * 200
    assert [line.split()[-1] for line in run.stderr.splitlines()[-3:]] == [
        str(run.out / "index.html"),
        str(run.out / "contact_sheet.png"),
        f"{run.out / 'videos'}/",
    ]


def test_whatever_is_said_stands_on_the_page_as_text() -> None:
    nasty = "</td><script>alert('&amp;')</script> $model"
    shown = Page(page([watched(nasty, truth='"<b>"')], "<i>model</i>"))
    assert (shown.open, "script" in shown.addresses) == ([], False)
    for text in (nasty, "Where <to>?", '"<b>"', "a<b>.mp4", "What <i>model</i> saw and said"):
        assert text in shown.text
    assert "<script" not in page([watched(nasty)], "m")


def test_an_unknown_truth_is_neither_right_nor_wrong() -> None:
    shown = Page(page([watched("a bike", origin="film", truth="")], "tiny")).text
    assert "real film" in shown
    assert "not known" in shown
    assert "✓" not in shown and "✗" not in shown
    assert "it has only ever been trained on drawings" in shown


def test_right_is_what_is_a_truth_but_for_case_and_full_stop() -> None:
    assert Reply(None, "A fox moves left.", ("a fox moves left slowly", "a fox moves left")).right
    assert Reply("Where?", "lefts", ("left",)).right is False
    assert Reply("Where?", "left", ()).right is None


def test_unseen_drawings_are_counted_apart() -> None:
    ones = [watched("left"), watched("up"), watched("left", chance=0.5), watched("up", origin="held_out")]
    assert summary([*ones, watched("a bike", origin="film", truth="")]) == [
        "Of known drawings, in new scenes: 2 of 3 questions right (guessing among the possible answers gives about 1); "
        "2 of 3 captions true word for word.",
        "Of drawings never seen in training, in new scenes: 0 of 1 questions right (guessing among the possible "
        "answers gives about 0); 0 of 1 captions true word for word.",
    ]


def test_names_are_picked_from_choices_and_the_rest_is_answered_freely() -> None:
    class Model:
        def caption(self, clip: Clip) -> str:
            return "a\n cat"

        def ask(self, clip: Clip, question: str) -> str:
            return "up \n and away"

        def rank(self, clip: Clip, question: str, choices: tuple[str, ...]) -> list[Answer]:
            return [Answer(choices[-1], -1.0, 2)]

    direction = Question("direction", "Which way?", "up", ("up", "down"))
    name = Question("object", "What?", "cat", ("cat", "dog"))
    exhibit = Exhibit(Path("a.mp4"), "train", watched("").exhibit.clip, ("a cat",), (direction, name))
    seen = watch(Model(), exhibit)  # type: ignore[arg-type]
    assert seen.caption == Reply(None, "a cat", ("a cat",))
    assert seen.answers == (
        Reply("Which way?", "up and away", ("up",), (), 0.5),
        Reply("What?", "dog", ("cat",), ("cat", "dog"), 0.5),
    )


def test_no_seed_of_the_demo_is_one_of_training_validation_or_test() -> None:
    assert FIRST_SEEDS["test"] + 2 * PICTURE_SEEDS <= FIRST_SEED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "--seed is -1; give 0 or more"),
        (["--model", "huge"], "model 'huge' is neither a bundled model"),
    ],
)
def test_a_wrong_request_makes_nothing(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--out", str(tmp_path / "out"), *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"videoflamingo: error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, random_checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["demo", "--out", str(tmp_path / "file"), "--model", random_checkpoint]) == 2
    err = capsys.readouterr().err
    assert "cannot be written (" in err
    assert "name another folder" in err
    assert err.count("\n") == 1
