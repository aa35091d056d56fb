"""`videoflamingo fit | validate | test | predict`: LightningCLI over recipes (one YAML, or several composed)."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch

from videoflamingo.errors import UsageError
from videoflamingo.models.vision import VisionConfig
from videoflamingo.pipeline import choose_dtype
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.checkpoint_files import CheckedCheckpointIO
from videoflamingo.training.checkpoints import checkpoint_to_resume
from videoflamingo.training.mixture import Mixture
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.progress import Progress

declare_missing_operators()
import lightning as L  # noqa: E402  (these imports need the declaration above)
from jsonargparse import ArgumentError  # noqa: E402
from lightning.pytorch.callbacks import ProgressBar  # noqa: E402
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI  # noqa: E402

logger = logging.getLogger(__name__)

FALSE_ALARMS = (  # warnings of Lightning and PyTorch about what is meant as it is
    r"LightningCLI's args parameter is intended to run from within Python",  # which it does
    r"Found \d+ module\(s\) in eval mode",  # the frozen ones
    r".*isinstance\(treespec, LeafSpec\)",  # between Lightning and PyTorch
    r"FSDP2-wrapped module .* returned a view tensor",  # which is not changed in place
)
SUBCOMMANDS = ("fit", "validate", "test", "predict")


class RecipeCLI(LightningCLI):
    """LightningCLI with our module, a mixture of datasets by dotted path, and one tower for both.

    Raises:
        UsageError: if arguments or recipe do not fit the signatures.
    """

    def __init__(self, arguments: list[str]) -> None:
        raising = {"exit_on_error": False}
        try:
            super().__init__(
                FlamingoTraining,
                Mixture,
                seed_everything_default=0,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={"prog": "videoflamingo", **raising, **{name: dict(raising) for name in SUBCOMMANDS}},
                load_from_checkpoint_support=False,
                args=arguments,
            )
        except ArgumentError as error:
            raise UsageError(f"videoflamingo {' '.join(arguments)}: {error}") from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Cached features are those of the model's tower."""
        for option in fields(VisionConfig):
            parser.link_arguments(f"model.config.vision.{option.name}", f"data.vision.{option.name}")

    def before_instantiate_classes(self) -> None:
        """Resolve `--ckpt_path auto`; train in float32 on a CPU that is slower in bfloat16 (docs/decisions/0008)."""
        config = self.config[self.subcommand]
        config.ckpt_path = checkpoint_to_resume(config, must_exist=self.subcommand != "fit")
        trainer = config.trainer
        on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())
        if trainer.precision == "bf16-mixed" and on_cpu and choose_dtype("auto", torch.device("cpu")) == torch.float32:
            trainer.precision = "32-true"
            logger.warning("precision bf16-mixed: this CPU is slower in bfloat16; training in 32-true instead")

    def instantiate_trainer(self, **settings: Any) -> L.Trainer:
        """With checkpoints that are checked when they are read, and one line of progress."""
        trainer = self._get(self.config_init, "trainer")
        callbacks, plugins = _listed(trainer.callbacks), _listed(trainer.plugins)
        if trainer.enable_progress_bar is not False and not any(isinstance(one, ProgressBar) for one in callbacks):
            callbacks.append(Progress())
        plugins.append(CheckedCheckpointIO())
        return super().instantiate_trainer(callbacks=callbacks, plugins=plugins, **settings)


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """What the package says of its progress is shown, once, and what Lightning wrongly warns of is not."""
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    handler = _Stderr()
    loggers = {name: logging.getLogger(name) for name in ("videoflamingo", "datamodules")}
    levels = {name: own.level for name, own in loggers.items()}
    for own in loggers.values():
        own.setLevel(logging.INFO if is_first else logging.WARNING)
        own.addHandler(handler)
    try:
        with warnings.catch_warnings():
            for message in FALSE_ALARMS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for name, own in loggers.items():
            own.removeHandler(handler)
            own.setLevel(levels[name])


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what is standard error when a message comes, not when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _listed(values: Any) -> list[Any]:
    """What a recipe may give as one, several or null."""
    if values is None:
        return []
    return list(values) if isinstance(values, (list, tuple)) else [values]


class _Parsed(Exception):
    """Ends a command with what it has parsed or built so far."""


class _ParseOnlyCLI(RecipeCLI):
    def before_instantiate_classes(self) -> None:
        raise _Parsed(self.config)


class _DataOnlyCLI(RecipeCLI):
    def instantiate_trainer(self, **settings: Any) -> L.Trainer:
        raise _Parsed(self.datamodule)


def parse(arguments: list[str]) -> Any:
    """Check a recipe against the real signatures without building anything.

    Args:
        arguments: subcommand and options, such as `["fit", "--config", "recipes/tiny_world.yaml"]`.

    Returns:
        The parsed namespace.

    Raises:
        UsageError: naming the key that does not fit.
    """
    return _ended(_ParseOnlyCLI, arguments)


def datamodule_of(arguments: list[str]) -> Mixture:
    """The datasets of a recipe, without model and trainer.

    Args:
        arguments: the recipe's options, such as `["--config", "recipes/tiny_world.yaml"]`.

    Raises:
        UsageError: naming the key that does not fit.
    """
    mixture: Mixture = _ended(_DataOnlyCLI, ["fit", *arguments])
    return mixture


def _ended(command: type[RecipeCLI], arguments: list[str]) -> Any:
    try:
        command(arguments)
    except _Parsed as parsed:
        return parsed.args[0]
    raise AssertionError("the command went on")


def main(argv: list[str]) -> int:
    """Run one of `SUBCOMMANDS` with its options.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once what there is has been saved.
    """
    try:
        with told_on_stderr():
            RecipeCLI(argv)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning's way out
            raise KeyboardInterrupt from leaving
        raise
    _end_process_group()
    return 0


def _end_process_group() -> None:
    """End gloo's threads, which abort a process that leaves while they run; Lightning ends NCCL's only."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.barrier()  # none leaves while another may still wait for it
        distributed.destroy_process_group()
