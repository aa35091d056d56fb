"""Texts and batches are functions of seed, epoch and position, and a shrunk recipe trains."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml

from datamodules.world import captions, sample_scene
from datamodules.world import features as world_features
from datamodules.world.datamodule import WorldBatches, WorldData, WorldTexts
from datamodules.world.features import CachedScene
from tests.tiny import tiny_language_model, tiny_tokenizer
from videoflamingo.errors import UsageError
from videoflamingo.models.checkpoint import load_checkpoint
from videoflamingo.models.vision import VisionConfig
from videoflamingo.prompt import EndOfChunk, Medium, Text
from videoflamingo.training.batch import Batch, Sample
from videoflamingo.training.cli import main

ROOT = Path(__file__).resolve().parents[3]
SIZES = {"picture": 3, "video": 2}
CAPTION_SHARES = {"picture": 0.8, "video": 0.5}


def frames(seed: int, count: int) -> np.ndarray:
    """Features `[T, 1, 1]` that tell the scene and the frame: 10 * seed + frame."""
    return (10 * seed + np.arange(count, dtype=np.float16)).reshape(count, 1, 1)


@pytest.fixture(scope="module")
def texts() -> WorldTexts:
    videos = [
        CachedScene(sample_scene(seed, kind), frames(seed, 8))
        for seed, kind in enumerate(["move", "sequence", "event", "pair", "move"])
    ]
    pictures = [CachedScene(sample_scene(seed, "picture"), frames(seed, 1)) for seed in (5, 6, 7, 8)]
    return WorldTexts(videos + pictures, 0, CAPTION_SHARES)


def words(sample: Sample) -> str:
    return "".join(segment.text for segment in sample.segments if isinstance(segment, Text))


def test_a_text_is_a_function_of_scene_and_draw(texts: WorldTexts) -> None:
    assert [words(texts[0, draw]) for draw in range(20)] == [words(texts[0, draw]) for draw in range(20)]
    assert len({words(texts[0, draw]) for draw in range(20)}) > 5


def test_another_seed_draws_other_texts(texts: WorldTexts) -> None:
    other = WorldTexts(texts.scenes, 1, CAPTION_SHARES)
    assert [words(texts[0, draw]) for draw in range(20)] != [words(other[0, draw]) for draw in range(20)]


def test_a_text_has_one_medium_and_ends_after_its_answer(texts: WorldTexts) -> None:
    for index in range(len(texts)):
        segments = texts[index, 0].segments
        assert [type(segment) for segment in segments] == [Medium, Text, Text, EndOfChunk]
        assert [segment.is_answer for segment in segments[1:]] == [False, True, True]


def test_a_video_shown_backwards_has_the_captions_that_go_with_it(texts: WorldTexts) -> None:
    scene = texts.scenes[0].scene
    forwards, backwards = captions(scene), captions(scene.reversed_in_time())
    seen = set()
    for draw in range(60):
        sample = texts[0, draw]
        if "Output:" in words(sample):
            is_backwards = bool(sample.media[0][0] > sample.media[0][-1])
            assert words(sample).removeprefix("Output: ") in (backwards if is_backwards else forwards)
            seen.add(is_backwards)
    assert seen == {False, True}


def batches(texts: WorldTexts, epoch: int = 0, seed: int = 0, count: int = 12) -> list[list[tuple[int, int]]]:
    made = WorldBatches(texts, SIZES, count, seed)
    made.set_epoch(epoch)
    assert len(made) == count
    return list(made)


def test_batches_are_a_function_of_seed_and_epoch(texts: WorldTexts) -> None:
    assert batches(texts) == batches(texts)
    assert batches(texts) != batches(texts, epoch=1)
    assert batches(texts) != batches(texts, seed=1)


def test_a_batch_is_a_function_of_its_position_however_many_there_are(texts: WorldTexts) -> None:
    assert batches(texts, count=5) == batches(texts, count=12)[:5]


def test_a_batch_is_of_one_group_and_its_size(texts: WorldTexts) -> None:
    groups = []
    for batch in batches(texts, count=40):
        (group,) = {texts[key].name for key in batch}
        assert len(batch) == SIZES[group]
        assert len({scene for scene, _ in batch}) == len(batch)  # no scene twice where there are enough
        groups.append(group)
    assert set(groups) == {"picture", "video"}


def test_a_group_smaller_than_its_batch_fills_it_with_repeats(texts: WorldTexts) -> None:
    few = WorldTexts(texts.scenes[:1], 0, CAPTION_SHARES)
    assert all(len(batch) == 2 for batch in batches(few))


class Spy(L.LightningModule):
    """Notes which batches come, and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.trained: list[list[float]] = []
        self.validated: list[list[float]] = []

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch

    def training_step(self, batch: Batch, index: int) -> None:
        self.trained.append(batch.features.flatten().tolist())

    def validation_step(self, batch: Batch, index: int) -> None:
        self.validated.append(batch.features.flatten().tolist())

    def configure_optimizers(self) -> None:
        return None


def world(texts: WorldTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorldData:
    """With these texts for both stages and nothing on disk."""
    monkeypatch.setattr(WorldData, "_scenes", lambda self, stage, in_memory: texts.scenes)
    return WorldData(str(tmp_path), VisionConfig(), picture_batch_size=3, video_batch_size=2, steps_per_epoch=6)


def test_an_emphasised_kind_is_drawn_more_often(texts: WorldTexts) -> None:
    """Of five videos one is a sequence; nine times as often as each of the others is 9 draws of 13."""

    def share(emphasis: dict[str, float] | None) -> float:
        made = WorldBatches(texts, {"picture": 1, "video": 1}, 2000, 0, picture_share=0.0, emphasis=emphasis)
        return float(np.mean([texts.scenes[index].scene.kind == "sequence" for [(index, _)] in made]))

    assert share(None) == pytest.approx(1 / 5, abs=0.04)
    assert share({"sequence": 9.0}) == pytest.approx(9 / 13, abs=0.04)


def test_what_has_a_drawing_beside_it_can_be_drawn_more_often() -> None:
    movers = [sample_scene(seed, "move") for seed in range(40)]
    alone, beside = (next(one for one in movers if (one.bystander is not None) == has) for has in (False, True))
    texts = WorldTexts([CachedScene(scene, frames(0, 8)) for scene in (alone, beside)], 0, CAPTION_SHARES)
    made = WorldBatches(texts, {"picture": 1, "video": 1}, 2000, 0, picture_share=0.0, emphasis={"beside": 4.0})
    assert float(np.mean([index for [(index, _)] in made])) == pytest.approx(4 / 5, abs=0.04)


def test_a_mirrored_text_has_its_columns_and_directions_swapped() -> None:
    """Features of a 2 x 2 grid that tell row and column; the scene's mover goes left."""
    scene = next(
        scene for scene in (sample_scene(seed, "move") for seed in range(40)) if scene.main.direction == "left"
    )
    grid = np.broadcast_to(np.array([[1, 2], [3, 4]], np.float16).reshape(1, 4, 1), (8, 4, 1))
    texts = WorldTexts([CachedScene(scene, grid)], 0, {"picture": 1.0, "video": 1.0}, mirrored_share=0.5)
    seen = set()
    for draw in range(60):
        sample = texts[0, draw]
        (way,) = {"left", "right"} & set(words(sample).split())
        seen.add((way, tuple(sample.media[0][0, :, 0].tolist())))
    plain, swapped = (1.0, 2.0, 3.0, 4.0), (2.0, 1.0, 4.0, 3.0)
    assert seen == {(way, columns) for way in ("left", "right") for columns in (plain, swapped)}  # also backwards


def test_an_emphasised_skill_is_asked_about_more_often(texts: WorldTexts) -> None:
    """A mover alone has three questions; ten times as often as each of the others is 10 of 12."""

    def share(emphasis: dict[str, float] | None) -> float:
        asked = WorldTexts(texts.scenes[:1], 0, {"picture": 0.0, "video": 0.0}, emphasis)
        return float(np.mean(["slowly" in words(asked[0, draw]).lower() for draw in range(600)]))

    assert share({"speed": 10.0}) - share(None) > 0.3


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
    ],
)
def test_a_share_or_emphasis_that_cannot_be_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        WorldData("folder", VisionConfig(), **settings)


def test_the_share_of_pictures_is_kept(texts: WorldTexts) -> None:
    made = WorldBatches(texts, {"picture": 1, "video": 1}, 2000, 0, picture_share=0.2)
    pictures = [texts.scenes[index].scene.kind == "picture" for [(index, _)] in made]
    assert float(np.mean(pictures)) == pytest.approx(0.2, abs=0.04)


def test_every_epoch_trains_on_other_batches_and_validates_on_the_same(
    texts: WorldTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(spy, datamodule=world(texts, tmp_path, monkeypatch))
    assert len(spy.trained) == 12
    assert spy.trained[:6] != spy.trained[6:]
    assert len(spy.validated) == 40
    assert spy.validated[:20] == spy.validated[20:]


def test_the_frames_of_the_first_scenes_are_there_to_be_measured(
    texts: WorldTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world(texts, tmp_path, monkeypatch)
    data.setup("fit")
    assert data.sample_features(2).flatten().tolist() == [*range(8), *range(10, 18)]


def test_training_and_validation_share_no_seed() -> None:
    data = WorldData("folder", VisionConfig())
    plans: dict[str, Sequence[tuple[int, str]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for stage in data.num_scenes:
            patch.setattr(
                "datamodules.world.datamodule.cached_features",
                lambda folder, vision, plan, stage=stage, **_: plans.update({stage: plan}) or [],
            )
            data._scenes(stage, in_memory=False)
    assert (len(plans["train"]), len(plans["validate"])) == (12_000, 600)
    assert not {seed for seed, _ in plans["train"]} & {seed for seed, _ in plans["validate"]}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ThreadPoolExecutor]:
    """Videos are made by threads, whose start costs nothing."""
    make = lambda workers, mp_context: ThreadPoolExecutor(workers)  # noqa: E731
    monkeypatch.setattr(world_features, "ProcessPoolExecutor", make)
    return make


@pytest.mark.usefixtures("threads")
def test_a_shrunk_recipe_trains_two_steps_and_leaves_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled model's own recipe, with parts small enough for a test."""
    monkeypatch.chdir(tmp_path)
    tiny_language_model(len(tiny_tokenizer()), num_hidden_layers=7).save_pretrained("language")
    tiny_tokenizer().save_pretrained("language")
    recipe = yaml.safe_load((ROOT / "recipes/tiny_world.yaml").read_text("utf-8"))
    del recipe["model"]["init_from"]  # what the warm-up's recipe makes
    recipe["model"]["config"]["language_model"] = str(tmp_path / "language")
    recipe["model"]["config"]["vision"] |= {"tower": "random:test_efficientnet", "image_size": 64}
    recipe["model"]["config"]["resampler"] |= {"width": 32, "num_heads": 2, "dim_head": 8}
    recipe["data"]["init_args"] |= {
        "num_videos": 2,
        "num_beside": 2,
        "num_pictures": 2,
        "picture_batch_size": 2,
        "video_batch_size": 2,
        "steps_per_epoch": 2,
    }
    recipe["trainer"] |= {"max_steps": 2, "limit_val_batches": 0, "enable_progress_bar": False}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    assert main(["fit", "--config", "recipe.yaml"]) == 0
    model = load_checkpoint(tmp_path / "runs/tiny_world/tiny")
    assert model.block_layers == (0, 6)
    assert float(model.vision.feature_std.max()) != 1.0  # measured on the frames


@pytest.mark.parametrize(("share", "only"), [(1.0, "Output:"), (0.0, "Question: ")])
def test_the_share_of_captions_is_what_was_asked_for(texts: WorldTexts, share: float, only: str) -> None:
    other = WorldTexts(texts.scenes, 0, {"picture": share, "video": share})
    assert all(words(other[index, draw]).startswith(only) for index in range(len(other)) for draw in range(3))
