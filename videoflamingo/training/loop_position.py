"""Where Lightning's loops go on after a checkpoint, worked out from the number of optimisation steps alone.

Lightning keeps counters of its own, and goes on from them wrongly in three cases (2.6.6): a validation that was due
after the step is left out; after a checkpoint at an epoch's last step the next epoch is not begun, so that the epoch
after a second restart begins at its first step again; and a run that had reached `max_steps` leaves out its last
validation. So a checkpoint says how many steps were taken and whether a validation is due, and the counters are
written anew when it is loaded.
"""

from dataclasses import asdict, dataclass
from typing import Any

from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)

KEY = "videoflamingo_position"  # in a checkpoint


@dataclass(frozen=True)
class Position:
    """Where a run is between two optimisation steps.

    Args:
        steps_taken: optimisation steps, one for each batch.
        steps_per_epoch: batches of an epoch.
        validation_due: a validation follows these steps and has not ended.
        validates: when validations come, as the Trainer was told.
    """

    steps_taken: int
    steps_per_epoch: int
    validation_due: bool
    validates: str

    @classmethod
    def of(cls, trainer: L.Trainer, validation_due: bool) -> "Position | None":
        """That of a run; None if the length of its epochs is not known."""
        if trainer.num_training_batches == float("inf"):
            return None
        return cls(trainer.global_step, int(trainer.num_training_batches), validation_due, _validates(trainer))

    @property
    def epochs_ended(self) -> int:
        """An epoch whose last validation is due has not ended."""
        return (self.steps_taken - self.validation_due) // self.steps_per_epoch

    @property
    def steps_of_epoch(self) -> int:
        """Taken in the epoch that has not ended."""
        return self.steps_taken - self.epochs_ended * self.steps_per_epoch


def validation_is_due(trainer: L.Trainer) -> bool:
    """Whether Lightning will validate after the step it has just taken."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def write_position(position: Position | None, checkpoint: dict[str, Any]) -> None:
    """Add it to a checkpoint that is being saved."""
    if position is not None:
        checkpoint[KEY] = asdict(position)


def read_position(trainer: L.Trainer, checkpoint: dict[str, Any]) -> Position | None:
    """What a checkpoint that is being loaded says, with its counters written anew; None if it says nothing.

    The epoch's length is the datamodule's, where it has one: a recipe may be changed between two runs.
    """
    if KEY not in checkpoint:
        return None
    stored: dict[str, Any] = dict(checkpoint[KEY])
    length = getattr(getattr(trainer, "datamodule", None), "steps_per_epoch", None)
    if length is not None and trainer.limit_train_batches == 1.0:
        stored["steps_per_epoch"] = length
    by_time = getattr(trainer, "_val_check_time_interval", None) is not None  # its clock begins anew
    stored["validation_due"] &= stored["validates"] == _validates(trainer) and not by_time
    position = Position(**stored)
    _write_counters(position, checkpoint["loops"]["fit_loop"])
    return position


def _validates(trainer: L.Trainer) -> str:
    return f"{trainer.val_check_interval} {trainer.check_val_every_n_epoch} {trainer.limit_val_batches}"


def _write_counters(position: Position, loops: dict[str, Any]) -> None:
    """As Lightning's loops have them in mid-epoch, in the middle of a validation, or between two epochs."""
    taken, epochs, within = position.steps_taken, position.epochs_ended, position.steps_of_epoch
    begun = epochs + (within > 0)
    loops["epoch_progress"] = _twice(_counts(ready=begun, started=begun, processed=epochs, completed=epochs))
    # Before the counters are raised at its end, a batch is where callbacks save; Lightning knows that state.
    behind = 0 if position.validation_due or not within else 1
    loops["epoch_loop.batch_progress"] = {
        "total": _counts(taken, taken, taken, taken - behind),
        "current": _counts(within, within, within, within - behind),
        "is_last_batch": within == position.steps_per_epoch,
    }
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = taken - (within > 0)
    validating = int(position.validation_due)
    loops["epoch_loop.val_loop.batch_progress"] = {
        **_twice(_counts(ready=validating, started=validating)),
        "is_last_batch": False,
    }


def _counts(ready: int = 0, started: int = 0, processed: int = 0, completed: int = 0) -> dict[str, int]:
    return {"ready": ready, "completed": completed, "started": started, "processed": processed}


def _twice(counts: dict[str, int]) -> dict[str, dict[str, int]]:
    return {"total": dict(counts), "current": dict(counts)}


class Resumption:
    """Puts Lightning's loops where a position says, in two steps: when it is loaded, and when training starts.

    Args:
        position: that was loaded.
        trainer: whose loops are meant.
    """

    def __init__(self, position: Position, trainer: L.Trainer) -> None:
        self.position, self.trainer = position, trainer
        self._max_steps = trainer.max_steps
        if position.validation_due and position.steps_taken == trainer.max_steps:
            trainer.fit_loop.epoch_loop.max_steps += 1  # or Lightning would not even begin

    def on_train_start(self) -> None:
        """Between two epochs there is nothing to restart."""
        if not self.position.steps_of_epoch:
            self.trainer.fit_loop.epoch_loop.restarting = False

    def on_validation_start(self) -> None:
        """The last validation was begun; no step follows."""
        self.trainer.fit_loop.epoch_loop.max_steps = self._max_steps
