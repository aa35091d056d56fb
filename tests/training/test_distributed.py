"""Data-parallel training, in processes of its own: Lightning starts them by running the program again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videoflamingo.models.flamingo import FlamingoConfig

PROGRAM = Path(__file__).with_name("ddp_program.py")


@pytest.fixture(scope="module")
def steps(config: FlamingoConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """One step: by two processes, of which the second has no media, and by one process that accumulates both."""
    out = tmp_path_factory.mktemp("ddp")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for how in ("ddp", "one"):
        command = [sys.executable, str(PROGRAM), config.language_model, str(out), how]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: torch.load(path) for path in out.glob("*.pt")}


def test_a_batch_without_media_trains_beside_one_that_has_media(steps: dict[str, dict]) -> None:
    """Data-parallel training waits for a gradient of every trained parameter from every process."""
    assert sorted(steps) == ["ddp0", "ddp1", "one0"]
    for name, gradient in steps["ddp0"]["gradients"].items():
        assert torch.equal(steps["ddp1"]["gradients"][name], gradient), name
    assert any("to_keys" in name for name in steps["ddp1"]["gradients"])


def test_two_processes_take_the_step_that_one_takes_with_both_batches(steps: dict[str, dict]) -> None:
    for kind in ("gradients", "trained"):
        assert steps["one0"][kind].keys() == steps["ddp0"][kind].keys()
        for name, value in steps["one0"][kind].items():
            found = steps["ddp0"][kind][name]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5 * float(value.abs().max()), msg=name)
    assert all(value.abs().max() > 0 for value in steps["one0"]["gradients"].values())
