"""Few-shot scores of a model in training: what `videoflamingo fewshot` measures, at validation or test of a recipe."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from videoflamingo.errors import UsageError
from videoflamingo.evaluation.asking import Share
from videoflamingo.evaluation.benchmark import Benchmark
from videoflamingo.evaluation.media import small_frames
from videoflamingo.evaluation.protocol import Protocol
from videoflamingo.evaluation.report import write_report
from videoflamingo.evaluation.runner import Run, weights_digest
from videoflamingo.pipeline import VideoFlamingo
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.module import FlamingoTraining

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)

logger = logging.getLogger(__name__)


class FewShotScores(L.Callback):
    """Asks a benchmark at validation and test, and logs `fewshot/NAME/N_shots` for each number of shots.

    Each time has a folder of its own with the files that `videoflamingo fewshot` writes: in training `FOLDER/step-N`,
    else `FOLDER/validate-WEIGHTS` or `FOLDER/test-WEIGHTS`, by the digest of the weights. What was broken off goes on
    there. With several processes each asks a share, so the folder must be the same for all.

    Args:
        benchmark: makes the benchmark when it is first needed; `datamodules.benchmarks.NamedBenchmark`, for instance.
        folder: where to.
        protocol: how it is asked.
        num_workers: processes that read videos, for each process; 0 reads in that one.
        media_gibibytes: bound on what is held of encoded media, for each process.
        every_num_validations: in training, between two times it is asked.

    Raises:
        UsageError: if a number is out of range; at validation, if the data cannot be read or the weights are cut among
            processes.
    """

    def __init__(
        self,
        benchmark: Callable[[], Benchmark],
        folder: str,
        protocol: Protocol | None = None,
        num_workers: int = 1,
        media_gibibytes: float = 1.0,
        every_num_validations: int = 1,
    ) -> None:
        if every_num_validations < 1:
            raise UsageError(f"FewShotScores.every_num_validations is {every_num_validations}; give 1 or more")
        self.benchmark, self.folder = benchmark, Path(folder).expanduser()
        self.protocol = protocol or Protocol()
        self.num_workers, self.media_bytes = num_workers, int(media_gibibytes * 2**30)
        self.every_num_validations = every_num_validations
        self._made: Benchmark | None = None
        self._num_validations = 0

    def state_dict(self) -> dict[str, Any]:
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._num_validations = state_dict["num_validations"]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._num_validations += 1
        if trainer.state.fn != "fit" or self._num_validations % self.every_num_validations == 0:
            self._ask(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ask(trainer, pl_module)

    def _ask(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FlamingoTraining)
        if pl_module.is_sharded:
            raise UsageError(
                "FewShotScores: the weights are cut among processes, which would wait for each other as answers differ "
                "in length; leave it out here, and run `videoflamingo fewshot` with the checkpoint's folder"
            )
        if self._made is None:
            if trainer.is_global_zero:
                self.benchmark()  # what has to be made on disk is made by one process
            trainer.strategy.barrier("videoflamingo few-shot data")
            self._made = self.benchmark()
        model = VideoFlamingo(pl_module.model, str(trainer.default_root_dir))
        name = f"step-{trainer.global_step}"
        if trainer.state.fn is not None and trainer.state.fn != "fit":
            name = f"{trainer.state.fn.value}-{weights_digest(model)[:8]}"  # Lightning counts no steps here
        run = Run(
            model,
            self._made,
            self.protocol,
            self.folder / name,
            share=Share(trainer.global_rank, trainer.world_size),
            num_workers=self.num_workers,
            media_bytes=self.media_bytes,
            settings={"step": trainer.global_step},
        )
        run.ask()
        trainer.strategy.barrier("videoflamingo few-shot answers")
        scores: dict[str, float] = {}
        if trainer.is_global_zero:
            rank_by = self.protocol.rank_by
            summary = write_report(run.folder, self._made, run.description(), run.answered(), small_frames, rank_by)
            for one in summary["scores"]:
                beside = "" if one["condition"] == "real" else f"_{one['condition']}"
                scores[f"fewshot/{self._made.name}/{one['num_shots']}_shots{beside}"] = one["mean"]
            logger.info("few-shot scores: %s", run.folder / "report.html")
        scores = trainer.strategy.broadcast(scores)
        for key, value in scores.items():
            pl_module.log(key, value, rank_zero_only=False, sync_dist=False)
