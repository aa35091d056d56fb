"""A run of a real Trainer over tiny real videos, for what is shown of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import TINY_CONFIG
from tests.training.videos import write_video
from videoflamingo.prompt import PromptTemplate
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.mixture import Member, Mixture
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.texts import Draw, PlannedText, Split, Texts
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

declare_missing_operators()
import lightning as L  # noqa: E402

WORDS = ("a dog", "two cats", "rain", "a red car moves left")
NUM_FRAMES = 3


@dataclass
class Videos(Texts):
    """Captions of videos in a folder, made unless `make` is false; `words` are what they say."""

    folder: Path
    words: tuple[str, ...] = WORDS
    changes: dict[str, Any] = field(default_factory=dict)
    make: bool = True

    def __post_init__(self) -> None:
        self.files = [self.folder / f"{number}.mp4" for number in range(len(self.words))]
        if self.make:
            self.folder.mkdir(parents=True, exist_ok=True)
            for number, file in enumerate(self.files):
                write_video(file, first=20 * number)

    def size(self, split: Split) -> int:
        return 0 if split == "test" else len(self.words)

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        request = MediumRequest(str(self.files[index]), Sampling(num_frames=NUM_FRAMES), **self.changes)
        segments = PromptTemplate().ask(None, self.words[index])
        return PlannedText(segments, [request], place=f"{self.folder.name}.jsonl:{index + 1}")


def mixture(members: dict[str, Texts], batch_size: int = 2, **settings: Any) -> Mixture:
    """Read in this process."""
    texts = {name: Member(own, batch_size) for name, own in members.items()}
    return Mixture(texts, TINY_CONFIG.vision, num_workers=0, **settings)


def trainer(folder: Path, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """On the CPU; quiet but for the callbacks."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpoints = {"enable_checkpointing": False}
    fixed = {"accelerator": "cpu", "default_root_dir": folder, "callbacks": list(callbacks)}
    return L.Trainer(**{**fixed, **quiet, **checkpoints, **settings})


def fit(
    module: FlamingoTraining,
    data: Mixture,
    folder: Path,
    *callbacks: L.Callback,
    ckpt: Path | None = None,
    **settings: Any,
) -> L.Trainer:
    """Train for 4 steps, validating after every second; returns the Trainer when it has ended."""
    own = trainer(
        folder, *callbacks, **{"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None, **settings}
    )
    own.fit(module, datamodule=data, ckpt_path=ckpt)
    return own
