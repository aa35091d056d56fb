"""What the command does beyond LightningCLI."""

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from jsonargparse import Namespace

from videoflamingo.training import cli


@pytest.mark.parametrize(
    ("precision", "fastest", "expected"),
    [
        ("bf16-mixed", torch.float32, "32-true"),
        ("bf16-mixed", torch.bfloat16, "bf16-mixed"),
        ("16-mixed", torch.float32, "16-mixed"),
    ],
)
def test_a_cpu_that_is_slower_in_bfloat16_trains_in_float32_and_says_so(
    precision: str,
    fastest: torch.dtype,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cli, "choose_dtype", lambda name, device: fastest)
    trainer = Namespace(accelerator="cpu", precision=precision)
    command = SimpleNamespace(subcommand="fit", config={"fit": Namespace(trainer=trainer)})
    with caplog.at_level(logging.WARNING):
        cli.RecipeCLI.before_instantiate_classes(cast(Any, command))
    assert trainer.precision == expected
    assert ("is slower in bfloat16" in caplog.text) == (precision != expected)


def test_the_command_ends_the_process_group_that_its_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: list[str]) -> None:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)

    monkeypatch.setattr(cli, "RecipeCLI", run)
    try:
        assert cli.main(["validate"]) == 0
        assert not torch.distributed.is_initialized()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
