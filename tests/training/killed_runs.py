"""Real runs of the command line to kill and to start again: a random tiny model, made videos, a recipe.

Used by `test_kills.py` and `benchmarks/kills.py`. `Announce` is a callback that runs in the killed process.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import yaml

from tests.tiny import TINY_CONFIG, tiny_language_model, tiny_tokenizer
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.checkpoint_files import PART, problem_of, step_file, step_files

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)

ROOT = Path(__file__).resolve().parents[2]
NUM_VIDEOS, NUM_FRAMES, SIZE = 6, 12, 64
NUM_TRAIN, NUM_VALIDATE, BATCH_SIZE, NUM_EPOCHS = 20, 4, 2, 3
STEPS_PER_EPOCH = NUM_TRAIN // BATCH_SIZE
NUM_STEPS = NUM_EPOCHS * STEPS_PER_EPOCH
WORDS = ("a red square", "two circles", "rain", "a box moves left", "nothing")


class Announce(L.Callback):
    """Prints a line for what happens, so that whoever reads it can kill the run there."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        print(f"announce step {trainer.global_step}", flush=True)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if not trainer.sanity_checking:
            print(f"announce validation {trainer.global_step}", flush=True)

    def on_validation_end(self, trainer: L.Trainer, *_: object) -> None:
        if not trainer.sanity_checking:
            print(f"announce validated {trainer.global_step}", flush=True)


@dataclass(frozen=True)
class Parts:
    """What all runs share: a folder with a language model, videos and their texts."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Parts":
        """Write them."""
        tiny_language_model(len(tiny_tokenizer())).save_pretrained(folder / "language")
        tiny_tokenizer().save_pretrained(folder / "language")
        for number in range(NUM_VIDEOS):
            _encode(folder / f"{number}.mp4", np.random.default_rng(number))
        for split, count in (("train", NUM_TRAIN), ("validate", NUM_VALIDATE)):
            lines = [
                {"video": f"{index % NUM_VIDEOS}.mp4", "question": f"what is {index}?", "answer": WORDS[index % 5]}
                for index in range(count)
            ]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return cls(folder)


def _encode(path: Path, rng: np.random.Generator) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for _ in range(NUM_FRAMES):
            picture = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Run:
    """A run of `videoflamingo fit` with a recipe of its own.

    Args:
        folder: of its checkpoints and its recipe.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, parts: Parts, **checkpoints: Any) -> "Run":
        """Write the recipe.

        Args:
            checkpoints: arguments of `Checkpoints`.
        """
        folder.mkdir(parents=True)
        blocks = replace(TINY_CONFIG.cross_attention, gate_init=0.5)
        config = replace(TINY_CONFIG, language_model=str(parts.folder / "language"), cross_attention=blocks)
        texts = {
            "class_path": "datamodules.own.OwnTexts",
            "init_args": {
                "path": str(parts.folder / "train.jsonl"),
                "validate": str(parts.folder / "validate.jsonl"),
                "sampling": {"num_frames": 2},
                "mirrored_share": 0.5,
            },
        }
        recipe = {
            "seed_everything": 0,
            "model": {"config": asdict(config), "warmup_steps": 4, "learning_rate": 1e-3, "frozen_dtype": "float32"},
            "data": {"members": {"own": {"texts": texts, "batch_size": BATCH_SIZE}}, "num_workers": 0},
            "trainer": {
                "accelerator": "cpu",
                "precision": "32-true",
                "max_epochs": NUM_EPOCHS,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "logger": False,
                "default_root_dir": str(folder),
                "callbacks": [
                    {"class_path": f"{__name__}.Announce"},
                    {
                        "class_path": "videoflamingo.training.checkpoints.Checkpoints",
                        "init_args": {"folder": str(folder), "every_num_steps": 3, **checkpoints},
                    },
                ],
            },
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return cls(folder)

    @contextmanager
    def started(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """The process of `fit --ckpt_path auto`, its output as one stream of lines; killed at the end."""
        command = [sys.executable, "-m", "videoflamingo", "fit", "--config", str(self.folder / "recipe.yaml")]
        process = subprocess.Popen(
            [*command, "--ckpt_path", "auto"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def finish(self, **environment: str) -> str:
        """Run to the end; what it printed."""
        with self.started(**environment) as process:
            output, _ = process.communicate()
            assert process.returncode == 0, output[-4000:]
        return output

    def stop(self, announced: str, number: int = signal.SIGKILL, **environment: str) -> tuple[int, str]:
        """Send a signal as soon as something is announced; the process's exit status and what it printed."""
        with self.started(**environment) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith(f"announce {announced}"):
                    process.send_signal(number)
                    break
            rest, _ = process.communicate()
        output = "".join(lines) + rest
        assert f"announce {announced}" in output, output[-4000:]
        return process.returncode, output

    @property
    def last(self) -> dict[str, Any]:
        """The checkpoint at the end."""
        path = step_file(self.folder, NUM_STEPS)
        assert problem_of(path) is None, problem_of(path)
        content: dict[str, Any] = torch.load(path, weights_only=True)
        return content

    @property
    def parts_left(self) -> list[Path]:
        """Files that were being written."""
        return sorted(self.folder.rglob(f"*{PART}"))

    @property
    def saved(self) -> list[Path]:
        """Checkpoints, newest first."""
        return step_files(self.folder)


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where two checkpoints differ in weights, optimiser or schedule, bit for bit."""
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            return [f"{place}: keys"]
        return [one for key in expected for one in differences(found[key], expected[key], f"{place}/{key}")]
    if isinstance(expected, list | tuple):
        if len(found) != len(expected):
            return [f"{place}: length"]
        pairs = enumerate(zip(found, expected, strict=True))
        return [one for number, pair in pairs for one in differences(*pair, f"{place}/{number}")]
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(found, expected) else [place]
    return [] if found == expected else [f"{place}: {found!r}, not {expected!r}"]


def training_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What must be equal: everything but where the loops' counters were last restarted."""
    return {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
