"""Signals that ask a run to stop. A handler only notes them; the run stops between two steps, when it has saved."""

import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

EXIT_TERMINATED = 128 + signal.SIGTERM


class StopSignals:
    """Notes SIGTERM, and SIGUSR1, which Slurm sends before a time limit. A second signal ends the process at once.

    `noted` is the signal's number, or 0.
    """

    def __init__(self) -> None:
        self.noted = 0
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Handle the signals from now on, in place of whoever handled them; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _handled():
            previous = signal.signal(number, self._note)
            if previous != self._note:
                self._previous.setdefault(number, previous)

    def restore(self) -> None:
        """Give them back, except those that someone else handles by now."""
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, previous)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.noted = number


def _handled() -> list[int]:
    return [number for name in ("SIGTERM", "SIGUSR1") if (number := getattr(signal, name, None)) is not None]


def runs_in_slurm() -> bool:
    """Whether this process belongs to a Slurm job."""
    return "SLURM_JOB_ID" in os.environ


def requeue_slurm_job() -> int:
    """Ask Slurm to start this job again.

    Returns:
        The exit status to end with: 0, or 1 if Slurm did not take it.
    """
    job = os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        problem = (done.stderr.strip() or f"exit status {done.returncode}") if done.returncode else None
    except OSError as error:
        problem = str(error)
    if problem is None:
        logger.warning("Slurm starts job %s again", job)
        return 0
    logger.error("`scontrol requeue %s` failed: %s; submit the job again, with `--ckpt_path auto`", job, problem)
    return 1
