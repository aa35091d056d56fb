"""A page that shows, at each validation, what the model says of the same few videos: how it learns, in examples."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from videoflamingo.errors import UsageError
from videoflamingo.prompt import Text
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.answers import cut_before_answer
from videoflamingo.training.batch import Batch
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.objective import answer_place
from videoflamingo.training.predictions_html import Asked, Dataset, Losses, render_page
from videoflamingo.training.shown_texts import ShownMedium, first_texts, shown_media
from videoflamingo.training.step_log import Row, StepLog, replace_file

declare_missing_operators()
import lightning as L  # noqa: E402  (these imports need the declaration above)
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger  # noqa: E402

logger = logging.getLogger(__name__)

COLUMNS = ("prompt", "answer", "truth")
MARKUP = re.compile(r"([^\w\s.,?!'\"-])")  # what may mean something in Markdown or HTML

SHARDED_NOTE = (
    "The model was not asked: its weights are cut among processes, which would wait for each other as their answers "
    "differ in length. Run `videoflamingo predict` with the checkpoint, in one process."
)


class PredictionsPage(L.Callback):
    """At validation, let the model answer the first texts of each dataset, and write `predictions.html`.

    The page holds its pictures, so it can be copied anywhere. What it shows is also in `predictions.jsonl`, from which
    a resumed run goes on; it goes to TensorBoard and Weights & Biases as well, where the trainer has such loggers. With
    several processes, the first one asks the texts of its own share. With sharded weights nobody is asked, and the page
    says so. The sanity check before a new run gives the answers of step 0.

    Args:
        folder: where to.
        num_samples: texts of each dataset.
        every_num_validations: between two times the model is asked.

    Raises:
        UsageError: if a number is out of range, or, when training begins, the folder cannot be written.
    """

    def __init__(self, folder: str, num_samples: int = 8, every_num_validations: int = 1) -> None:
        for name, value in (("num_samples", num_samples), ("every_num_validations", every_num_validations)):
            if value < 1:
                raise UsageError(f"PredictionsPage.{name} is {value}; give 1 or more")
        self.folder = Path(folder).expanduser()
        self.num_samples = num_samples
        self.every_num_validations = every_num_validations
        self._log = StepLog(self.folder / "predictions.jsonl", key=("step", "kind", "name", "number"))
        self._media: dict[tuple[str, int], list[ShownMedium]] = {}  # of each text: dataset, number
        self._num_media: dict[tuple[str, int], int] = {}
        self._num_validations = 0
        self._begun = False
        self._asks = False  # in the validation that is running

    def state_dict(self) -> dict[str, Any]:
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._num_validations = state_dict["num_validations"]

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._asks = trainer.state.fn == "fit" and trainer.is_global_zero
        if not trainer.sanity_checking:
            self._asks &= self._num_validations % self.every_num_validations == 0
            self._num_validations += 1
        self._seen: dict[int, int] = {}  # texts of each loader

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask while the batch is at hand, so that nothing is read twice."""
        seen = self._seen.get(dataloader_idx, 0)
        wanted = self.num_samples - seen
        if not self._asks or wanted <= 0 or not len(batch):
            return
        batch = first_texts(batch, wanted)
        self._seen[dataloader_idx] = seen + len(batch)
        for row, text in enumerate(batch.texts):
            key = batch.names[row], seen + row
            if key not in self._media:
                self._media[key], self._num_media[key] = shown_media(batch, row), len(text.media)
        said = _said(trainer, pl_module, batch)
        self._add(
            {"step": trainer.global_step, "kind": "answer", "number": seen + row, **one} for row, one in enumerate(said)
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._asks:
            return
        known = trainer.callback_metrics
        if not trainer.sanity_checking:  # which sees a part of the split only
            names = [name.removeprefix("val_loss/") for name in known if name.startswith("val_loss/")]
            self._add(
                {
                    "step": trainer.global_step,
                    "kind": "loss",
                    "name": name,
                    "number": 0,
                    "validation": float(known[f"val_loss/{name}"]),
                    "training": float(known[f"loss/{name}"]) if f"loss/{name}" in known else None,
                }
                for name in names
            )
        page = self.page(trainer.global_step, [SHARDED_NOTE] if _is_sharded(pl_module) else [])
        try:
            replace_file(self.folder / "predictions.html", page.encode())
        except OSError as error:
            logger.warning("%s: the page cannot be written (%s); training goes on", self.folder, error)
        tell_loggers(trainer, [row for row in self._log.rows if row["step"] == trainer.global_step], page)

    def page(self, step: int, notes: list[str]) -> str:
        """The page as it is after a step."""
        rows = self._log.rows
        names = dict.fromkeys([*(name for name, _ in self._media), *(row["name"] for row in rows)])
        return render_page([self._dataset(name, rows) for name in names], step, notes)

    def _dataset(self, name: str, rows: list[Row]) -> Dataset:
        own = [row for row in rows if row["name"] == name]
        losses = [Losses(row["step"], row["training"], row["validation"]) for row in own if row["kind"] == "loss"]
        asked = []
        for number in sorted({row["number"] for row in own if row["kind"] == "answer"}):
            said = sorted((row for row in own if row["kind"] == "answer" and row["number"] == number), key=_step)
            last = said[-1]
            answers = [(row["step"], row["answer"]) for row in said if row["answer"] is not None]
            media, count = self._media.get((name, number), []), self._num_media.get((name, number), 0)
            asked.append(Asked(last["place"], last["prompt"], last["truth"], media, answers, count))
        return Dataset(name, asked, sorted(losses, key=lambda one: one.step))

    def _begin(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and not self._begun:
            self._log.begin(trainer.global_step)
        self._begun = True

    def _add(self, rows: Iterable[Row]) -> None:
        try:
            self._log.add(rows)
        except OSError as error:
            logger.warning("%s: cannot be written (%s); training goes on", self._log.path, error)


def _step(row: Row) -> int:
    return int(row["step"])


def _is_sharded(module: L.LightningModule) -> bool:
    return isinstance(module, FlamingoTraining) and module.is_sharded


def _said(trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> list[Row]:
    """`name`, `place`, `prompt`, `truth` and `answer` of each text; no answer (None) where none was asked for."""
    rows: list[Row] = []
    for name, text in zip(batch.names, batch.texts, strict=True):
        segments, truth = cut_before_answer(text.segments) or (text.segments, "")  # a page is shown, not asked
        prompt = "".join(segment.text for segment in segments if isinstance(segment, Text))
        rows.append({"name": name, "place": text.place, "prompt": prompt, "truth": truth, "answer": None})
    if isinstance(module, FlamingoTraining) and not module.is_sharded:
        with trainer.precision_plugin.predict_step_context():
            answers = iter(module.predict_step(batch, 0))
        for row, text in zip(rows, batch.texts, strict=True):
            if answer_place(text.segments) is not None:
                row["answer"] = next(answers)["answer"]
    return rows


def tell_loggers(trainer: L.Trainer, rows: Sequence[Row], page: str) -> None:
    """Give what was answered at a step to TensorBoard and Weights & Biases, where the trainer has them.

    Args:
        rows: of this step.
        page: as HTML.
    """
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] == "answer":
            by_name.setdefault(row["name"], []).append(row)
    for logger_of_trainer in trainer.loggers:
        if isinstance(logger_of_trainer, TensorBoardLogger):
            for name, own in by_name.items():
                logger_of_trainer.experiment.add_text(f"answers/{name}", markdown_table(own), trainer.global_step)
        elif isinstance(logger_of_trainer, WandbLogger):
            import wandb

            logged: dict[str, Any] = {"answers": wandb.Html(page, inject=False)}
            for name, own in by_name.items():
                logged[f"answers/{name}"] = wandb.Table(list(COLUMNS), [[row[key] for key in COLUMNS] for row in own])
            logger_of_trainer.experiment.log({**logged, "trainer/global_step": trainer.global_step})


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, in which nothing of their texts is markup.

    >>> print(markdown_table([{"prompt": "Output:", "answer": "a *b* | c", "truth": "d"}]))
    | prompt | answer | truth |
    | --- | --- | --- |
    | Output\\: | a \\*b\\* \\| c | d |
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        cells = [MARKUP.sub(r"\\\1", " ".join((row[key] or "").split())) for key in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
