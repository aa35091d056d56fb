"""`videoflamingo demo`: what it makes, and what its page says."""

import base64
import contextlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from datamodules.world import Question
from datamodules.world.plan import FIRST_SEEDS, PICTURE_SEEDS
from tools import demo, demo_fewshot
from tools.demo import FILMS, FIRST_SEED, MADE, Exhibit, Reply, Watched, page, summary, watch
from tools.demo_fewshot import NUM_SHOTS, SUBJECTS, Lesson, Named, Taught, Told, luck, records, sentences
from videoflamingo import cli
from videoflamingo.clip import Clip
from videoflamingo.fewshot import few_shot
from videoflamingo.pipeline import Answer
from videoflamingo.prompt import Shot

NUM_ASKED = 4  # of two drawings, and of two motions
NUM_MADE = max(NUM_SHOTS) + NUM_ASKED


class Run(NamedTuple):
    out: Path
    stdout: str
    stderr: str

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in map(json.loads, self.stdout.splitlines()) if one["kind"] == kind]


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
        if tag not in ("meta", "img", "br"):
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
    watched = run.of_kind("video")
    assert [record["origin"] for record in watched] == [*(split for _, split in MADE), *("film" for _ in FILMS)]
    for record in watched:
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
    assert len(links) == len(MADE) + len(FILMS) + 2 * NUM_MADE + 3 * len(FILMS)
    assert all((run.out / link).is_file() for link in links)


def test_the_page_and_the_terminal_tell_how_many_were_right(run: Run) -> None:
    replies = [reply for record in run.of_kind("video") for reply in record["replies"][1:]]
    right = sum(reply["right"] is True for reply in replies)
    for text in (Page((run.out / "index.html").read_text("utf-8")).text, run.stderr):
        found = re.findall(r"(\d+)\s+of\s+(\d+)\s+questions\s+right", text)
        assert sum(int(count) for count, _ in found) == right
        assert sum(int(count) for _, count in found) == sum(reply["right"] is not None for reply in replies)


def test_the_same_is_asked_after_none_and_more_and_more_examples(run: Run) -> None:
    told = run.of_kind("few_shot")
    for subject in ("drawings", "motions"):
        own = [one for one in told if one["subject"] == subject]
        assert [len(one["shots"]) for one in own] == [count for count in NUM_SHOTS for _ in range(NUM_ASKED)]
        shots = [shot["answer"] for shot in own[-1]["shots"]]
        assert shots == shots[:2] * (max(NUM_SHOTS) // 2)
        for place, count in enumerate(NUM_SHOTS):
            asked = own[place * NUM_ASKED : (place + 1) * NUM_ASKED]
            assert [one["video"] for one in asked] == [one["video"] for one in own[:NUM_ASKED]]
            assert sorted(one["truth"] for one in asked) == sorted(shots[:2] * 2)
            assert all(one["shots"] == own[-1]["shots"][:count] for one in asked)
    assert [len(one["shots"]) for one in told if one["subject"] == "films"] == [0] * 6 + [3] * 6


def test_what_is_asked_about_is_never_one_of_the_examples(run: Run) -> None:
    for one in run.of_kind("few_shot"):
        same = [shot for shot in one["shots"] if shot["video"] == one["video"]]
        assert len(same) == (1 if one["subject"] == "films" and one["shots"] else 0)
        assert all(shot["frame_seconds"][-1] < one["frame_seconds"][0] for shot in same)


def test_the_lessons_come_first_and_count_what_was_right(run: Run) -> None:
    told = run.of_kind("few_shot")
    assert json.loads(run.stdout.splitlines()[0])["kind"] == "few_shot"
    shown = Page((run.out / "index.html").read_text("utf-8"))
    assert shown.text.index("Learning from the prompt") < shown.text.index("Questions without examples")
    for subject, title in SUBJECTS.items():
        own = [one for one in told if one["subject"] == subject]
        counts = list(dict.fromkeys(len(one["shots"]) for one in own))
        asked = len(own) // len(counts)
        picked = [sum(one["picked_right"] for one in own if len(one["shots"]) == count) for count in counts]
        numbers = f"{', '.join(map(str, picked[:-1]))} and {picked[-1]} of {asked} questions"
        for text in (shown.text, " ".join(run.stderr.split())):
            assert re.search(rf"{title}: after [^.]* {numbers}", text), (title, numbers)


def test_all_frames_of_the_lessons_are_on_the_page_once(run: Run) -> None:
    html = (run.out / "index.html").read_text("utf-8")
    strips = re.findall(r'url\("data:image/jpeg;base64,([^"]+)"\)', html)
    assert len(strips) == len(set(strips)) == 2 * NUM_MADE + 3 * len(FILMS)
    with Image.open(io.BytesIO(base64.b64decode(strips[0]))) as picture:
        assert picture.size == (192, 192)
    with Image.open(io.BytesIO(base64.b64decode(strips[NUM_MADE]))) as strip:
        assert strip.size == (8 * 128, 128)
    assert "http" not in re.sub(r'base64,[^"]+', "", html)


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


def taught(*said: tuple[str, float]) -> Taught:
    """A lesson of one example and two questions, which are asked after none and after one.

    Args:
        said: words, and how likely `ab<c>` is; `de` is at -2.
    """
    clip = watched("").exhibit.clip
    named = [Named(Path(f"{name}.mp4"), clip, name) for name in ("ab<c>", "ab<c>", "de")]
    names = {"ab<c>": "a <i>clamp</i>", "de": "a cookie"}
    lesson = Lesson("drawings", "What <b>?", (0, 1), tuple(named[:1]), tuple(named[1:]), names)
    told = [
        Told(place // 2, ("ab<c>", "de")[place % 2], words, {"ab<c>": score, "de": -2.0})
        for place, (words, score) in enumerate(said)
    ]
    return Taught(lesson, (tuple(told[:2]), tuple(told[2:])))


def test_picking_and_saying_are_counted_apart_beside_guessing() -> None:
    one = taught(("Ab<c>.", -3.0), ("dee", -3.0), ("ab<c>", -1.0), ("ab<c>", -3.0))
    assert (one.num_picked_right, one.num_said_right, one.guessing) == ([1, 2], [1, 1], 1.0)
    assert sentences([one]) == [
        "Two drawings never seen in training: after 0 and 1 examples it picked the right one of the 2 names for 1 and "
        "2 of 2 questions, and said it freely for 1 and 1. Guessing gives 1 of 2 on average, and all 2 in "
        "25 % of tries."
    ]
    assert "the same name every time" in sentences([taught(*[("", -1.0)] * 4)])[0]
    first = next(records([one], "m"))
    assert (first["picked"], first["picked_right"], first["said_right"]) == ("de", False, True)
    assert first["probabilities"]["de"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert luck(0, 6, 1 / 3) == pytest.approx(1)


def test_whatever_is_said_after_examples_stands_on_the_page_as_text() -> None:
    nasty = "</div><script>alert(1)</script>"
    html = page([], "<i>m</i>", [taught((nasty, -1.0), ("", -1.0), (nasty, -1.0), ("", -1.0))])
    shown = Page(html)
    assert shown.open == []
    assert "<script" not in html
    for text in (nasty, "(nothing)", "ab<c>", "a <i>clamp</i>", "What <b>?", "<i>m</i> can know"):
        assert text in shown.text


def test_a_lesson_asks_with_the_first_examples_and_keeps_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pretended:
        """Says how many examples it was shown, and finds the last name likeliest."""

        def __init__(self, model: str, shots: list[Shot]) -> None:
            assert model == "model"
            self.shots = shots

        def ask(self, clips: list[Clip], question: str, **options: int) -> list[str]:
            assert [(shot.question, shot.answer) for shot in self.shots] == [(question, "ab<c>")] * len(self.shots)
            return [f"{len(self.shots)}\n shots" for _ in clips]

        def rank(self, clips: list[Clip], question: str, names: tuple[str, ...]) -> list[list[Answer]]:
            return [[Answer(name, -1.0 - place, 2) for place, name in enumerate(reversed(names))] for _ in clips]

    monkeypatch.setattr(few_shot, "FewShot", Pretended)
    lesson = taught(*[("", 0.0)] * 4).lesson
    answers = demo_fewshot.teach("model", lesson).answers  # type: ignore[arg-type]
    scores = {"ab<c>": -4.0, "de": -2.0}
    assert answers == tuple(
        tuple(Told(count, truth, f"{count} shots", scores) for truth in ("ab<c>", "de")) for count in (0, 1)
    )


def test_an_unknown_truth_is_neither_right_nor_wrong() -> None:
    shown = Page(page([watched("a bike", origin="film", truth="")], "tiny")).text
    assert "real film" in shown
    assert "not known" in shown
    assert "✓" not in shown and "✗" not in shown
    assert "because it learnt hardly any other words" in shown


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
    assert FIRST_SEEDS["test"] + 2 * PICTURE_SEEDS <= FIRST_SEED < demo_fewshot.FIRST_SEED


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
