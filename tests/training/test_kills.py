"""Runs of the command line that are killed or asked to stop, and started again with `--ckpt_path auto`."""

import random
import signal
import sys
from pathlib import Path

import pytest

from tests.training.killed_runs import NUM_STEPS, Parts, Run, differences, training_state
from videoflamingo.training.checkpoint_files import step_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts.make(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def whole(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was left alone."""
    run = Run.make(tmp_path_factory.mktemp("whole") / "run", parts)
    run.finish()
    return run


def test_a_run_killed_twice_ends_with_the_weights_and_the_optimiser_of_one_left_alone(
    parts: Parts, whole: Run, tmp_path: Path
) -> None:
    run = Run.make(tmp_path / "run", parts)
    first, second = sorted(random.Random(0).sample(range(4, NUM_STEPS - 2), 2))
    for step in (first, second):
        status, _ = run.stop(f"step {step}")
        assert status == -signal.SIGKILL
        assert step_of(run.saved[0]) >= step - 3  # it saves every three steps; `stop` lets it run a little further
    run.finish()
    assert not differences(training_state(run.last), training_state(whole.last))
    assert (run.folder / "trainable" / "trainable.safetensors").read_bytes() == (
        whole.folder / "trainable" / "trainable.safetensors"
    ).read_bytes()


def test_a_run_that_is_asked_to_stop_saves_the_step_it_took_and_goes_on_from_there(
    parts: Parts, whole: Run, tmp_path: Path
) -> None:
    """SIGTERM first; then, in a validation, Slurm's warning before a time limit."""
    run = Run.make(tmp_path / "run", parts)
    status, output = run.stop("step 4", signal.SIGTERM)
    assert status == 128 + signal.SIGTERM, output[-2000:]
    assert "SIGTERM: stopped after" in output
    assert step_of(run.saved[0]) >= 4

    asked = tmp_path / "asked"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "1234", "PATH": f"{scontrol.parent}:/usr/bin:/bin", "SLURM_JOB_NAME": "bash"}
    status, output = run.stop("validation 10", signal.SIGUSR1, **slurm)
    assert status == 0, output[-2000:]
    assert asked.read_text() == "requeue 1234\n"
    assert step_of(run.saved[0]) >= 10

    output = run.finish()
    assert not differences(training_state(run.last), training_state(whole.last))
    if step_of(run.saved[-1]) == 10:  # stopped within the validation, all of which comes again
        assert output.count("announce validated 10") == 1
