"""Training in two processes, started as Lightning starts them: by running the program again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videoflamingo.models.flamingo import FlamingoConfig

RANKS = ("rank0", "rank1")
PROGRAM = Path(__file__).with_name("distributed_program.py")


def run(language_model: str, out: Path, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(PROGRAM), language_model, str(out), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    # Where one process fails, the other is only cut off: what each said last tells which was first.
    said = {rank: [line for line in done.stderr.splitlines() if line.startswith(f"[{rank}]")] for rank in RANKS}
    said["any"] = [
        line for line in done.stderr.splitlines() if not line.startswith(tuple(f"[{rank}]" for rank in RANKS))
    ]
    assert done.returncode == 0, "\n".join(line for lines in said.values() for line in lines[-40:])


@pytest.fixture(scope="module")
def out(config: FlamingoConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 steps of the same mixture: by one process, and by two with DDP and with FSDP2."""
    folder = tmp_path_factory.mktemp("distributed")
    for how in ("one", "ddp", "sharded"):
        run(config.language_model, folder, how)
    return folder


def assert_as_trained(found: Path, expected: Path) -> None:
    left, right = torch.load(found), torch.load(expected)
    assert left["trained"].keys() == right["trained"].keys()
    for name, value in right["trained"].items():
        tolerance = 1e-4 * float(value.abs().max())
        torch.testing.assert_close(left["trained"][name], value, rtol=0, atol=tolerance, msg=name)
    assert len(left["losses"]) == len(right["losses"])
    for own, other in zip(left["losses"], right["losses"], strict=True):
        assert own == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("process", ["ddp0", "ddp1", "sharded0", "sharded1"])
def test_two_processes_train_as_one_does_with_batches_without_media_and_processes_without_texts(
    out: Path, process: str
) -> None:
    assert_as_trained(out / f"{process}.pt", out / "one0.pt")


def test_training_moved_the_weights_by_more_than_the_comparison_allows(out: Path, config: FlamingoConfig) -> None:
    losses = torch.load(out / "one0.pt")["losses"]
    assert len(losses) == 50
    assert losses[-1]["loss/plain"] < 0.9 * losses[0]["loss/plain"]


@pytest.mark.parametrize("how", ["ddp", "sharded"])
def test_one_process_may_be_asked_for_answers_while_the_other_has_nothing_to_answer(out: Path, how: str) -> None:
    answers = torch.load(out / "one0.pt")["answers"]
    assert [one["truth"] for one in answers] == ["a dog", "two cats", "rain"]
    assert torch.load(out / f"{how}0.pt")["answers"] == answers
    assert torch.load(out / f"{how}1.pt")["answers"] == []


@pytest.mark.parametrize("how", ["ddp", "sharded"])
def test_checkpoints_are_the_same_however_many_processes_wrote_them(out: Path, how: str) -> None:
    left, right = (torch.load(out / f"{name}.ckpt", weights_only=False) for name in (how, "one"))
    assert left["state_dict"].keys() == right["state_dict"].keys()
    (own,), (other,) = left["optimizer_states"], right["optimizer_states"]
    assert [group["params"] for group in own["param_groups"]] == [group["params"] for group in other["param_groups"]]
    assert own["state"].keys() == other["state"].keys()
    for number, values in other["state"].items():
        for name, value in values.items():
            found = own["state"][number][name]
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-3 * float(value.abs().max()), msg=name)


def test_a_sharded_run_goes_on_sharded_or_in_one_process(out: Path, config: FlamingoConfig) -> None:
    for how in ("one", "sharded"):
        run(config.language_model, out, how, "56", str(out / "sharded.ckpt"))
    assert len(torch.load(out / "one0-resumed.pt")["losses"]) == 6
    assert_as_trained(out / "sharded0-resumed.pt", out / "one0-resumed.pt")
