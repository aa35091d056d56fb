"""Texts and choices are functions of seed and position, answers are true of what is shown, and a recipe trains."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from datamodules.world import SAMPLED_FRAMES, captions
from datamodules.world.render import paint_background
from datamodules.world.texts import WorldTexts
from tests.tiny import tiny_language_model, tiny_tokenizer
from videoflamingo.errors import UsageError
from videoflamingo.models.checkpoint import load_checkpoint
from videoflamingo.prompt import EndOfChunk, Medium, Text
from videoflamingo.training.cli import main
from videoflamingo.training.texts import SPLITS, Draw, PlannedText
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.reader import open_video, read_clip

ROOT = Path(__file__).resolve().parents[3]
VIDEOS, PICTURES = 5, 4
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def world(folder: Path | str = "world", **options: Any) -> WorldTexts:
    return WorldTexts(str(folder), **{"num_videos": VIDEOS, "num_pictures": PICTURES, "size": 64, **options})


def words(text: PlannedText) -> str:
    return "".join(segment.text for segment in text.segments if isinstance(segment, Text))


def seen(texts: WorldTexts, index: int, count: int = 60) -> list[PlannedText]:
    return [texts.plan("train", index, Draw(0, 0, position)) for position in range(count)]


def kinds_chosen(texts: WorldTexts, steps: int = 2000) -> dict[str, float]:
    """Share of each kind among the scenes of steps of one text."""
    scenes = texts.scenes("train")
    chosen = Counter(scenes[index].kind for step in range(steps) for index, _ in texts.choose(step, 1, 0))
    return {kind: count / steps for kind, count in chosen.items()}


def read(request: MediumRequest) -> np.ndarray:
    """Frames `[T, 3, height, width]`, changed as asked for."""
    assert isinstance(request.source, str)
    with open_video(request.source) as video:
        return request.changed(read_clip(video, request.sampling).frames)


def test_a_text_is_a_function_of_scene_and_draw() -> None:
    one, other = (seen(world(), 0, 20) for _ in range(2))
    assert [words(text) for text in one] == [words(text) for text in other]
    assert [text.media for text in one] == [text.media for text in other]
    assert len({words(text) for text in one}) > 5


def test_another_seed_draws_other_texts() -> None:
    texts = world()
    drawn = [words(texts.plan("train", 0, Draw(1, 0, position))) for position in range(20)]
    assert drawn != [words(text) for text in seen(texts, 0, 20)]


def test_a_text_has_one_medium_and_ends_after_its_answer() -> None:
    texts = world()
    for split in SPLITS:
        for index in range(texts.size(split)):
            segments = texts.plan(split, index, Draw(position=index)).segments
            assert [type(segment) for segment in segments] == [Medium, Text, Text, EndOfChunk]
            assert [getattr(segment, "is_answer", None) for segment in segments] == [None, False, True, True]


def test_a_text_brings_what_the_warm_up_must_say_of_the_scene_as_shown() -> None:
    texts = world(num_beside=2, mirrored_share=0.5)
    index = next(
        index for index, scene in enumerate(texts.scenes("train")) if scene.kind == "move" and scene.bystander is None
    )
    scene = texts.scenes("train")[index]
    ways = set()
    for text in seen(texts, index):
        ((first, *others),) = text.readouts  # of its one video
        assert {one.split(maxsplit=1)[1] for one in (first, *others)} == {scene.main.name}
        ways.add((text.media[0].backwards, text.media[0].mirrored, first.split()[0]))
    assert len(ways) == 4


def test_a_video_shown_backwards_has_the_captions_that_go_with_it() -> None:
    texts = world(video_captions=1.0)
    scene = texts.scenes("train")[0]
    ways = set()
    for text in seen(texts, 0):
        backwards = text.media[0].backwards
        shown = scene.reversed_in_time() if backwards else scene
        assert words(text).removeprefix("Output: ") in captions(shown)
        ways.add(backwards)
    assert ways == {False, True}


def test_answers_are_true_of_the_frames_read_from_the_file(tmp_path: Path) -> None:
    """Forwards and backwards, mirrored and not: where something moves, as its pixels do."""
    texts = world(tmp_path, num_pictures=0, mirrored_share=0.5, video_captions=1.0, size=192, num_workers=0)
    texts.prepare()
    index = next(
        index for index, scene in enumerate(texts.scenes("train")) if scene.kind == "move" and scene.bystander is None
    )
    background = paint_background(texts.scenes("train")[index].background, 192)
    shown = {(text.media[0].backwards, text.media[0].mirrored): text for text in seen(texts, index)}
    assert len(shown) == 4
    for (_, mirrored), text in shown.items():
        pixels = read(text.media[0]).transpose(0, 2, 3, 1).astype(int)  # [T, height, width, 3]
        inked = np.abs(pixels - (background[:, ::-1] if mirrored else background)).max(-1) > 80
        angles = 2 * np.pi * (np.arange(192) + 0.5) / 192
        centres = [  # [T] on a circle, because what leaves at one side comes in at the other
            np.angle((inked.sum(axis) * np.exp(1j * angles)).sum(1)) for axis in (1, 2)
        ]
        steps = [np.median(np.angle(np.exp(1j * np.diff(centre)))) for centre in centres]
        (way,) = MOVES.keys() & set(words(text).split())
        along, across = np.array(MOVES[way]) @ steps, np.array(MOVES[way][::-1]) @ steps
        assert along > 0.1 and along > 3 * abs(across)


def test_pictures_are_one_frame_and_videos_eight(tmp_path: Path) -> None:
    texts = world(tmp_path, num_videos=1, num_pictures=1, num_workers=0)
    texts.prepare()
    video, picture = (texts.plan("train", index, Draw()).media[0] for index in range(2))
    assert (video.sampling.method, video.sampling.num_frames) == ("uniform", SAMPLED_FRAMES)
    assert (read(video).shape, read(picture).shape) == ((8, 3, 64, 64), (1, 3, 64, 64))


def test_preparing_makes_the_media_of_every_split(tmp_path: Path) -> None:
    texts = world(tmp_path, num_beside=2, num_workers=0)
    texts.prepare()
    paths = {request.name for split in SPLITS for request in texts.media(split)}
    assert paths == {str(path) for path in tmp_path.rglob("*") if path.is_file()}
    assert len(paths) == sum(texts.size(split) for split in SPLITS) == 5 + 4 + 2 + 2 * (1 + 1)


def test_the_media_of_a_split_are_those_of_its_texts_as_they_lie_in_the_files() -> None:
    texts = world(mirrored_share=1.0)
    drawn = {texts.plan("train", index, Draw()).media[0].unchanged() for index in range(texts.size("train"))}
    assert set(texts.media("train")) == drawn


def test_a_picture_may_be_shown_mirrored_but_not_backwards() -> None:
    shown = [text.media[0] for text in seen(world(mirrored_share=0.5), VIDEOS)]
    assert {(request.backwards, request.mirrored) for request in shown} == {(False, False), (False, True)}


def test_validation_and_test_are_never_mirrored() -> None:
    texts = world(num_videos=100, mirrored_share=1.0)
    assert all(texts.plan("train", index, Draw()).media[0].mirrored for index in range(5))
    for split in ("validate", "test"):
        assert not any(texts.plan(split, index, Draw(position=index)).media[0].mirrored for index in range(5))


def test_validation_and_test_are_of_scenes_of_their_own() -> None:
    texts = world(num_videos=40, num_pictures=40, num_beside=3, validation_share=0.1)
    assert [texts.size(split) for split in SPLITS] == [83, 8, 8]
    names = [request.name for split in SPLITS for request in texts.media(split)]
    assert len(set(names)) == 99
    assert len({scene.seed for split in SPLITS for scene in texts.scenes(split)}) == 99


def test_choices_are_a_function_of_step_and_seed() -> None:
    one, other = ([texts.choose(step, 2, 0) for step in range(12)] for texts in (world(), world()))
    assert one == other
    assert one != [world().choose(step, 2, 1) for step in range(12)]
    assert len({tuple(index for index, _ in chosen) for chosen in one}) > 6


def test_a_step_is_about_one_group_which_has_its_own_batch_size() -> None:
    texts = world(picture_batch_size=3)
    sizes = {"picture": 3, "video": 2}
    groups = []
    for step in range(40):
        chosen = texts.choose(step, 2, 0)
        (group,) = {"picture" if index >= VIDEOS else "video" for index, _ in chosen}
        assert len(chosen) == sizes[group]
        assert len({index for index, _ in chosen}) == len(chosen)  # no scene twice where there are enough
        groups.append(group)
    assert set(groups) == {"picture", "video"}


def test_without_a_size_of_their_own_steps_about_pictures_are_as_large_as_others() -> None:
    assert {len(world().choose(step, 3, 0)) for step in range(40)} == {3}


def test_no_two_texts_of_a_run_have_one_draw() -> None:
    texts = world(picture_batch_size=4)
    draws = [draw for step in range(40) for _, draw in texts.choose(step, 2, 7)]
    assert len(set(draws)) == len(draws)
    assert {draw.seed for draw in draws} == {7}


def test_a_group_smaller_than_its_batch_fills_it_with_repeats() -> None:
    few = world(num_videos=1, num_pictures=0)
    assert [len(few.choose(step, 2, 0)) for step in range(5)] == [2] * 5


def test_the_share_of_pictures_is_kept() -> None:
    assert kinds_chosen(world(picture_share=0.2))["picture"] == pytest.approx(0.2, abs=0.04)


def test_an_emphasised_kind_is_drawn_more_often() -> None:
    """Of five videos one is a sequence; nine times as often as each of the others is 9 draws of 13."""
    plain = world(picture_share=0.0)
    assert Counter(scene.kind for scene in plain.scenes("train"))["sequence"] == 1
    assert kinds_chosen(plain)["sequence"] == pytest.approx(1 / 5, abs=0.04)
    emphasised = world(picture_share=0.0, emphasis={"sequence": 9.0})
    assert kinds_chosen(emphasised)["sequence"] == pytest.approx(9 / 13, abs=0.04)


def test_what_has_a_drawing_beside_it_can_be_drawn_more_often() -> None:
    texts = world(picture_share=0.0, num_videos=20, emphasis={"beside": 4.0})
    beside = [scene.bystander is not None for scene in texts.scenes("train") if scene.kind != "picture"]
    expected = 4 * sum(beside) / (4 * sum(beside) + beside.count(False))
    assert expected - sum(beside) / 20 > 0.2
    chosen = [beside[index] for step in range(2000) for index, _ in texts.choose(step, 1, 0)]
    assert float(np.mean(chosen)) == pytest.approx(expected, abs=0.04)


def test_an_emphasised_skill_is_asked_about_more_often() -> None:
    """A mover has three questions; ten times as often as each of the others is 10 of 12."""

    def share(emphasis: dict[str, float] | None) -> float:
        texts = world(video_captions=0.0, skill_emphasis=emphasis)
        assert texts.scenes("train")[0].kind == "move"
        return float(np.mean(["slowly" in words(text).lower() for text in seen(texts, 0, 600)]))

    assert share({"speed": 10.0}) - share(None) > 0.3


@pytest.mark.parametrize(("share", "only"), [(1.0, "Output:"), (0.0, "Question: ")])
def test_the_share_of_captions_is_what_was_asked_for(share: float, only: str) -> None:
    texts = world(picture_captions=share, video_captions=share)
    assert all(words(text).startswith(only) for index in range(VIDEOS + PICTURES) for text in seen(texts, index, 3))


def test_it_tells_how_much_there_is() -> None:
    assert "videos, 1,000 more of a drawing alone and" in str(world("there", num_alone=1000))
    assert str(world("there", num_beside=1000)) == (
        "the world in there, 5 videos, 1,000 more with a drawing at rest and 4 pictures to train on"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"emphasis": {"sequnce": 3.0}}, "world: emphasis {'sequnce': 3.0}; give move, sequence, event, pair"),
        ({"emphasis": {"move": 0.0, "pair": 2.0}}, "world: emphasis {'move': 0.0}; give"),
        (
            {"skill_emphasis": {"ordre": 3.0}},
            "world: skill_emphasis {'ordre': 3.0}; give object, direction, speed, order",
        ),
        ({"picture_share": 1.5}, "world: picture_share is 1.5; give a share from 0 to 1"),
        ({"mirrored_share": -0.5}, "world: mirrored_share is -0.5; give a share from 0 to 1"),
        ({"num_videos": 300_000}, "world: num_videos is 300000; give 0 to 250,000"),
        ({"picture_batch_size": 0}, "world: picture_batch_size is 0; give 1 or more"),
        ({"num_pictures": 0, "picture_share": 1.0}, "world: picture_share is 1, but there are only videos"),
        ({"num_videos": 0, "picture_share": 0.0}, "world: picture_share is 0, but there are only pictures"),
    ],
)
def test_an_option_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        world(**settings)


def shrunk_recipe(name: str, folder: Path) -> dict[str, Any]:
    """A recipe of the bundled model from files, with parts small enough for a test, and a language model for it."""
    tiny_language_model(len(tiny_tokenizer()), num_hidden_layers=7).save_pretrained(folder / "language")
    tiny_tokenizer().save_pretrained(folder / "language")
    recipe = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text("utf-8"))
    recipe["model"].pop("init_from", None)  # what the recipe before it makes
    del recipe["data"]["features"]
    recipe["model"]["config"]["language_model"] = str(folder / "language")
    recipe["model"]["config"]["vision"] |= {"tower": "random:test_efficientnet", "image_size": 64}
    resampler = recipe["model"]["config"]["resampler"]
    resampler |= {"width": 32, "num_heads": 2, "dim_head": 8}
    if "pooled_side" in resampler:
        resampler["pooled_side"] = 2  # of a grid of 2 x 2
    few = {"num_videos": 40, "num_beside": 2, "num_pictures": 2, "size": 64, "num_workers": 0}
    for member_name, member in recipe["data"]["members"].items():
        member["batch_size"] = 2
        own = {"num_movers": 6, "num_casts": 10, "num_films": 12, "backgrounds": 1} if member_name == "episodes" else {}
        options = member["texts"]["init_args"]
        options |= few | own
        fewer = {"num_alone", "num_photo_films", "num_montages"}
        options |= {name: 12 for name in sorted(fewer & options.keys())}
    recipe["data"] |= {"num_workers": 0, "steps_per_epoch": 2}
    recipe["trainer"] |= {"max_steps": 2, "enable_progress_bar": False}
    return recipe


@pytest.mark.parametrize(
    "name",
    [
        "tiny_world_motion",
        "tiny_world_warmup",
        "tiny_world",
        "tiny_world_varied",
        "tiny_world_refined",
        "tiny_world_more",
        "tiny_world_fresh",
        "tiny_world_ordered",
    ],
)
def test_a_shrunk_recipe_trains_two_steps_from_files_and_leaves_a_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(shrunk_recipe(name, tmp_path)), "utf-8")
    assert main(["fit", "--config", "recipe.yaml"]) == 0
    model = load_checkpoint(tmp_path / f"runs/{name}/trainable")
    assert model.block_layers == (0, 6)
    assert float(model.vision.feature_std.max()) != 1.0  # measured on the frames
