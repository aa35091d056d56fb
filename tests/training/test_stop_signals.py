"""A signal is noted; the second one ends the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from videoflamingo.training.stop_signals import StopSignals, requeue_slurm_job

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def test_a_signal_is_noted_and_handlers_are_given_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    signals = StopSignals()
    signals.install()
    signals.install()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.noted == signal.SIGUSR1
    signals.restore()
    assert {number: signal.getsignal(number) for number in before} == before


TWICE = """
import os, signal
from videoflamingo.training.stop_signals import StopSignals
StopSignals().install()
os.kill(os.getpid(), signal.SIGTERM)
print("noted", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("still here", flush=True)
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("noted\n", -signal.SIGTERM), done.stderr


def test_a_job_that_slurm_does_not_take_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue_slurm_job() == 1
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'Requeue is disabled' >&2\nexit 1\n")
    scontrol.chmod(0o755)
    assert requeue_slurm_job() == 1
    assert "`scontrol requeue 7` failed: Requeue is disabled; submit the job again" in caplog.text
