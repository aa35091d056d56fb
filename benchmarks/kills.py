"""Training runs that are killed at random moments and started again end with the weights of one that was left alone.

    python benchmarks/kills.py [--kills 20] [--seed 0] [--json] [--no-record]

`videoflamingo fit --ckpt_path auto` trains a random tiny model on made videos for 30 steps in three epochs, each with a
validation, and saves after every step, so that kills often hit a save. SIGKILL comes a random time after the first step
that a process took. After each kill the run is started again; a run that ends is compared bit for bit (weights,
optimiser, schedule and the folder `trainable`) with one that nobody killed, and another one begins. Along the way:

    SIGTERM, SIGUSR1     each once: the exit status must be 143 and 0, and the step being taken must be saved
    damaged checkpoint   once, one bit of the newest file is flipped: the one before must be used, with a warning

Recorded: how many kills left a file half written, how many hit a validation, from which steps runs went on. Exit status
1 if anything differs. Appended to benchmarks/results/kills.json.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks._record import append  # noqa: E402
from tests.training.killed_runs import NUM_STEPS, Parts, Run, differences, training_state  # noqa: E402
from videoflamingo.training.checkpoint_files import step_of  # noqa: E402

KILLS_PER_RUN = 8  # about; so long on average does a process live
DAMAGED = "does not have the content that its checksum was made of"


def run(num_kills: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    faults: list[str] = []
    counts = {"half_written": 0, "in_validation": 0, "runs_ended": 0, "damaged_passed_over": 0}
    steps_gone_on_from: list[int] = []
    exit_status: dict[str, int] = {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts = Parts.make(folder / "parts")
        whole = Run.make(folder / "whole", parts, every_num_steps=1)
        training_seconds = _timed(whole)
        expected = training_state(whole.last)
        killed = Run.make(folder / "run0", parts, every_num_steps=1)
        # Signals that end a run kindly come between kills, and once a checkpoint is damaged.
        plan = [signal.SIGKILL] * num_kills
        plan.insert(num_kills // 3, signal.SIGTERM)
        plan.insert(2 * num_kills // 3, signal.SIGUSR1)
        damage_after = num_kills // 2
        done = 0
        while done < len(plan):
            asked = plan[done]
            status, output = _signalled(killed, asked, rng.uniform(0, 2 * training_seconds / KILLS_PER_RUN))
            if status == 0 and "`Trainer.fit` stopped" in output:  # it ended before the signal came
                counts["runs_ended"] += 1
                faults += _compare(killed, expected, whole)
                killed = Run.make(folder / f"run{counts['runs_ended']}", parts, every_num_steps=1)
                continue
            done += 1
            if asked == signal.SIGKILL:
                counts["half_written"] += bool(killed.parts_left)
                last = [line for line in output.splitlines() if line.startswith("announce ")][-1]
                counts["in_validation"] += last.startswith("announce validation ")
            else:
                exit_status[asked.name] = status
                steps = [int(line.split()[-1]) for line in output.splitlines() if line.startswith("announce step")]
                if step_of(killed.saved[0]) < steps[-1]:
                    faults.append(f"{asked.name}: step {steps[-1]} was taken, {killed.saved[0].name} is the newest")
            if killed.saved:
                steps_gone_on_from.append(step_of(killed.saved[0]))
            if done > damage_after and not counts["damaged_passed_over"] and len(killed.saved) > 1:
                counts["damaged_passed_over"] = 1
                faults += _damaged_is_passed_over(killed)
            print(f"{done} of {len(plan)} signals, {time.perf_counter() - started:.0f} s", file=sys.stderr)
        killed.finish()
        counts["runs_ended"] += 1
        faults += _compare(killed, expected, whole)
    if exit_status != {"SIGTERM": 128 + signal.SIGTERM, "SIGUSR1": 0}:
        faults.append(f"exit status {exit_status}")
    return {
        "kills": num_kills,
        "seed": seed,
        "steps_per_run": NUM_STEPS,
        "seconds": round(time.perf_counter() - started, 1),
        **counts,
        "exit_status": exit_status,
        "gone_on_from": steps_gone_on_from,
        "faults": faults,
    }


def _timed(whole: Run) -> float:
    """Seconds from the first step to the end."""
    begun = None
    with whole.started() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if begun is None and line.startswith("announce step"):
                begun = time.perf_counter()
    assert begun is not None
    return time.perf_counter() - begun


def _signalled(killed: Run, number: signal.Signals, seconds: float) -> tuple[int, str]:
    """Send a signal so long after the first step; exit status and output."""
    with killed.started() as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("announce step"):
                time.sleep(seconds)
                process.send_signal(number)
                break
        rest, _ = process.communicate()
    return process.returncode, "".join(lines) + rest


def _damaged_is_passed_over(killed: Run) -> list[str]:
    """Flip a bit of the newest checkpoint, and start."""
    newest, other = killed.saved[:2]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    _, output = _signalled(killed, signal.SIGKILL, 0.0)
    said = [line for line in output.splitlines() if DAMAGED in line]
    right = len(said) == 1 and str(newest) in said[0] and str(other) in said[0]
    return [] if right else [f"the damaged {newest.name} was not passed over for {other.name}: {said}"]


def _compare(killed: Run, expected: dict[str, Any], whole: Run) -> list[str]:
    """How a run that ended differs from the one left alone."""
    faults = [f"{killed.folder.name}: {one} differs" for one in differences(training_state(killed.last), expected)]
    for name in ("config.json", "trainable.safetensors"):
        one, other = (run.folder / "trainable" / name for run in (killed, whole))
        if one.read_bytes() != other.read_bytes():
            faults.append(f"{killed.folder.name}: trainable/{name} differs")
    if killed.parts_left:
        faults.append(f"{killed.folder.name}: left {[str(path) for path in killed.parts_left]}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the record alone")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    arguments = parser.parse_args()
    result = run(arguments.kills, arguments.seed)
    if not arguments.no_record:
        append("kills", result)
    print(json.dumps(result, indent=1))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
