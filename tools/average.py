"""`videoflamingo average`: the weighted average of checkpoints that began as one and were trained on differently."""

import argparse
import json
import math
import sys
from pathlib import Path

import torch

from videoflamingo.errors import UsageError
from videoflamingo.models.checkpoint import average_checkpoints, find_checkpoint

DESCRIPTION = """\
Write the weighted average of checkpoint folders as another one, in float16, such as

  videoflamingo average runs/further/trainable runs/before/trainable --weights 0.65 0.35 --out runs/both

Of a model, and the same trained further on other things, the average often keeps more of both than either
(Wortsman et al. 2022, arXiv:2109.01903); of models that did not begin as one it is worth nothing. Measure it.
Pooled tokens and times of words that only the first one has stay as they are.
"""


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="videoflamingo average",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder, or name of a bundled model")
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="of each, together 1; default: equal ones"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: list[str]) -> int:
    """Run the command.

    Raises:
        UsageError: if the weights are not as many as the checkpoints, or not 1 together.
        ModelError: if a checkpoint cannot be read, or they are not of one architecture.
    """
    options = make_parser().parse_args(argv)
    count = len(options.checkpoints)
    weights = options.weights or [1 / count] * count
    if len(weights) != count or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise UsageError(
            f"--weights {' '.join(f'{weight:g}' for weight in weights)}: {len(weights)} for {count} checkpoints, "
            f"{sum(weights):g} together; give one for each, 1 together"
        )
    folders = [find_checkpoint(name) for name in options.checkpoints]
    average_checkpoints(folders, weights, options.out, torch.float16)
    if options.json:
        print(json.dumps({"out": str(options.out), "weights": dict(zip(options.checkpoints, weights, strict=True))}))
    else:
        parts = " and ".join(f"{weight:g} of {name}" for name, weight in zip(options.checkpoints, weights, strict=True))
        print(f"{options.out}: {parts}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
