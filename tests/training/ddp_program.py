"""Run by test_distributed.py, twice over by Lightning: one step of two processes, of which only one has media.

python tests/training/ddp_program.py LANGUAGE_MODEL_FOLDER OUT [ddp | one]
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
from videoflamingo.training.batch import Batch, Sample, collate  # noqa: E402
from videoflamingo.training.module import FlamingoTraining  # noqa: E402

import lightning as L  # noqa: E402  isort: skip  (declared above)


class Recording(FlamingoTraining):
    """Keeps the gradients of its only step."""

    def configure_model(self) -> None:
        if self.flamingo is None:
            super().configure_model()
            for part in (self.model.resampler, self.model.blocks, self.model.new_tokens):
                draw_weights(part, torch.Generator().manual_seed(1))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        named = self.model.named_parameters()
        self.gradients = {name: value.grad.clone() for name, value in named if value.grad is not None}


def batches() -> list[Batch]:
    without = [Sample([Text("a plain text", is_answer=True), EndOfChunk()], [], "plain") for _ in range(2)]
    return [collate([sample(0), sample(1)]), collate(without)]


class Batches(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Batch:
        return batches()[index]


def main() -> None:
    folder, out, how = sys.argv[1:]
    L.seed_everything(0)
    module = Recording(replace(TINY_CONFIG, language_model=folder), learning_rate=1e-2, warmup_steps=1,
                       frozen_dtype="float32")  # fmt: skip
    loader = torch.utils.data.DataLoader(Batches(), batch_size=None, shuffle=False)
    trainer = L.Trainer(
        accelerator="cpu", devices=2 if how == "ddp" else 1, strategy="ddp" if how == "ddp" else "auto", max_epochs=1,
        accumulate_grad_batches=1 if how == "ddp" else 2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
    )  # fmt: skip
    trainer.fit(module, loader)
    trained = {name: value.detach() for name, value in module.model.named_parameters() if value.requires_grad}
    torch.save({"gradients": module.gradients, "trained": trained}, f"{out}/{how}{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
