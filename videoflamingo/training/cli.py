"""`videoflamingo fit | validate | test | predict`: LightningCLI over recipes (one YAML, or several composed)."""

import logging
from typing import Any

import torch

from videoflamingo.errors import UsageError
from videoflamingo.pipeline import choose_dtype
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.module import FlamingoTraining

declare_missing_operators()
from jsonargparse import ArgumentError  # noqa: E402  (these imports need the declaration above)
from lightning import LightningDataModule  # noqa: E402
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI  # noqa: E402

logger = logging.getLogger(__name__)

SUBCOMMANDS = ("fit", "validate", "test", "predict")


class RecipeCLI(LightningCLI):
    """LightningCLI with our module, any datamodule by dotted path, and one tower for both.

    Raises:
        UsageError: if arguments or recipe do not fit the signatures.
    """

    def __init__(self, arguments: list[str]) -> None:
        raising = {"exit_on_error": False}
        try:
            super().__init__(
                FlamingoTraining,
                LightningDataModule,
                subclass_mode_data=True,
                seed_everything_default=0,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={"prog": "videoflamingo", **raising, **{name: dict(raising) for name in SUBCOMMANDS}},
                load_from_checkpoint_support=False,
                args=arguments,
            )
        except ArgumentError as error:
            raise UsageError(f"videoflamingo {' '.join(arguments)}: {error}") from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The datamodule encodes frames with the model's tower."""
        parser.link_arguments("model.config.vision", "data.init_args.vision")

    def before_instantiate_classes(self) -> None:
        """Train in float32 on a CPU that is slower in bfloat16 (docs/decisions/0008)."""
        trainer = self.config[self.subcommand].trainer
        on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())
        if trainer.precision == "bf16-mixed" and on_cpu and choose_dtype("auto", torch.device("cpu")) == torch.float32:
            trainer.precision = "32-true"
            logger.warning("precision bf16-mixed: this CPU is slower in bfloat16; training in 32-true instead")


class _Parsed(Exception):
    """Ends a `_ParseOnlyCLI` with what it parsed."""


class _ParseOnlyCLI(RecipeCLI):
    def before_instantiate_classes(self) -> None:
        raise _Parsed(self.config)


def parse(arguments: list[str]) -> Any:
    """Check a recipe against the real signatures without building anything.

    Args:
        arguments: subcommand and options, such as `["fit", "--config", "recipes/tiny_world.yaml"]`.

    Returns:
        The parsed namespace.

    Raises:
        UsageError: naming the key that does not fit.
    """
    try:
        _ParseOnlyCLI(arguments)
    except _Parsed as parsed:
        return parsed.args[0]
    raise AssertionError("parsing ended without a result")


def main(argv: list[str]) -> int:
    """Run one of `SUBCOMMANDS` with its options."""
    RecipeCLI(argv)
    return 0
