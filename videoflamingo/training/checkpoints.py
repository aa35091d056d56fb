"""When a run is saved, and how it goes on: after a kill from the last save, after a signal with the very next step."""

import logging
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import torch

from videoflamingo.errors import UsageError
from videoflamingo.models.checkpoint import write_checkpoint
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.checkpoint_files import (
    CheckedCheckpointIO,
    KeptCheckpoints,
    newest_checkpoint,
    step_file,
    step_of,
)
from videoflamingo.training.loop_position import (
    Position,
    Resumption,
    read_position,
    validation_is_due,
    write_position,
)
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.stop_signals import EXIT_TERMINATED, StopSignals, requeue_slurm_job, runs_in_slurm

declare_missing_operators()
import lightning as L  # noqa: E402  (these imports need the declaration above)
from lightning.pytorch.callbacks import Checkpoint  # noqa: E402
from lightning.pytorch.plugins.io import TorchCheckpointIO  # noqa: E402

logger = logging.getLogger(__name__)

AUTO = "auto"  # as --ckpt_path
SECONDS_PER_MINUTE = 60
TIME_TO_SAVE = 1  # what processes agree on after a step: nothing, this, or a signal's number, which is larger


class Checkpoints(Checkpoint):
    """Saves a run between optimisation steps, such that it goes on bit for bit.

    Into `folder/step-00000100.ckpt`: every so many steps and minutes, at the end, when the process is asked to stop
    (SIGTERM, SIGUSR1, Ctrl-C) and after an error in a run of one process. Beside it, the small folder
    `folder/trainable` that `videoflamingo ask --model` reads. docs/resuming.md tells the whole story.

    Args:
        folder: of this run only; shared by all machines of the run.
        every_num_steps: optimisation steps between two saves; None for none by steps.
        every_minutes: time between two saves; None for none by time.
        keep: the newest so many whole checkpoints stay.
        save_trainable: whether to write `folder/trainable`.
        requeue: whether SIGUSR1 makes Slurm start the job again.

    Raises:
        UsageError: if a number is out of range.
    """

    def __init__(
        self,
        folder: str,
        every_num_steps: int | None = 500,
        every_minutes: float | None = 15,
        keep: int = 2,
        save_trainable: bool = True,
        requeue: bool = True,
    ) -> None:
        for name, value, wrong in (
            ("every_num_steps", every_num_steps, every_num_steps is not None and every_num_steps < 1),
            ("every_minutes", every_minutes, every_minutes is not None and not every_minutes > 0),
            ("keep", keep, keep < 1),
        ):
            if wrong:
                remedy = "a number above 0" if name == "every_minutes" else "1 or more"
                raise UsageError(f"Checkpoints.{name} is {value}; give {remedy}")
        self.folder = Path(folder).expanduser()
        self.every_num_steps = every_num_steps
        self.every_minutes = every_minutes
        self.save_trainable = save_trainable
        self.requeue = requeue
        self._kept = KeptCheckpoints(self.folder, keep)
        self._signals = StopSignals()
        self._resumption: Resumption | None = None
        self._saved: tuple[int, bool] | None = None  # steps taken, validation due; None until training starts
        self._saved_at = time.monotonic()
        self._ended_step = 0  # the last one whose on_train_batch_end was reached
        self._validation_due = False  # after it

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read and write through checked files."""
        if isinstance(trainer.strategy.checkpoint_io, TorchCheckpointIO):
            trainer.strategy.checkpoint_io = CheckedCheckpointIO()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        write_position(Position.of(trainer, self._is_validation_due(trainer)), checkpoint)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit" and (position := read_position(trainer, checkpoint)) is not None:
            self._resumption = Resumption(position, trainer)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._signals.install()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on there is something to lose."""
        self._signals.install()  # in place of Lightning's, which save in the middle of a step
        self._ended_step, self._validation_due = trainer.global_step, False
        if self._resumption is not None:
            self._resumption.on_train_start()
            self._validation_due = self._resumption.position.validation_due
        self._saved = (trainer.global_step, self._validation_due)
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            self._kept.begin(trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Save if it is time, and stop if a signal came."""
        self._ended_step, self._validation_due = trainer.global_step, validation_is_due(trainer)
        asked = self._agreed(trainer)
        if asked > TIME_TO_SAVE:
            self._stop(trainer, pl_module, asked)
        if asked or (self.every_num_steps is not None and trainer.global_step % self.every_num_steps == 0):
            self._try_to_save(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._resumption is not None:
            self._resumption.on_validation_start()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """A validation may be long, and who sent a signal may not wait; the run then goes on with all of it."""
        if trainer.world_size == 1 and self._signals.noted and self._saved is not None:
            self._stop(trainer, pl_module, self._signals.noted)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validation_due = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last save.

        Raises:
            OSError: if it cannot be written.
        """
        self._validation_due = False
        if self._saved != (trainer.global_step, False):
            failure = self._save(trainer, pl_module)
            if failure is not None:
                raise failure
        self._signals.restore()
        self._saved = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keep what was done since the last save, where one process can tell that its state is whole."""
        whole = trainer.world_size == 1 and not getattr(pl_module, "updating", False)
        if whole and self._saved not in (None, (trainer.global_step, self._is_validation_due(trainer))):
            try:
                self._try_to_save(trainer, pl_module)
            except Exception:  # the first error must be seen, such as that the GPU is gone
                logger.warning("the state after the error could not be saved", exc_info=True)
        self._signals.restore()

    def _is_validation_due(self, trainer: L.Trainer) -> bool:
        return self._validation_due if trainer.global_step == self._ended_step else validation_is_due(trainer)

    def _agreed(self, trainer: L.Trainer) -> int:
        """What is asked for after this step: the largest number of any process."""
        asked = self._signals.noted or int(self._is_time())
        if trainer.world_size > 1:
            number = torch.tensor(float(asked), device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(number, reduce_op="max"))
        return asked

    def _is_time(self) -> bool:
        minutes = self.every_minutes
        return minutes is not None and time.monotonic() - self._saved_at >= minutes * SECONDS_PER_MINUTE

    def _stop(self, trainer: L.Trainer, pl_module: L.LightningModule, number: int) -> NoReturn:
        """Save, and end the process; the program's own clean-up runs.

        Raises:
            SystemExit: always. 143 after SIGTERM; after SIGUSR1 0, or 1 if Slurm does not start the job again.
        """
        self._try_to_save(trainer, pl_module)
        name = signal.Signals(number).name
        logger.warning("%s: stopped after %d steps; go on with `--ckpt_path auto`", name, trainer.global_step)
        if number == signal.SIGTERM:
            raise SystemExit(EXIT_TERMINATED)
        requeued = trainer.is_global_zero and self.requeue and runs_in_slurm()
        raise SystemExit(requeue_slurm_job() if requeued else 0)

    def _try_to_save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A disk that is full now may not be so later; the last checkpoint is still there."""
        failure = self._save(trainer, pl_module)
        if failure is not None and trainer.is_global_zero:
            logger.warning(
                "step %d could not be saved in %s: %s. Training goes on; earlier checkpoints are untouched. Make room",
                *(trainer.global_step, self.folder, failure),
            )

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> OSError | None:
        """Save on all processes together.

        Returns:
            What went wrong while writing, on every process if on one.
        """
        path = step_file(self.folder, trainer.global_step)
        position = (trainer.global_step, self._is_validation_due(trainer))
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
        failure: OSError | None = None
        try:
            trainer.strategy.save_checkpoint(checkpoint, path)
            self._write_trainable(trainer, pl_module)
            if trainer.is_global_zero:
                self._kept.added(path)
        except OSError as error:
            failure = error
        if trainer.world_size > 1 and not trainer.strategy.reduce_boolean_decision(failure is None, all=True):
            failure = failure or OSError(f"process 0 could not write {path}")
        self._saved_at = time.monotonic()
        if failure is None:
            self._saved = position
        return failure

    def _write_trainable(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.save_trainable and isinstance(pl_module, FlamingoTraining):
            state = pl_module.trainable_state()  # all processes take part
            if trainer.is_global_zero:
                write_checkpoint(pl_module.config, state, self.folder / "trainable", torch.float16)


def checkpoint_to_resume(config: Any, *, must_exist: bool = False) -> str | None:
    """What `--ckpt_path` means: the newest whole checkpoint of the recipe for `auto`, else what was given.

    Args:
        config: a subcommand's parsed namespace, before classes are instantiated.
        must_exist: whether `auto` without a checkpoint is an error (there is nothing to validate or test) or a new run.

    Raises:
        UsageError: if `auto` is given and the recipe has no `Checkpoints`, or nothing is there that must be.
    """
    given: str | None = config.get("ckpt_path")
    if given != AUTO:
        return given
    folders = list(_folders_in(config.trainer.callbacks))
    if not folders:
        name = f"{Checkpoints.__module__}.{Checkpoints.__qualname__}"
        raise UsageError(
            f"--ckpt_path auto: trainer.callbacks has no {name}, so it is not known where checkpoints are; "
            f"add {{class_path: {name}, init_args: {{folder: runs/NAME}}}}, or give the path of a checkpoint"
        )
    found = [path for folder in folders if (path := newest_checkpoint(folder)) is not None]
    if found:
        return str(max(found, key=step_of))
    where = " and ".join(map(str, folders))
    if must_exist:
        raise UsageError(f"--ckpt_path auto: there is no whole checkpoint in {where}; train first, or give a path")
    logger.info("--ckpt_path auto: no checkpoint in %s; training begins", where)
    return None


def _folders_in(callbacks: Any) -> Iterable[Path]:
    for one in callbacks if isinstance(callbacks, list) else [callbacks]:
        if str(getattr(one, "class_path", "")).rpartition(".")[2] == Checkpoints.__name__:
            yield Path(one.init_args.folder).expanduser()
