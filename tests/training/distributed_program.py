"""Run by test_distributed.py, twice over by Lightning: 50 steps of a mixture in one or two processes.

python tests/training/distributed_program.py LANGUAGE_MODEL_FOLDER OUT one | ddp | sharded [MAX_STEPS [CHECKPOINT]]

The mixture has a dataset of features, one of frames of videos' sizes that differ, and one without media, whose texts
number fewer than processes in some passes, so that a process now and then has none.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.tiny import TINY_CONFIG, draw_weights  # noqa: E402
from tests.training.conftest import sample  # noqa: E402
from videoflamingo.prompt import EndOfChunk, Text  # noqa: E402
from videoflamingo.training.batch import Part, Sample, Step, collate  # noqa: E402
from videoflamingo.training.checkpoint_files import CheckedCheckpointIO  # noqa: E402
from videoflamingo.training.mixture import passes_of  # noqa: E402
from videoflamingo.training.module import FlamingoTraining  # noqa: E402
from videoflamingo.training.sharded import ShardedStrategy  # noqa: E402
from videoflamingo.training.texts import PlannedText  # noqa: E402

import lightning as L  # noqa: E402  isort: skip  (declared above)


BLOCKS = replace(TINY_CONFIG.cross_attention, word_times=True)  # all that a block may have


class Recording(FlamingoTraining):
    """All its weights drawn; keeps losses."""

    def configure_model(self) -> None:
        if self.flamingo is None:
            shards, self._choose_trained = self._choose_trained, self._drawn_and_chosen
            self.choose = shards
            super().configure_model()

    def _drawn_and_chosen(self, flamingo) -> None:
        for part in (flamingo.resampler, flamingo.blocks, flamingo.new_tokens):
            draw_weights(part, torch.Generator().manual_seed(1))
        self.choose(flamingo)


class Losses(L.Callback):
    """Of every step, as logged."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        shown = trainer.callback_metrics
        self.losses.append({name: float(value) for name, value in shown.items() if name.startswith(("loss", "grad"))})


def plain(number: int) -> Sample:
    text = PlannedText([Text(f"a plain text {number}", is_answer=True), EndOfChunk()], [])
    return Sample(text, [], "plain")


class Steps(torch.utils.data.Dataset):
    """The share of one process in step after step, in passes of at most two texts."""

    def __init__(self, rank: int, num_processes: int) -> None:
        self.rank, self.num_processes = rank, num_processes

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> Step:
        members = [
            ("features", 1.0, [sample(7 * index + number) for number in range(5)]),
            ("plain", 0.2, [plain(index + number) for number in range(1 + index % 3)]),
        ]
        if index % 4 == 3:  # a step that has no media at all
            members = members[1:]
        passes = [
            (name, weight, passes_of([(name, one) for one in samples], self.rank, self.num_processes, 2))
            for name, weight, samples in members
        ]
        parts = [
            Part(name, weight, [collate([one for _, one in texts]) for texts in own]) for name, weight, own in passes
        ]
        return Step(index, parts)


class Data(L.LightningDataModule):
    """Steps cut by the Trainer's number of processes."""

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        steps = Steps(self.trainer.global_rank, self.trainer.world_size)
        return torch.utils.data.DataLoader(steps, batch_size=None, shuffle=False, sampler=range(len(steps)))


def main() -> None:
    folder, out, how, *rest = sys.argv[1:]
    L.seed_everything(0)
    module = Recording(
        replace(TINY_CONFIG, language_model=folder, cross_attention=BLOCKS),
        learning_rate=1e-3,
        warmup_steps=1,
        frozen_dtype="float32",
    )
    strategy = {"one": "auto", "ddp": "ddp", "sharded": ShardedStrategy()}[how]
    losses = Losses()
    trainer = L.Trainer(
        accelerator="cpu", devices=1 if how == "one" else 2, strategy=strategy, max_steps=int(rest[0]) if rest else 50,
        logger=False, callbacks=[losses], enable_checkpointing=False, enable_progress_bar=False, log_every_n_steps=1,
        enable_model_summary=False, default_root_dir=out, use_distributed_sampler=False,
        plugins=[CheckedCheckpointIO()],
    )  # fmt: skip
    trainer.fit(module, datamodule=Data(), ckpt_path=rest[1] if len(rest) > 1 else None)
    if len(rest) < 2:
        trainer.save_checkpoint(f"{out}/{how}.ckpt")
    # Ranks are asked for answers of different lengths, and the last for none.
    questions = [sample(number) for number in range(3)]
    own = questions if how == "one" else questions[: 3 * (1 - trainer.global_rank)]
    module.eval()
    with torch.no_grad():
        answers = module.predict_step(collate(own), 0)
    state = module.trainable_state()
    name = f"{how}{trainer.global_rank}" + ("-resumed" if len(rest) > 1 else "")
    torch.save({"losses": losses.losses, "trained": state, "answers": answers}, f"{out}/{name}.pt")
    trainer.strategy.barrier()  # none leaves while another may still gather
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
