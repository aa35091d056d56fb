"""The world as a LightningDataModule: cached features of encoded videos, texts drawn anew at every step."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.world.features import VIDEO_KINDS, CachedScene, cached_features, plan_scenes
from datamodules.world.questions import SKILLS, captions, questions, readout
from datamodules.world.scene import Scene
from videoflamingo.errors import UsageError
from videoflamingo.models.vision import VisionConfig
from videoflamingo.prompt import PromptTemplate
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.batch import Sample, collate

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)

TRAIN_FIRST_SEED = 0
VALIDATION_FIRST_SEED = 1_000_000
REVERSED_SHARE = 0.5  # of videos shown backwards, with the answers that go with it
BESIDE = "beside"  # in an emphasis: scenes in which something moves or does something beside a drawing at rest

GROUPS = ("picture", "video")  # a batch is of one group, so that its texts have similar lengths


def mirrored(features: np.ndarray) -> np.ndarray:
    """Features `[T, P, D]` of a square grid of patches with its columns in the opposite order.

    What a convolutional tower gives for the mirrored frame is not quite this: within a patch, left stays left.
    """
    num_frames, num_patches, width = features.shape
    side = math.isqrt(num_patches)
    return features.reshape(num_frames, side, side, width)[:, :, ::-1].reshape(features.shape)


class WorldTexts(Dataset[Sample]):
    """Scenes with a text each; text `(scene, draw)` is a function of the seed, the scene and the draw only."""

    def __init__(
        self,
        scenes: list[CachedScene],
        seed: int,
        caption_shares: dict[str, float],
        skill_emphasis: dict[str, float] | None = None,
        mirrored_share: float = 0.0,
    ) -> None:
        self.scenes, self.seed, self.caption_shares = scenes, seed, caption_shares
        self.skill_emphasis, self.mirrored_share = skill_emphasis or {}, mirrored_share
        self.template = PromptTemplate()
        self.groups = {
            "picture": [index for index, cached in enumerate(scenes) if cached.scene.kind == "picture"],
            "video": [index for index, cached in enumerate(scenes) if cached.scene.kind != "picture"],
        }

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, draw = key
        scene, features = self.scenes[index].scene, self.scenes[index].features
        rng = np.random.default_rng([self.seed, index, draw])
        group = "picture" if scene.kind == "picture" else "video"
        if rng.random() < REVERSED_SHARE:
            scene, features = scene.reversed_in_time(), features[::-1]
        if rng.random() < self.mirrored_share:
            scene, features = scene.mirrored(), mirrored(features)
        if rng.random() < self.caption_shares[group]:
            segments = self.template.ask(None, str(rng.choice(captions(scene))))
        else:
            asked = questions(scene, rng)
            chances = np.array([self.skill_emphasis.get(one.skill, 1.0) for one in asked])
            question = asked[rng.choice(len(asked), p=chances / chances.sum())]
            segments = self.template.ask(question.question, question.answer)
        return Sample(segments, [features], group, readout(scene))


class WorldBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (scene, draw), each of one group; batch `i` is a function of the seed and `i`."""

    def __init__(
        self,
        texts: WorldTexts,
        sizes: dict[str, int],
        num_batches: int,
        seed: int,
        picture_share: float = 0.35,
        emphasis: dict[str, float] | None = None,
    ) -> None:
        self.texts, self.sizes, self.num_batches, self.seed = texts, sizes, num_batches, seed
        self.shares = {"picture": picture_share, "video": 1.0 - picture_share}
        weights = {
            group: np.array([_weight(texts.scenes[index].scene, emphasis or {}) for index in members])
            for group, members in texts.groups.items()
        }
        self.chances = {group: own / own.sum() for group, own in weights.items()}
        self.epoch = 0
        self.sampler: WorldBatches | None = None  # where Lightning looks for a `set_epoch` to call

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        groups = [group for group in GROUPS if self.texts.groups[group]]
        shares = np.array([self.shares[group] for group in groups])
        for index in range(self.num_batches):
            rng = np.random.default_rng([self.seed, self.epoch, index])
            group = groups[rng.choice(len(groups), p=shares / shares.sum())]
            members = self.texts.groups[group]
            size, chances = self.sizes[group], self.chances[group]
            chosen = rng.choice(members, size=size, replace=bool(np.count_nonzero(chances) < size), p=chances)
            yield [(int(scene), int(rng.integers(1 << 31))) for scene in chosen]


def _weight(scene: Scene, emphasis: dict[str, float]) -> float:
    """How much more often than others a scene is drawn."""
    return emphasis.get(scene.kind, 1.0) * (emphasis.get(BESIDE, 1.0) if scene.bystander is not None else 1.0)


class WorldData(L.LightningDataModule):
    """Videos and pictures with known answers, made on this machine from seeds (see `datamodules.world`).

    Args:
        folder: where tower features are cached (92 kB a frame at 192 pixels).
        vision: the tower; the recipe links it to the model's.
        num_videos, num_pictures: scenes to train on; validation takes a twentieth as many, from other seeds.
        num_beside: more videos to train on in which one drawing moves beside another at rest: which of the two it is
            that moves is learnt from many of them only.
        picture_batch_size, video_batch_size: texts a step.
        picture_share: share of the steps whose texts are about pictures.
        emphasis: how much more often than others a scene of a kind is drawn among the videos; 1 for kinds not named.
            `beside` comes on top of the kind's, for scenes in which something moves, or does something, beside a
            drawing at rest.
        skill_emphasis: how much more often than others a question of a skill is drawn among those about one scene; 1
            for skills not named.
        mirrored_share: share of texts whose scene is shown with left and right swapped (columns of its features are).
        picture_captions, video_captions: share of captions among the texts; the others are questions.
        steps_per_epoch: an epoch has no natural end here.
        num_workers: processes that make videos while the cache is built.
        in_memory: keep all features in memory (0.74 MB a video), where the system would not keep the files there.
        seed: of texts and order.

    Raises:
        UsageError: if a share or an emphasis is out of range, or of a kind or skill that there is not.
    """

    def __init__(
        self,
        folder: str,
        vision: VisionConfig,
        num_videos: int = 4000,
        num_pictures: int = 8000,
        num_beside: int = 0,
        picture_batch_size: int = 56,
        video_batch_size: int = 24,
        picture_share: float = 0.35,
        emphasis: dict[str, float] | None = None,
        skill_emphasis: dict[str, float] | None = None,
        mirrored_share: float = 0.0,
        picture_captions: float = 0.8,
        video_captions: float = 0.5,
        steps_per_epoch: int = 500,
        num_workers: int = 2,
        in_memory: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for option, share in (("picture_share", picture_share), ("mirrored_share", mirrored_share)):
            if not 0 <= share <= 1:
                raise UsageError(f"world: {option} is {share}; give a share from 0 to 1")
        for option, given, known in (
            ("emphasis", emphasis, (*VIDEO_KINDS, BESIDE)),
            ("skill_emphasis", skill_emphasis, SKILLS),
        ):
            wrong = {name: weight for name, weight in (given or {}).items() if name not in known or weight <= 0}
            if wrong:
                raise UsageError(f"world: {option} {wrong}; give {', '.join(known)} numbers above 0")
        self.folder = Path(folder).expanduser()
        self.vision = vision
        self.num_scenes = {
            "train": (num_videos, num_pictures, num_beside),
            "validate": (math.ceil(num_videos / 20), math.ceil(num_pictures / 20), 0),
        }
        self.sizes = {"picture": picture_batch_size, "video": video_batch_size}
        self.picture_share, self.emphasis, self.skill_emphasis = picture_share, emphasis, skill_emphasis
        self.mirrored_share = mirrored_share
        self.caption_shares = {"picture": picture_captions, "video": video_captions}
        self.steps_per_epoch = steps_per_epoch
        self.num_workers, self.in_memory = num_workers, in_memory
        self.seed = seed
        self.texts: dict[str, WorldTexts] = {}

    def prepare_data(self) -> None:
        """Build the cache, in one process only."""
        for stage in self.num_scenes:
            self._scenes(stage, in_memory=False)

    def setup(self, stage: str) -> None:
        for name in self.num_scenes:
            scenes = self._scenes(name, self.in_memory)
            mirrored_share = self.mirrored_share if name == "train" else 0.0
            self.texts[name] = WorldTexts(scenes, self.seed, self.caption_shares, self.skill_emphasis, mirrored_share)

    def _scenes(self, stage: str, in_memory: bool) -> list[CachedScene]:
        first = TRAIN_FIRST_SEED if stage == "train" else VALIDATION_FIRST_SEED
        num_videos, num_pictures, num_beside = self.num_scenes[stage]
        plan = plan_scenes(num_videos, num_pictures, first, num_beside)
        return cached_features(self.folder, self.vision, plan, num_workers=self.num_workers, in_memory=in_memory)

    def sample_features(self, num_scenes: int = 300) -> Tensor:
        """Raw features `[F, P, D]` of the first training scenes, for the model's standardisation."""
        scenes = self.texts["train"].scenes[:num_scenes]
        return torch.from_numpy(np.concatenate([cached.features for cached in scenes]))

    def _loader(self, stage: str, num_batches: int) -> DataLoader[Sample]:
        texts = self.texts[stage]
        emphasis = self.emphasis if stage == "train" else None
        batches = WorldBatches(texts, self.sizes, num_batches, self.seed, self.picture_share, emphasis)
        batches.sampler = batches if stage == "train" else None  # validation is the same in every epoch
        return DataLoader(texts, batch_sampler=batches, collate_fn=collate)

    def train_dataloader(self) -> DataLoader[Sample]:
        return self._loader("train", self.steps_per_epoch)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._loader("validate", 20)

    def test_dataloader(self) -> DataLoader[Sample]:
        """The validation scenes again; fresh ones are asked about by `benchmarks/tiny_quality.py`."""
        return self._loader("validate", 20)

    def predict_dataloader(self) -> DataLoader[Sample]:
        return self._loader("validate", 20)
